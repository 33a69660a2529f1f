"""Run a phase in this process, or in one new process per device."""

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

# How long a process waits for the others: far longer than saving a state or finding masks takes.
_PATIENCE = timedelta(minutes=5)
_GRACE_SECONDS = 3.0


class RankError(RuntimeError):
    """One of several training processes failed."""


@dataclass(frozen=True)
class Job:
    """The input of a training process; `settings` are those of the phase, by which its state is recognized."""

    phase: Phase
    model: nn.Module
    data: Dataset
    masks: Masks | None
    settings: Mapping[str, Any]


def launch(job: Job, accelerator: str) -> None:
    """Train a phase to its end; the result is in its state file, and the job's model is not changed.

    Raises:
        DivergedError: a loss or weight became NaN or infinite.
        RankError: one of several processes failed; all were stopped.
        TypeError: the model can't be sent to another process.
        ValueError: there are not enough devices.
    """
    if job.phase.devices == 1:
        lightning = require("lightning_fabric", "training")
        work(lightning.Fabric(accelerator=accelerator, devices=1), replace(job, model=copy_model(job.model)))
    else:
        _run_processes(_packed(job), _kind_of_devices(accelerator, job.phase.devices), job.phase.devices)


def work(fabric: Fabric, job: Job) -> None:
    """Run a job in one of its processes; the first one writes the records and the state."""
    state = load_state(job.phase.state_path, job.settings)
    loop = Loop(fabric, job.model, job.data, job.phase, job.masks, state)
    if not fabric.is_global_zero:
        for _ in loop.epochs(advance=lambda: None):
            pass
        return
    with Journal(job.phase, loop.history, loop.steps_per_epoch) as journal:
        for record in loop.epochs(journal.advance):
            journal.finish(record)  # before the state, so that the journal is complete if the state is
            save_state(job.phase.state_path, loop.state(), job.settings)


def _kind_of_devices(accelerator: str, devices: int) -> str:
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if accelerator not in ("auto", "cuda", "gpu"):
        raise ValueError(f"training on several devices takes accelerator 'cpu', 'cuda' or 'auto', got {accelerator!r}")
    if (num_gpus := torch.cuda.device_count()) < devices:
        raise ValueError(
            f"devices is {devices}, but there are {num_gpus} GPUs; give accelerator 'cpu' or fewer devices"
        )
    return "cuda"


def _packed(job: Job) -> bytes:
    """Return the job as bytes for our own processes, without the test split.

    multiprocessing would send the tensors through shared memory, of which containers have little, and open a file for
    each.
    """
    data = replace(job.data, test=job.data.test.take(torch.arange(0)))
    masks = job.masks.to("cpu") if job.masks is not None else None
    try:
        return pickle.dumps(replace(job, model=copy_model(job.model).cpu(), data=data, masks=masks))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"devices={job.phase.devices} trains in separate processes, and the model can't be sent to them: "
            f"{error}; define its classes and functions at the top level of a module, or train with devices=1"
        ) from error


def _run_processes(packed: bytes, kind: str, devices: int) -> None:
    threads = max(1, torch.get_num_threads() // devices)
    # spawn: a process forked from one that has used several threads hangs when it uses threads itself
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
            "the finished epochs are kept, so start again to continue"
        ) from error
    finally:
        for process in context.processes:
            process.join(_GRACE_SECONDS)  # it also received ctrl-C, and restores the terminal
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
        raise SystemExit("the process that started the training has ended")
    torch.set_num_threads(threads)
    fabric = _join_others(rank, kind, devices, port)
    try:
        work(fabric, pickle.loads(packed))  # bytes that the parent process sent through a pipe
    except DivergedError as error:  # all processes raise it together, so none waits for the others
        if rank == 0:
            diverged.put(error)
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # otherwise torch ends the process with success
    fabric.barrier()
    torch.distributed.destroy_process_group()  # otherwise its threads abort the process at its end


def _join_others(rank: int, kind: str, devices: int, port: int) -> Fabric:
    """Connect this process with the others, by environment variables that Fabric reads."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), NODE_RANK="0", LOCAL_RANK=str(rank), WORLD_SIZE=str(devices)
    )
    purpose = "training on several devices"
    lightning = require("lightning_fabric", purpose)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it logs a greeting in every process
    environment = require("lightning_fabric.plugins.environments", purpose).LightningEnvironment()
    strategy = require("lightning_fabric.strategies", purpose).DDPStrategy(timeout=_PATIENCE)
    fabric: Fabric = lightning.Fabric(accelerator=kind, devices=devices, strategy=strategy, plugins=[environment])
    fabric.launch()
    return fabric
