"""The peak memory of one forward above what was allocated before it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from prunus.forward import devices_of, run, undisturbed

_CPU = 0  # c10::DeviceType::CPU in the trace


def peak_memory(model: nn.Module, inputs: tuple[Tensor, ...], *, name: str = "model") -> int | None:
    """Return the peak memory of one forward in bytes, above what was allocated before it.

    It counts the memory that PyTorch's allocator gives out during the forward: activations, the output, and workspaces
    of kernels. The model and the inputs are not counted, nor is memory that a library allocates by itself. A first
    forward fills caches. On a CPU the allocations are read from `torch.profiler`, on CUDA from
    `torch.cuda.max_memory_allocated` (whose peak is reset).

    Returns:
        The bytes, or None if they can't be measured: on other devices than CPU and CUDA, or on several.

    Raises:
        ValueError: the model fails on these inputs.
    """
    devices = devices_of(model) | {value.device for value in inputs}
    device = devices.pop()
    if devices or device.type not in ("cpu", "cuda"):
        return None
    with undisturbed(model), torch.no_grad():
        run(name, model, inputs)
        return _cpu_peak(model, inputs) if device.type == "cpu" else _cuda_peak(model, inputs, device)


def _cuda_peak(model: nn.Module, inputs: tuple[Tensor, ...], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    model(*inputs)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _cpu_peak(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with _silence():
        profiler.start()
    try:
        model(*inputs)
    finally:
        with _silence():
            profiler.stop()
    with tempfile.TemporaryDirectory(prefix="prunus-") as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    memory = [event for event in events if event.get("name") == "[memory]" and event["args"]["Device Type"] == _CPU]
    memory.sort(key=lambda event: event["ts"])
    return max(itertools.accumulate((int(event["args"]["Bytes"]) for event in memory), initial=0))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Discard what the profiler's native code writes to stderr when it starts and stops."""
    try:
        stderr = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    sys.stderr.flush()
    try:
        with open(os.devnull, "w", encoding="utf-8") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
