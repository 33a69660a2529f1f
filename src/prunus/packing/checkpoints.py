"""Read and write weights as safetensors files, which hold no code, and load them into models."""

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

# The first bytes of files of torch.save: a zip archive, or a pickle of protocol 2 and later.
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file, as a state dict of a plain model.

    Attributes:
        path: the file.
        tensors: name -> tensor, as in a model's `state_dict`.
        header: the metadata in the file's header.
        num_bytes: the file's size.
        num_masks: the number of masks of torch.nn.utils.prune in the file; they were applied and removed.
    """

    path: Path
    tensors: dict[str, Tensor]
    header: dict[str, str]
    num_bytes: int
    num_masks: int


def read(path: Path | str) -> Checkpoint:
    """Read a safetensors file; the masks of torch.nn.utils.prune in it are applied.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is a pickle, a directory, empty, or holds masks instead of weights.
        ValueError: it is not a safetensors file, or it is damaged.
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
        raise CheckpointError(f"{str(path)!r} holds only bool tensors: masks, not weights; give the file of a model")
    with safetensors.safe_open(path, framework="pt") as file:
        header = dict(file.metadata() or {})
    plain = plain_state_dict(tensors)
    return Checkpoint(path, plain, header, path.stat().st_size, num_masks=len(tensors) - len(plain))


def save(path: Path | str, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write tensors with the metadata of a header, whole or not at all; tensors must not share memory."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        safetensors.torch.save_file(contiguous, temporary, dict(header) or None)


def load_into(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Load a checkpoint's weights into a model, in place.

    If all floating-point tensors of the file have the same dtype, the model is converted to it, so that figures of the
    model are those of the file. A tied weight may be in the file under one of its names only.

    Raises:
        CheckpointError: names or shapes do not fit; the model was not changed.
    """
    problems = _problems(model.state_dict(), checkpoint.tensors)
    if problems:
        raise CheckpointError(
            f"{str(checkpoint.path)!r} does not fit {type(model).__name__}: {'; '.join(problems)}; "
            "is it of another model, or of one created with other arguments?"
        )
    dtypes = {tensor.dtype for tensor in checkpoint.tensors.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        model.to(dtypes.pop())
    model.load_state_dict(checkpoint.tensors, strict=False)


def as_module(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return a module without a forward whose parameters are the floating-point tensors, by their names.

    It replaces a model without its code where only weights are needed, such as for the criterion ``"magnitude"``.
    Names with dots become nested modules, so that patterns of names work.

    Raises:
        CheckpointError: the names can't be those of a module.
    """
    root = nn.Module()
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    for name, tensor in floating.items():
        holder = root
        *parents, attribute = name.split(".")
        for parent in parents:
            # not by add_module, which refuses names of attributes of Module, such as "train"
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
        model: its names of tied weights are used, since masks have one of them only.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    masks_of = {id(parameters[name]): mask.cpu() for name, mask in masks.items()}
    for name, tensor in tensors.items():
        if name in parameters and (mask := masks_of.get(id(parameters[name]))) is not None:
            tensor.masked_fill_(~mask, 0)


def _problems(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    loaded = {_memory(expected[name]) for name in tensors if name in expected}
    missing = [name for name, tensor in expected.items() if name not in tensors and _memory(tensor) not in loaded]
    unknown = [name for name in tensors if name not in expected]
    shapes = [
        f"{name!r} has shape {list(tensor.shape)} in the file, {list(expected[name].shape)} in the model"
        for name, tensor in tensors.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    problems = []
    if missing:
        problems.append(f"it lacks {_listed(missing)}")
    if unknown:
        guess = nearest(unknown[0], missing)
        problems.append(f"it has {_listed(unknown)}{f' (did you mean {guess!r}?)' if guess else ''}")
    return problems + shapes[:3]


def _memory(tensor: Tensor) -> tuple[int, torch.Size] | int:
    """Return a key that is equal for tied weights; an empty tensor has no address, so its key is its own."""
    return (tensor.data_ptr(), tensor.shape) if tensor.numel() and not tensor.is_meta else id(tensor)


def _listed(names: Iterable[str], limit: int = 3) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more


def _refuse_pickle(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(9)
    is_safetensors = start[8:] == b"{"  # eight bytes of length, then a JSON object
    if not is_safetensors and (start.startswith(_PICKLE_STARTS) or path.suffix.lower() in _PICKLE_SUFFIXES):
        source, target = path, path.with_suffix(".safetensors")
        rename = ""
        if path == target:  # torch.load would read it as safetensors, by its name
            source = path.with_suffix(".pt")
            rename = f"rename it to {str(source)!r} and "
        raise CheckpointError(
            f"{str(path)!r} is a pickle, which can run code when it is read, so prunus never reads one; if you trust "
            f'it, {rename}convert it: python -c "import torch; from prunus.files import save_tensors; '
            f'save_tensors({str(target)!r}, torch.load({str(source)!r}, weights_only=True))"'
        )


def _inside(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.glob("*.safetensors"))
    return f", such as one of those in it: {_listed(names)}" if names else ""
