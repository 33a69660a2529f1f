"""Weights on disk, read into plain state dicts and models; only safetensors files, since those hold no code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from prunus.errors import CheckpointError
from prunus.files import load_tensors, whole_file
from prunus.pruning.masks import Masks, plain_state_dict
from prunus.registry import nearest

# How the files begin that torch.save writes: a zip archive, or a bare pickle of protocol 2 and later.
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds, as a plain model has it.

    Attributes:
        path: the file.
        tensors: name -> tensor, as in a model's `state_dict`.
        header: the text that the file's header carries.
        num_bytes: the file's size.
        num_masks: how many masks of torch.nn.utils.prune were in the file; they are applied, and gone.
    """

    path: Path
    tensors: dict[str, Tensor]
    header: dict[str, str]
    num_bytes: int
    num_masks: int


def read(path: Path | str) -> Checkpoint:
    """Read a safetensors file; one that torch.nn.utils.prune left becomes that of a plain model.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is a pickle, a directory, empty, or holds masks instead of weights.
        ValueError: it is not a safetensors file, or a damaged one.
        OSError: it can't be read.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{str(path)!r} is a directory; give one .safetensors file{_inside(path)}")
    if path.is_file():
        _refuse_pickle(path)
    tensors = load_tensors(path)
    if not tensors:
        raise CheckpointError(f"{str(path)!r} holds no tensors")
    if all(tensor.dtype == torch.bool for tensor in tensors.values()):
        raise CheckpointError(f"{str(path)!r} holds only bool tensors, so masks and no weights; give the model's file")
    with safetensors.safe_open(path, framework="pt") as file:
        header = dict(file.metadata() or {})
    plain = plain_state_dict(tensors)
    return Checkpoint(path, plain, header, path.stat().st_size, num_masks=len(tensors) - len(plain))


def save(path: Path | str, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write tensors with a header's text as it is, whole or not at all; tensors must not share memory."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        safetensors.torch.save_file(contiguous, temporary, dict(header) or None)


def load_into(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Load a checkpoint's weights into a model, in place.

    Where all the file's floating-point tensors have one dtype, the model takes it on, so that what is measured of
    the model is true of the file. A weight that is tied under several names may be in the file under one only.

    Raises:
        CheckpointError: names or shapes do not fit; the model was not changed.
    """
    problems = _problems(model.state_dict(), checkpoint.tensors)
    if problems:
        raise CheckpointError(
            f"{str(checkpoint.path)!r} does not fit {type(model).__name__}: {'; '.join(problems)}; "
            "is it of another model, or one made with other arguments?"
        )
    dtypes = {tensor.dtype for tensor in checkpoint.tensors.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        model.to(dtypes.pop())
    model.load_state_dict(checkpoint.tensors, strict=False)


def as_module(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return a module that does nothing but hold the given floating-point tensors under their names.

    It stands in for a model whose code is not at hand: what looks only at weights, such as the criterion
    ``"magnitude"``, needs no more. Names with dots become modules in modules, so that patterns over them work.

    Raises:
        CheckpointError: the names can't be those of one module.
    """
    root = nn.Module()
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    for name, tensor in floating.items():
        holder = root
        *parents, attribute = name.split(".")
        for parent in parents:
            # entered by hand: names that are Module's own attributes, such as "train", are fine here
            holder = holder._modules.setdefault(parent, nn.Module())  # type: ignore[assignment]
        holder._parameters[attribute] = nn.Parameter(tensor, requires_grad=False)
    if dict(root.named_parameters(remove_duplicate=False)).keys() != floating.keys():
        raise CheckpointError("the names of the tensors can't be those of one module; give the model's own code")
    return root


def apply_masks(masks: Masks, tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    """Set the pruned weights of a state dict to zero, in place; everything else stays as it is, to the bit.

    Args:
        masks: of the model's parameters.
        tensors: a state dict of the model, in any dtypes.
        model: tells under which names a tied weight goes; masks name it once.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    masks_of = {id(parameters[name]): mask.cpu() for name, mask in masks.items()}
    for name, tensor in tensors.items():
        if name in parameters and (mask := masks_of.get(id(parameters[name]))) is not None:
            tensor.masked_fill_(~mask, 0)


def _problems(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    loaded = {_place(expected[name]) for name in given if name in expected}
    missing = [name for name, tensor in expected.items() if name not in given and _place(tensor) not in loaded]
    unknown = [name for name in given if name not in expected]
    shapes = [
        f"{name!r} has shape {list(tensor.shape)} in the file, {list(expected[name].shape)} in the model"
        for name, tensor in given.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    problems = []
    if missing:
        problems.append(f"it lacks {_listed(missing)}")
    if unknown:
        guess = nearest(unknown[0], missing)
        problems.append(f"it has {_listed(unknown)}{f' (did you mean {guess!r}?)' if guess else ''}")
    return problems + shapes[:3]


def _place(tensor: Tensor) -> tuple[int, torch.Size] | int:
    """Where a tensor lies: equal for a tied weight's names; what is empty lies nowhere, so it equals only itself."""
    return (tensor.data_ptr(), tensor.shape) if tensor.numel() and not tensor.is_meta else id(tensor)


def _listed(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more


def _refuse_pickle(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(9)
    is_safetensors = start[8:] == b"{"  # after eight bytes of length comes a JSON object
    if not is_safetensors and (start.startswith(_PICKLE_STARTS) or path.suffix.lower() in _PICKLE_SUFFIXES):
        source, target = path, path.with_suffix(".safetensors")
        rename = ""
        if path == target:  # torch.load would go by the name
            source = path.with_suffix(".pt")
            rename = f"rename it to {str(source)!r} and "
        raise CheckpointError(
            f"{str(path)!r} is a pickle, which can run code when it is read, so prunus never reads one; if you trust "
            f'it, {rename}convert it: python -c "import torch; from prunus.files import save_tensors; '
            f'save_tensors({str(target)!r}, torch.load({str(source)!r}, weights_only=True))"'
        )


def _inside(folder: Path) -> str:
    found = sorted(entry.name for entry in folder.glob("*.safetensors"))
    return f", such as one of those in it: {_listed(found)}" if found else ""
