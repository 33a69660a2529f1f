"""Where a phase runs: in this process, or in processes of its own, one for each device."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.queues import SimpleQueue
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from prunus.copying import copy_model
from prunus.extras import require
from prunus.lab.data import Dataset
from prunus.lab.train.journal import Journal
from prunus.lab.train.loop import DivergedError, Loop
from prunus.lab.train.phase import Phase
from prunus.lab.train.state import load_state, save_state
from prunus.pruning.masks import Masks

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# How long a process waits for the others before it gives up: far longer than storing a state or choosing masks takes.
_PATIENCE = timedelta(minutes=5)
_GRACE_SECONDS = 3.0


class RankError(RuntimeError):
    """One of the processes that train together failed."""


@dataclass(frozen=True)
class Job:
    """All that a training process needs to know; `settings` are those of the phase, to know its state by."""

    phase: Phase
    model: nn.Module
    data: Dataset
    masks: Masks | None
    settings: Mapping[str, Any]


def launch(job: Job, accelerator: str) -> None:
    """Train a phase to its end; the result lies in its state file, and the job's model stays as it is.

    Raises:
        DivergedError: a loss or weight became NaN or infinite.
        RankError: one of several processes failed; all were ended.
        TypeError: the model can't be sent to another process.
        ValueError: there are not so many devices.
    """
    if job.phase.devices == 1:
        lightning = require("lightning_fabric", "training")
        work(lightning.Fabric(accelerator=accelerator, devices=1), replace(job, model=copy_model(job.model)))
    else:
        _run_processes(_packed(job), _kind_of_devices(accelerator, job.phase.devices), job.phase.devices)


def work(fabric: Fabric, job: Job) -> None:
    """Do one process's part of a job; the first process keeps the records and the state."""
    state = load_state(job.phase.state_path, job.settings)
    loop = Loop(fabric, job.model, job.data, job.phase, job.masks, state)
    if not fabric.is_global_zero:
        for _ in loop.epochs(advance=lambda: None):
            pass
        return
    with Journal(job.phase, loop.history, loop.steps_per_epoch) as journal:
        for record in loop.epochs(journal.advance):
            journal.finish(record)  # before the state: so where that is complete, the journal is
            save_state(job.phase.state_path, loop.state(), job.settings)


def _kind_of_devices(accelerator: str, devices: int) -> str:
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if accelerator not in ("auto", "cuda", "gpu"):
        raise ValueError(f"training on several devices takes accelerator 'cpu', 'cuda' or 'auto', got {accelerator!r}")
    if (found := torch.cuda.device_count()) < devices:
        raise ValueError(f"devices is {devices}, but there are {found} GPUs; give accelerator 'cpu' or fewer devices")
    return "cuda"


def _packed(job: Job) -> bytes:
    """Return the job as bytes for processes of our own, without the test split.

    Left to multiprocessing the tensors would go through shared memory, which containers have little of, with an open
    file for each.
    """
    data = replace(job.data, test=job.data.test.take(torch.arange(0)))
    masks = job.masks.to("cpu") if job.masks is not None else None
    try:
        return pickle.dumps(replace(job, model=copy_model(job.model).cpu(), data=data, masks=masks))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"devices={job.phase.devices} trains in processes of their own, and the model can't be sent to them: "
            f"{error}; define its classes and functions at the top level of a module, or train with devices=1"
        ) from error


def _run_processes(packed: bytes, kind: str, devices: int) -> None:
    threads = max(1, torch.get_num_threads() // devices)
    # spawn: what is forked off a process that has computed with several threads hangs when it does so, too
    diverged: SimpleQueue[DivergedError] = multiprocessing.get_context("spawn").SimpleQueue()
    arguments = (packed, kind, devices, threads, _free_port(), diverged)
    context = start_processes(_work_in_process, arguments, devices, join=False)  # type: ignore[no-untyped-call]
    try:
        while not context.join():
            pass
    except ProcessRaisedException as error:
        reason = error.msg.strip().splitlines()[-1]
        raise RankError(f"process {error.error_index} of {devices} failed: {reason}") from error
    except ProcessExitedException as error:
        cause = error.signal_name or f"exit code {error.exit_code}"
        raise RankError(
            f"process {error.error_index} of {devices} was ended by {cause} (SIGKILL often means that memory ran out); "
            "the finished epochs are kept, so start again to go on"
        ) from error
    finally:
        for process in context.processes:
            process.join(_GRACE_SECONDS)  # ctrl-C went to it, too, and it puts the terminal in order
            process.kill()
            process.join()
    if not diverged.empty():
        raise diverged.get()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _work_in_process(
    rank: int, packed: bytes, kind: str, devices: int, threads: int, port: int, diverged: SimpleQueue[DivergedError]
) -> None:
    parent = multiprocessing.parent_process()
    if parent is None or not parent.is_alive():
        raise SystemExit("the process that started the training is gone")
    torch.set_num_threads(threads)
    fabric = _join_others(rank, kind, devices, port)
    try:
        work(fabric, pickle.loads(packed))  # bytes of the parent process, which came through a pipe
    except DivergedError as error:  # all processes find it together, so none is left waiting
        if rank == 0:
            diverged.put(error)
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # else torch ends the process as if it had done its work
    fabric.barrier()
    torch.distributed.destroy_process_group()  # its threads abort a process that ends before they do


def _join_others(rank: int, kind: str, devices: int, port: int) -> Fabric:
    """Connect this process with the others as Fabric wants it: by environment variables."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), NODE_RANK="0", LOCAL_RANK=str(rank), WORLD_SIZE=str(devices)
    )
    purpose = "training on several devices"
    lightning = require("lightning_fabric", purpose)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it greets from every process
    environment = require("lightning_fabric.plugins.environments", purpose).LightningEnvironment()
    strategy = require("lightning_fabric.strategies", purpose).DDPStrategy(timeout=_PATIENCE)
    fabric: Fabric = lightning.Fabric(accelerator=kind, devices=devices, strategy=strategy, plugins=[environment])
    fabric.launch()
    return fabric
