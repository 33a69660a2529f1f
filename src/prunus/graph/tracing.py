"""What surrounds a trace: without torch's noise, and so that the graph says which gradients there are."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from prunus.graph.known_shapes import shapes_known


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Trace with gradients, whatever the caller has switched, and quietly.

    - `torch.inference_mode` is traced as `torch.no_grad`: torch.export leaves no sign of it.
    - What a custom `torch.autograd.Function` switches stays its own affair, as its backward decides on gradients;
      torch.export would take the switch as one for all that follows.
    - To switch autocast off where it is off leaves no region: torch.export loses what is switched within.
    - Fused attention is switched off, as it hides its parts from the graph.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(fused_attention_off())
        stack.enter_context(_quietly())
        stack.enter_context(shapes_known())
        stack.enter_context(_inference_mode_as_no_grad())
        stack.enter_context(_functions_by_themselves())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_autocast_off_only_where_it_is_on())
        stack.enter_context(torch.enable_grad())
        yield


@contextlib.contextmanager
def lines_unread() -> Iterator[None]:
    """Trace without looking up which line of the model calls each operation: a twentieth of the time of `shrink`."""
    before = torch.fx.config.do_not_emit_stack_traces
    torch.fx.config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = before


@contextlib.contextmanager
def fused_attention_off() -> Iterator[None]:
    """Run PyTorch's transformer layers operation by operation, as they are traced."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Drop what torch.export prints and logs: where it fails, the graph read so far; the error holds the reason."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextlib.contextmanager
def _inference_mode_as_no_grad() -> Iterator[None]:
    kind: Any = torch.inference_mode
    enter, leave = kind.__enter__, kind.__exit__

    def enter_no_grad(self: Any) -> None:
        self._before_trace = torch.is_grad_enabled()
        torch.set_grad_enabled(self._before_trace and not self.mode)

    def leave_no_grad(self: Any, *_: Any) -> None:
        torch.set_grad_enabled(self._before_trace)

    kind.__enter__, kind.__exit__ = enter_no_grad, leave_no_grad
    try:
        yield
    finally:
        kind.__enter__, kind.__exit__ = enter, leave


@contextlib.contextmanager
def _autocast_off_only_where_it_is_on() -> Iterator[None]:
    kind: Any = torch.autocast
    enter, leave = kind.__enter__, kind.__exit__

    def enter_if_it_changes(self: Any) -> Any:
        self._same_in_trace = not self._enabled and not torch.is_autocast_enabled(self.device)
        return self if self._same_in_trace else enter(self)

    def leave_if_it_changed(self: Any, *error: Any) -> Any:
        return None if self._same_in_trace else leave(self, *error)

    kind.__enter__, kind.__exit__ = enter_if_it_changes, leave_if_it_changed
    try:
        yield
    finally:
        kind.__enter__, kind.__exit__ = enter, leave


class _Unrecorded(TorchFunctionMode):
    """Hides from the modes below, of which one is the trace's, that gradients are switched."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch._C._set_grad_enabled:
            with torch._C.DisableTorchFunction():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _functions_by_themselves() -> Iterator[None]:
    kind: Any = torch.autograd.Function
    before = vars(kind)["apply"]

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        with _Unrecorded():
            return before.__get__(None, cls)(*args, **kwargs)

    kind.apply = classmethod(apply)
    try:
        yield
    finally:
        kind.apply = before
