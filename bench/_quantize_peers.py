"""Models quantised by other tools, with the same samples: NNCF, ONNX Runtime's own quantiser, and torchao's pt2e."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from prunus.exporting import to_onnx

# What a quantised model computes for a batch.
Run = Callable[[Tensor], Tensor]
HINTS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def in_openvino(model: Any) -> Run:
    """Return a model of OpenVINO, compiled for one thread, as a function."""
    import openvino

    compiled = openvino.Core().compile_model(model, "CPU", HINTS)
    return lambda images: torch.from_numpy(compiled(images.numpy())[0].copy())


def read_openvino(data: bytes) -> Any:
    """Return a file of ONNX as a model of OpenVINO."""
    import openvino

    return openvino.Core().read_model(data)


def in_onnx_runtime(data: bytes) -> Run:
    """Return a file of ONNX in ONNX Runtime, on one thread, as a function."""
    from prunus.exporting import onnx

    running = onnx.session(data, 1)
    return lambda images: onnx.outputs(running, [images], {})[0]


def nncf(model: nn.Module, samples: list[Tensor]) -> Run:
    """Quantise by NNCF's `quantize` with its defaults (bias correction, smooth quantisation), for OpenVINO."""
    import nncf

    data, _ = to_onnx(model, samples[0])
    images = [image[None].numpy() for batch in samples for image in batch]
    source = read_openvino(data)
    return in_openvino(nncf.quantize(source, nncf.Dataset(images), subset_size=len(images)))


class _Reader:
    def __init__(self, samples: list[Tensor], name: str) -> None:
        self._left = iter([{name: batch.numpy()} for batch in samples])

    def get_next(self) -> dict[str, numpy.ndarray[Any, Any]] | None:
        return next(self._left, None)


def onnx_runtime_static(model: nn.Module, samples: list[Tensor]) -> Run:
    """Quantise by ONNX Runtime's `quantize_static`: QDQ, weights by channel, least and largest values."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    data, _ = to_onnx(model, samples[0])
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("in.onnx", "ready.onnx", "out.onnx")]
        Path(paths[0]).write_bytes(data)
        quant_pre_process(paths[0], paths[1])
        import onnx

        name = onnx.load(paths[1]).graph.input[0].name
        quantize_static(
            paths[1],
            paths[2],
            _Reader(samples, name),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return in_onnx_runtime(Path(paths[2]).read_bytes())


def torchao(model: nn.Module, samples: list[Tensor]) -> Run:
    """Quantise by torchao's pt2e with its quantiser for x86; run as its graph says, in PyTorch."""
    from torchao.quantization.pt2e import allow_exported_model_train_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    batch = torch.export.Dim.DYNAMIC
    program = torch.export.export(model.eval(), (samples[0],), dynamic_shapes=({0: batch},)).module()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(program, quantizer)
    with torch.no_grad():
        for images in samples:
            prepared(images)
        converted = convert_pt2e(prepared)
    allow_exported_model_train_eval(converted)
    return _without_gradients(converted)


def _without_gradients(model: nn.Module) -> Run:
    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            result: Tensor = model(images)
        return result

    return run


PEERS: dict[str, Callable[[nn.Module, list[Tensor]], Run]] = {
    "NNCF, OpenVINO": nncf,
    "ORT quantize_static": onnx_runtime_static,
    "torchao pt2e": torchao,
}


def batches(images: Tensor, size: int = 250) -> Iterator[Tensor]:
    """Yield images in batches."""
    yield from images.split(size)
