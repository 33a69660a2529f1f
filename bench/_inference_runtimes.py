"""What `inference.py` holds a program against: each runtime in every way that might be its fastest."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, TypeAlias

import numpy as np
import onnx
import openvino
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.exporting import onnx as onnx_runtime
from prunus.exporting import to_onnx

Call: TypeAlias = Callable[[], Any]
# (model, batch, threads) -> what is timed; `as_tensor` reads what it returns
Way: TypeAlias = Callable[[nn.Module, Tensor, int], Call]


def as_tensor(value: Any) -> Tensor:
    """Return the output of a call as a tensor of its own memory."""
    if isinstance(value, Tensor):
        return value.clone()
    array = value if isinstance(value, np.ndarray) else value[0]
    return torch.from_numpy(np.array(array))


def plain(model: nn.Module, batch: Tensor, threads: int) -> Call:
    """Run the model as it is."""
    return lambda: model(batch)


def channels_last(model: nn.Module, batch: Tensor, threads: int) -> Call:
    """Run the model with weights and images in the layout that convolutions on CPUs may prefer."""
    if batch.dim() != 4:
        raise ValueError("only images have channels")
    images = batch.to(memory_format=torch.channels_last)
    changed = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return lambda: changed(images)


def compiled(options: Mapping[str, Any]) -> Way:
    """Compile with Inductor."""

    def build(model: nn.Module, batch: Tensor, threads: int) -> Call:
        def forward(images: Tensor) -> Any:
            return model(images)

        # Dynamo keeps what it compiles with the code it compiles, and asks all of that at every call whether it fits:
        # code of its own keeps other models and settings out.
        own = FunctionType(forward.__code__.replace(), forward.__globals__, closure=forward.__closure__)
        fast = torch.compile(own, fullgraph=True, dynamic=False, options=dict(options))
        return lambda: fast(batch)

    return build


@functools.lru_cache(maxsize=1)
def translated(model: nn.Module, shape: torch.Size) -> bytes:
    """Return a model in ONNX for one batch size: a runtime plans better when it knows all shapes."""
    data, _ = to_onnx(model, torch.zeros(2, *shape[1:]))
    document = onnx.load_from_string(data)
    for entry in (*document.graph.input, *document.graph.output):
        entry.type.tensor_type.shape.dim[0].dim_value = shape[0]
    fixed: bytes = document.SerializeToString()
    return fixed


def ort_run(model: nn.Module, batch: Tensor, threads: int) -> Call:
    """Run ONNX Runtime on an array that is there already."""
    return onnx_runtime.call(onnx_runtime.session(translated(model, batch.shape), threads), (batch,), {})


def ort_bound(model: nn.Module, batch: Tensor, threads: int) -> Call:
    """Run ONNX Runtime between two tensors that are bound once."""
    session = onnx_runtime.session(translated(model, batch.shape), threads)
    output = torch.empty_like(model(batch))
    binding = session.io_binding()
    (given,), (found,) = session.get_inputs(), session.get_outputs()
    for bind, entry, tensor in ((binding.bind_input, given, batch), (binding.bind_output, found, output)):
        bind(entry.name, "cpu", 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
    # Past the wrapper in Python, which does nothing for a binding but cost a microsecond.
    run, inner = session._sess.run_with_iobinding, binding._iobinding

    def call() -> Tensor:
        run(inner, None)
        return output

    call.kept = session, binding, batch  # type: ignore[attr-defined]
    return call


def openvino_request(model: nn.Module, batch: Tensor, threads: int) -> Any:
    """Return a request of OpenVINO at its settings for latency."""
    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }
    network = core.read_model(translated(model, batch.shape))
    return core.compile_model(network, "CPU", settings).create_infer_request()


def openvino_shared(model: nn.Module, batch: Tensor, threads: int) -> Call:
    """Run a request on an array of ours, and look at its output where it lies."""
    request, array = openvino_request(model, batch, threads), batch.numpy()
    return lambda: request.infer(array, share_inputs=True, share_outputs=True)


def openvino_bound(model: nn.Module, batch: Tensor, threads: int) -> Call:
    """Run a request between two tensors that are set once; starting it and waiting for it takes longer."""
    request = openvino_request(model, batch, threads)
    request.set_input_tensor(openvino.Tensor(batch.numpy(), shared_memory=True))
    return lambda: request.infer(share_inputs=True, share_outputs=True)


def csr_chain(step: Callable[[Tensor, Tensor, Tensor], Tensor], given: Callable[[Tensor], Tensor]) -> Way:
    """Run a chain of linear layers with samples as columns, the weights in PyTorch's CSR, which MKL multiplies.

    Args:
        step: of weight, input and bias as a column.
        given: makes the input's columns of its rows, before it is timed.
    """

    def build(model: nn.Module, batch: Tensor, threads: int) -> Call:
        first, *others = [(sparse(layer.weight), layer.bias.detach()[:, None]) for layer in linear_layers(model)]
        columns = given(batch.flatten(1))

        def call() -> Tensor:
            x = step(first[0], columns, first[1])
            for weight, bias in others:
                x = step(weight, F.relu(x), bias)
            return x.t()

        return call

    return build


def csr_linear(model: nn.Module, batch: Tensor, threads: int) -> Call:
    """Run a chain of linear layers as the model does, the weights in PyTorch's CSR."""
    first, *others = [(sparse(layer.weight), layer.bias.detach()) for layer in linear_layers(model)]
    rows = batch.flatten(1)

    def call() -> Tensor:
        x = F.linear(rows, *first)
        for weight, bias in others:
            x = F.linear(F.relu(x), weight, bias)
        return x

    return call


def sparse(weight: Tensor) -> Tensor:
    """Return a weight in CSR, without PyTorch's remark that this is in beta."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return weight.detach().to_sparse_csr()


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    """Return the layers of a network of linear layers with ReLU between them.

    Raises:
        ValueError: it has others.
    """
    found = [module for module in model.modules() if not list(module.children())]
    layers = [module for module in found if isinstance(module, nn.Linear)]
    if len(layers) < len(found):
        raise ValueError("it has other layers than linear ones")
    return layers


def _addmm(weight: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, weight, x)


def _matmul(weight: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return (weight @ x).add_(bias)


def _columns(rows: Tensor) -> Tensor:
    return rows.t().contiguous()


CSR = "torch CSR"
FROZEN = {"freezing": True, "max_autotune": True}

RUNTIMES: dict[str, dict[str, Way]] = {
    "torch eager": {"plain": plain, "channels last": channels_last},
    "torch.compile": {
        "default": compiled({}),
        "frozen, autotuned": compiled(FROZEN),
    },
    "onnxruntime": {"run": ort_run, "bound": ort_bound},
    "openvino": {"shared": openvino_shared, "bound": openvino_bound},
    CSR: {
        "addmm": csr_chain(_addmm, Tensor.t),
        "matmul": csr_chain(_matmul, Tensor.t),
        "addmm, columns ready": csr_chain(_addmm, _columns),
        "matmul, columns ready": csr_chain(_matmul, _columns),
        "F.linear": csr_linear,
    },
}
