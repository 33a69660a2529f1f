"""`prunus quantize`: how a model's weights and activations map to 8 bits, from samples without labels."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import prunus
from prunus.cli import calibration, outputs, terminal
from prunus.cli.options import File, Force, Layers, Name
from prunus.cli.subjects import OneModel, Packed


def quantize(
    file: Packed = None,
    /,
    *,
    source: OneModel = OneModel(),
    calibrate: Annotated[str, Parameter(metavar="SAMPLES")],
    out: File,
    ranges: Name = "mse",
    activations: Name = "uint8",
    in_float: Layers = (),
    max_error: Annotated[float, Parameter(metavar="E")] = 0.01,
    samples: Annotated[int, Parameter(metavar="N")] = 256,
    force: Force = False,
) -> None:
    """Find the scales for 8 bits, from samples without labels.

    The scales go to a file beside the model, which stays as it is. 'prunus export --scales' writes both as a file in
    8 bits for ONNX Runtime and OpenVINO.

    For example:
      prunus quantize --model lenet --weights lenet.safetensors \\
          --calibrate mnist --out scales.safetensors
      prunus export --model lenet --weights lenet.safetensors \\
          --scales scales.safetensors --out lenet.onnx
      prunus quantize small.prunus --calibrate images.safetensors \\
          --in-float fc --out scales.safetensors

    Args:
        calibrate: The samples: a data set that 'prunus ls data' lists, whose training images are normalised as
            'prunus run' does; or a .safetensors file with one tensor, or one for each argument of the model's forward.
        out: Where the scales go, a .safetensors file.
        ranges: The range of an activation that 8 bits cover: mse, that of the least squared error; minmax, all that was
            seen; or percentile, without the outermost.
        activations: uint8 with zero points, which CPUs compute fastest, or int8 without, as TensorRT takes them.
        in_float: A layer that stays in float: a name or a pattern. Repeatable.
        max_error: Where the squared error of the outputs, relative to their variance, is larger, the layers that cost
            most stay in float.
        samples: Number of samples; a quarter of them is held out to measure errors on.
    """
    outputs.check_free(force, out)
    if out.suffix != ".safetensors":
        raise ValueError(f"--out must end in .safetensors, as scales are such a file; got {str(out)!r}")
    if source.shape is not None or source.input:
        raise ValueError("--shape and --input are not needed: the samples tell what the model takes; leave them out")
    subject, network = source.load_trained(file)
    for path in (subject.weights, Path(calibrate)):
        if path is not None and out.resolve() == path.resolve():
            raise ValueError(f"{str(out)!r} is read by this command, so it can't be written; give another name")
    batches = calibration.batches(calibrate, samples, next(network.parameters()).detach())
    with calibration.shown() as progress:
        scales = prunus.quantize(
            network,
            batches,
            ranges=ranges,
            activations=activations,  # type: ignore[arg-type]
            in_float=in_float,
            max_error=max_error,
            progress=progress,
        )
    scales.save(out)
    terminal.show(str(scales), "", *_sentences(out, source, file))


def _sentences(out: Path, source: OneModel, file: Path | None) -> Iterator[str]:
    yield f"{str(out)!r} holds the scales; the model is as it was."
    model = source.words() if file is None else [str(file)]
    weights = [] if source.weights is None else ["--weights", str(source.weights)]
    exported = (file or source.weights or out).with_suffix(".onnx")
    words = ["prunus", "export", *model, *weights, "--scales", str(out), "--out", str(exported)]
    yield f"To write it in 8 bits for other runtimes: {shlex.join(words)}"
