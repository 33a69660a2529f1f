"""`prunus search`: the most accurate model within a target, or the smallest or fastest one that keeps a floor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import prunus
from prunus.cli import calibration, outputs, terminal
from prunus.cli.options import File, Folder, Force, Layers, Name, Names
from prunus.cli.subjects import OneModel, Packed

if TYPE_CHECKING:
    from torch import nn

    from prunus.searching import Evaluate, Found

_IN_8_BITS = (".onnx", ".pt2", ".pte")
_FORMATS = (".prunus", *_IN_8_BITS, ".safetensors")


def search(
    file: Packed = None,
    /,
    *,
    source: OneModel = OneModel(),
    calibrate: Annotated[str, Parameter(metavar="SAMPLES")],
    validate: Annotated[str, Parameter(metavar="LABELLED")],
    out: File,
    target: Annotated[str | None, Parameter(metavar="T")] = None,
    floor: Annotated[float | None, Parameter(metavar="A", allow_leading_hyphen=True)] = None,
    minimise: Name = "bytes",
    pattern: Name = "unstructured",
    scopes: Names | None = None,
    include: Layers = (),
    exclude: Layers = (),
    quantize: bool = False,
    scales: File | None = None,
    samples: Annotated[int, Parameter(metavar="N")] = 256,
    minutes: Annotated[float, Parameter(metavar="M")] = 0.0,
    batch: Annotated[int, Parameter(metavar="N")] = 1,
    folder: Folder | None = None,
    force: Force = False,
) -> None:
    """Search for the best model within a target or above an accuracy.

    The most accurate one within a target, or the smallest or fastest one that keeps an accuracy. Models are pruned,
    refitted to samples without labels, made smaller where whole channels went, and brought to 8 bits with --quantize;
    the accuracy on labelled validation data chooses among them.

    For example:
      prunus search --model lenet --weights lenet.safetensors \\
          --calibrate mnist --validate mnist --target '60 kB' --out small.prunus
      prunus search --model lenet --weights lenet.safetensors \\
          --calibrate mnist --validate mnist --pattern channel --quantize \\
          --target '150 us in onnxruntime-int8' --out small.onnx
      prunus search net.prunus --calibrate images.safetensors \\
          --validate labelled.safetensors --pattern channel --folder tried \\
          --floor -0.005 --minimise 'us in openvino' --out small.onnx

    Args:
        calibrate: The samples that models are refitted to: a data set that 'prunus ls data' lists, whose training
            images are normalised as 'prunus run' does; or a .safetensors file with one tensor, or one for each argument
            of the model's forward.
        validate: The data that models are chosen by: a data set, whose validation images are used; or a .safetensors
            file of other samples than --calibrate, with the right classes in a tensor named labels.
        out: Where the model goes; the suffix tells the format: .prunus, .onnx, .pt2, .pte or .safetensors.
        target: What it may cost at most: '200 kB', '2 ms in openvino-int8', '30% MACs', '1.2M parameters'.
        floor: The least accuracy, such as 0.98; below zero it is told by how much less than now, such as -0.005.
        minimise: With --floor, what shall be least: bytes, parameters, MACs, us, or 'us in openvino-int8'.
        pattern: What is removed together; see 'prunus ls patterns'. With options: channel:round_to=8.
        scopes: The spreads over the layers that are tried; see 'prunus ls scopes'. Otherwise least_error,global,erk,
            and for whole channels global,uniform.
        include: Prune only this: a parameter, a module, a pattern such as 'encoder.*', or a class such as Linear.
            Repeatable.
        exclude: Leave this alone, named likewise. Repeatable.
        quantize: Bring the model to 8 bits: for .onnx, .pt2 and .pte, or with --scales.
        scales: Where the scales for 8 bits go, a .safetensors file.
        samples: Number of samples that models are refitted to.
        minutes: Distil each model so long after it was refitted.
        batch: The batch that time is measured with.
        folder: Where each model that was tried is kept, so that a search that was interrupted goes on.
    """
    from prunus.graph.samples import of_size

    outputs.check_free(force, out, *([] if scales is None else [scales]))
    _check_formats(out, scales, quantize=quantize)
    subject, network = source.load_trained(file)
    network.eval()
    read = {path.resolve() for path in (subject.weights, Path(calibrate), Path(validate)) if path is not None}
    for path in (out, *([] if scales is None else [scales])):
        if path.resolve() in read:
            raise ValueError(f"{str(path)!r} is read by this command, so it can't be written; give another name")
    like = next(network.parameters()).detach()
    batches = calibration.batches(calibrate, samples, like)
    evaluate = _accuracy(calibration.labelled(validate, like))
    least = floor + evaluate(network) if floor is not None and floor < 0 else floor
    example = of_size(batches[0], batch)
    with calibration.shown() as progress:
        found = prunus.search(
            network,
            batches,
            evaluate=evaluate,
            target=target,
            floor=least,
            minimise=minimise,
            pattern=pattern,
            scopes=scopes,
            include=include,
            exclude=exclude,
            quantized=quantize,
            minutes=minutes,
            example_inputs=example,
            folder=folder,
            progress=progress,
        )
    if out.suffix == ".prunus":
        prunus.save(found.model, out, example)
    else:
        prunus.export(found.model, out, example, scales=found.scales if out.suffix in _IN_8_BITS else None)
    if scales is not None and found.scales is not None:
        found.scales.save(scales)
    terminal.show(str(found), "", *_sentences(found, out, scales))


def _check_formats(out: Path, scales: Path | None, *, quantize: bool) -> None:
    if out.suffix not in _FORMATS:
        raise ValueError(f"--out must end in one of {', '.join(_FORMATS)}; got {str(out)!r}")
    if scales is not None and not quantize:
        raise ValueError("--scales is for --quantize; give both, or neither")
    if quantize and scales is None and out.suffix not in _IN_8_BITS:
        raise ValueError(
            f"a {out.suffix} file does not hold scales for 8 bits; say where they go with --scales, or write .onnx"
        )


def _accuracy(batches: calibration.Labelled) -> Evaluate:
    import torch

    @torch.no_grad()
    def evaluate(model: nn.Module) -> float:
        right = total = 0
        for inputs, labels in batches:
            outputs = model(**inputs) if isinstance(inputs, dict) else model(inputs)
            right += int((outputs.argmax(1) == labels).sum())
            total += len(labels)
        return right / total

    return evaluate


def _sentences(found: Found, out: Path, scales: Path | None) -> Iterator[str]:
    yield (
        f"{str(out)!r} holds the model: accuracy {found.score:.2%} (before {found.dense_score:.2%}), "
        f"{found.cost:,} {found.unit} (before {found.dense_cost:,}). The accuracy is on the data that it was chosen "
        "by; look at test data once, at the end."
    )
    if scales is not None:
        yield f"{str(scales)!r} holds its scales for 8 bits."
