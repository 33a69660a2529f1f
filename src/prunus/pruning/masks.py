"""Masks: which weights stay. They are kept beside the model, never in it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from prunus.errors import MaskError
from prunus.files import checksum_of, load_with_metadata, save_tensors
from prunus.pruning.targets import resolve
from prunus.supported import problem, unwrap
from prunus.tables import Table, count, percent, shape


class Masks(Mapping[str, Tensor]):
    """A mapping from parameter names to bool tensors of the parameter's shape; False is a pruned weight.

    Args:
        masks: the masks; tensors are kept, not copied.

    Raises:
        TypeError: `masks` is not a mapping, or a value is not a bool tensor.

    >>> masks = Masks({"weight": torch.tensor([[True, False], [True, True]])})
    >>> masks.sparsity
    0.25
    >>> print(masks)
    parameter  shape  weights  pruned  sparsity
    weight       2×2        4       1     25.0%
    1 of 4 weights is pruned (25.0%).
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        if not isinstance(masks, Mapping):
            raise TypeError(f"masks must map parameter names to bool tensors, got {type(masks).__name__}")
        for name, mask in masks.items():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise TypeError(f"the mask of {name!r} must be a bool tensor, got {kind}")
        self._masks = dict(masks)

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masks):
            return NotImplemented
        return self.keys() == other.keys() and all(
            mask.shape == other[name].shape and torch.equal(mask.cpu(), other[name].cpu())
            for name, mask in self.items()
        )

    __hash__ = None  # type: ignore[assignment]  # equal by content, and the content can change

    def __repr__(self) -> str:
        return f"Masks({len(self)} parameters, {self.num_pruned:,} of {self.num_weights:,} weights pruned)"

    def __str__(self) -> str:
        rows = []
        for name, mask in self.items():
            size = mask.numel()
            gone = size - int(torch.count_nonzero(mask))
            rows.append((name, shape(mask.shape), count(size), count(gone), percent(gone / size if size else 0.0)))
        total = f"{self.num_pruned:,} of {self.num_weights:,} weights {'is' if self.num_pruned == 1 else 'are'} pruned"
        columns = ("parameter", "shape", "weights", "pruned", "sparsity")
        return str(Table(columns, tuple(rows), f"{total} ({percent(self.sparsity)})."))

    @property
    def num_weights(self) -> int:
        """The number of weights of the masked parameters."""
        return sum(mask.numel() for mask in self.values())

    @property
    def num_pruned(self) -> int:
        """The number of pruned weights."""
        return self.num_weights - sum(int(torch.count_nonzero(mask)) for mask in self.values())

    @property
    def sparsity(self) -> float:
        """The fraction of the masked parameters' weights that is pruned, in [0, 1]."""
        return self.num_pruned / self.num_weights if self.num_weights else 0.0

    def to(self, device: torch.device | str) -> Masks:
        """Return the same masks on a device."""
        return Masks({name: mask.to(device) for name, mask in self.items()})

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set the pruned weights of the model to zero, in place.

        They become +0.0, whatever they were: also NaN and infinity.

        Raises:
            MaskError: the model has no parameter of a mask's name, or one of another shape; nothing was changed.
        """
        for parameter, mask in self.pairs(model):
            _clear(parameter.detach(), mask.to(parameter.device))

    @torch.no_grad()
    def check(self, model: nn.Module) -> None:
        """Check that every pruned weight of the model is zero.

        Raises:
            MaskError: some are not, the message says how many; or as `apply`.
        """
        counts = {}
        for name, (parameter, mask) in zip(self, self.pairs(model), strict=True):
            count = int(torch.count_nonzero(parameter.masked_fill(mask.to(parameter.device), 0)))
            if count:
                counts[name] = count
        if counts:
            listed = ", ".join(f"{count:,} in {name!r}" for name, count in list(counts.items())[:5])
            raise MaskError(f"pruned weights are not zero any more: {listed}; call masks.apply(model) after each step")

    def save(self, path: Path | str, made_from: str = "") -> None:
        """Write the masks as a safetensors file of bool tensors, whole or not at all.

        Args:
            path: of the file.
            made_from: a fingerprint in the file's header, by which a run recognizes its own masks.
        """
        header = {"kind": "masks", "names": json.dumps(list(self)), "made_from": made_from}
        save_tensors(path, self._masks, header | {"checksum": checksum_of(self._masks, header)})

    @classmethod
    def load(cls, path: Path | str) -> Masks:
        """Read masks that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            MaskError: the file is not a safetensors file, is damaged, or does not hold masks.
        """
        try:
            tensors, metadata = load_with_metadata(path)
            if metadata.get("kind") == "masks":
                _check_whole(tensors, metadata)
            names = json.loads(metadata.get("names", "null")) or sorted(tensors)  # the model's order
            if sorted(names) != sorted(tensors):
                raise ValueError("the names in its header are not those of its tensors")
            return cls({name: tensors[name] for name in names})
        except (TypeError, ValueError, KeyError, RecursionError) as error:
            raise MaskError(f"{str(path)!r} does not hold masks: {error}") from error

    @classmethod
    def from_model(cls, model: nn.Module) -> Masks:
        """Return masks of the zeros that a model has now, in the weights that `prune` would prune by default.

        Raises:
            ValueError: the model has no such weight.
        """
        return cls({name: target.parameter.detach() != 0 for name, target in resolve(model).items()})

    @classmethod
    def from_torch(cls, source: nn.Module | Mapping[str, Tensor]) -> Masks:
        """Return the masks that torch.nn.utils.prune keeps inside a model or its state dict.

        Raises:
            TypeError: the source is neither a model nor a state dict.
            MaskError: there is no pair of ``*_mask`` and ``*_orig``, so torch.nn.utils.prune did not prune it, or its
                masks were removed.
        """
        if not isinstance(source, (nn.Module, Mapping)):
            raise TypeError(f"source must be a torch.nn.Module or a state dict, got {type(source).__name__}")
        state = unwrap(source).state_dict() if isinstance(source, nn.Module) else source
        masks = {name: state[f"{name}_mask"] != 0 for name in _torch_pruned(state)}
        if not masks:
            raise MaskError(
                "found no *_orig with its *_mask: this is not a model pruned by torch.nn.utils.prune, or its masks "
                "were removed; Masks.from_model(model) reads the zeros of a plain model"
            )
        return cls(masks)

    def pairs(self, model: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        """Return the model's parameters, each with its mask.

        Raises:
            MaskError: the model has no parameter of a mask's name, or one of another shape.
        """
        parameters = dict(unwrap(model).named_parameters(remove_duplicate=False))
        for name, mask in self.items():
            if name not in parameters:
                near = difflib.get_close_matches(name, parameters, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(list(parameters)[:6])}"
                raise MaskError(f"the model has no parameter {name!r} to mask{hint}")
            check_shape(name, mask, parameters[name])
        return [(parameters[name], mask) for name, mask in self.items()]


def _check_whole(masks: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Raise ValueError unless the checksum is right; files of the first version have none."""
    header = {name: metadata[name] for name in ("kind", "names", "made_from")}
    checksum = {name: text for name, text in metadata.items() if name not in header}
    if checksum and checksum != {"checksum": checksum_of(masks, header)}:
        raise ValueError("its checksum is wrong, so the file was damaged or changed")


# Weights in a piece: small enough for a core's cache, large enough that starting an operation on it costs little.
_PIECE = 1 << 20
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _clear(weight: Tensor, mask: Tensor) -> None:
    """Set the pruned weights to +0.0, in place.

    On a CPU a weight's bits, read as an integer, are multiplied by one or zero: this also clears NaN and infinity, and
    unlike `masked_fill_` it is vectorised.
    """
    whole = weight.is_contiguous() and mask.is_contiguous() and weight.element_size() in _BITS
    if weight.device.type != "cpu" or not whole:
        weight.masked_fill_(mask.logical_not(), 0)
        return
    bits = weight.view(-1).view(_BITS[weight.element_size()])
    kept = mask.view(-1)
    for start in range(0, weight.numel(), _PIECE):
        bits[start : start + _PIECE].mul_(kept[start : start + _PIECE])


def check_shape(name: str, mask: Tensor, parameter: Tensor) -> None:
    """Raise MaskError if a mask does not have its parameter's shape, or the parameter is not a dense tensor."""
    reason = problem(parameter)
    if reason is not None:
        raise MaskError(f"{name!r} {reason}")
    if mask.shape != parameter.shape:
        raise MaskError(
            f"the mask of {name!r} has shape {tuple(mask.shape)}, the parameter {tuple(parameter.shape)}; "
            "these masks belong to another model"
        )


def plain_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of torch.nn.utils.prune as that of a plain model: weight = weight_orig * weight_mask.

    Other tensors stay as they are, so any state dict may be given. The result loads with
    ``model.load_state_dict`` into a model that was never pruned.

    >>> state = {"fc.weight_orig": torch.tensor([-3.0, 2.0]), "fc.weight_mask": torch.tensor([0.0, 1.0])}
    >>> plain_state_dict(state)
    {'fc.weight': tensor([0., 2.])}
    """
    pruned = _torch_pruned(state)
    name_of_original = {f"{name}_orig": name for name in pruned}
    mask_keys = {f"{name}_mask" for name in pruned}
    plain = {}
    for key, tensor in state.items():
        if key in name_of_original:
            name = name_of_original[key]
            plain[name] = tensor.masked_fill(state[f"{name}_mask"] == 0, 0)
        elif key not in mask_keys:
            plain[key] = tensor
    return plain


def _torch_pruned(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names that torch.nn.utils.prune split into ``*_orig`` and ``*_mask`` of one shape."""
    names = (key.removesuffix("_orig") for key in state if key.endswith("_orig"))
    return [
        name
        for name in names
        if name not in state and f"{name}_mask" in state and state[f"{name}_mask"].shape == state[f"{name}_orig"].shape
    ]
