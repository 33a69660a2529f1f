"""Measure models: parameters, multiply-adds, bytes, memory and latency, for the receipt.

    facts = prunus.measure(model, example_inputs)
    receipt = prunus.compare({"dense": dense, "pruned": pruned}, example_inputs)

Each figure has its own module: `macs`, `packing.sizes`, `memory`, `latency`, `prunus.machine`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from prunus import __version__
from prunus.forward import Inputs, batch_of, check_inputs, check_models, unique_parameters
from prunus.machine import machine
from prunus.measuring import evaluate
from prunus.measuring.latency import TORCH, check_numbers, check_runtimes, latencies, timings
from prunus.measuring.macs import Macs, count_macs, num_nonzero
from prunus.measuring.memory import peak_memory
from prunus.measuring.receipt import LayerFacts, ModelFacts, Receipt
from prunus.packing.sizes import COMPRESS_LIMIT, sizes
from prunus.supported import unwrap

__all__ = ["compare", "facts", "latencies", "machine", "measure"]


def facts(
    model: nn.Module,
    example_inputs: Inputs | None = None,
    *,
    name: str = "model",
    batch_size: int = 64,
    compress_limit: int = COMPRESS_LIMIT,
) -> ModelFacts:
    """Measure a model, without its latency.

    Tied weights count once; buffers are not parameters, but count in the bytes. The model's training flags, buffers and
    gradients, and the random state, are not changed.

    Args:
        model: any Module, on any device.
        example_inputs: a tensor or tuple of tensors whose first dimension is the batch, at least one sample; None
            leaves out figures that need a forward (MACs, peak memory).
        name: the model's name in the receipt.
        batch_size: the batch size for peak memory.
        compress_limit: files larger than this are not compressed, since it takes minutes; the notes say so.

    Raises:
        TypeError: the model is not a Module, or the inputs are not tensors.
        ValueError: the inputs don't fit the model, or a parameter has no values.
    """
    check_models({name: model})
    (size,) = check_numbers("batch_size", [batch_size])
    parameters = unique_parameters(model)
    counted, peak, notes = None, None, []
    if example_inputs is not None:
        inputs = check_inputs({name: model}, example_inputs)
        counted = count_macs(model, batch_of(inputs, 1), name=name)
        peak = peak_memory(model, batch_of(inputs, size), name=name)
        if peak is None:
            notes.append("peak memory: it can only be measured on the CPU or one CUDA device")
    stored = sizes(unwrap(model).state_dict(), compress_limit=compress_limit)
    nonzero = {name: num_nonzero(parameter) for name, parameter in parameters.items()}
    total = sum(parameter.numel() for parameter in parameters.values())
    return ModelFacts(
        name=name,
        parameters=total,
        nonzero=sum(nonzero.values()),
        sparsity=_sparsity(sum(nonzero.values()), total),
        layers=_layers(parameters, nonzero, counted),
        macs=counted.total if counted else None,
        nonzero_macs=counted.nonzero if counted else None,
        uncounted=counted.uncounted if counted else (),
        bytes=stored.bytes,
        peak_memory_bytes=peak,
        notes=(*notes, *stored.notes),
    )


def measure(
    model: nn.Module,
    example_inputs: Inputs | None = None,
    *,
    name: str = "model",
    batch_sizes: Sequence[int] = (1, 64),
    threads: Sequence[int] | None = None,
    runtimes: Sequence[str] = (TORCH,),
    latency: bool = True,
) -> ModelFacts:
    """Measure a model: parameters, zeros, multiply-adds, bytes, peak memory and latency.

    Args:
        model: any Module, on any device; it is not changed.
        example_inputs: a tensor or tuple of tensors whose first dimension is the batch; None leaves out figures that
            need a forward (MACs, peak memory, latency).
        name: the model's name in the receipt.
        batch_sizes: the batches whose latency is measured; peak memory is that of the largest.
        threads: numbers of threads an operation may use; None means one, and all cores.
        runtimes: the runtimes it is timed in: names of `prunus.measuring.latency.RUNTIMES`, or ``"all"`` for those that
            are installed. If a model can't run in one, its notes say why.
        latency: whether to time the model.

    Raises:
        TypeError: the model is not a Module, or the inputs are not tensors.
        ValueError: a number is not positive, a runtime is unknown, or the inputs don't fit the model.

    >>> facts = measure(nn.Linear(3, 2), torch.zeros(1, 3), latency=False)
    >>> facts.parameters, facts.macs
    (8, 6)
    """
    return _measure_all({name: model}, example_inputs, batch_sizes, threads, runtimes, latency)[0]


def compare(
    models: Mapping[str, nn.Module],
    example_inputs: Inputs | None = None,
    *,
    batch_sizes: Sequence[int] = (1, 64),
    threads: Sequence[int] | None = None,
    runtimes: Sequence[str] = (TORCH,),
    latency: bool = True,
    data: Iterable[tuple[Tensor, Tensor]] | None = None,
) -> Receipt:
    """Measure several models side by side; their latencies are taken in turns in one run.

    Args:
        models: name -> model, in the order of the receipt.
        example_inputs: inputs of all the models; this and the other arguments as in `measure`.
        batch_sizes: the batches whose latency is measured; peak memory is that of the largest.
        threads: numbers of threads an operation may use; None means one, and all cores.
        runtimes: the runtimes it is timed in: names of `prunus.measuring.latency.RUNTIMES`, or ``"all"`` for those that
            are installed. If a model can't run in one, its notes say why.
        latency: whether to time the models.
        data: batches of inputs and labels to classify: accuracies, tests of their difference to the first model's, and
            what changed beside the average. Use samples that nothing was trained, calibrated or chosen on.

    Returns:
        A Receipt without a recipe.

    Raises:
        TypeError: `models` is not a mapping of Modules, or the inputs are not tensors.
        ValueError: there is no model, a number is not positive, a runtime is unknown, the inputs don't fit a model, or
            the data holds no labels of classes.
    """
    check_models(models)
    tested = None if data is None else evaluate.tested(models, data)
    measured = _measure_all(models, example_inputs, batch_sizes, threads, runtimes, latency)
    receipt = Receipt(prunus=__version__, torch=str(torch.__version__), machine=machine(), models=measured)
    if tested is None:
        return receipt
    return dataclasses.replace(
        receipt,
        models=tuple(dataclasses.replace(model, accuracy=tested.accuracies[model.name]) for model in measured),
        comparisons=tested.comparisons,
        changes=tested.changes,
    )


def _measure_all(
    models: Mapping[str, nn.Module],
    example_inputs: Inputs | None,
    batch_sizes: Sequence[int],
    threads: Sequence[int] | None,
    runtimes: Sequence[str],
    latency: bool,
) -> tuple[ModelFacts, ...]:
    check_models(models)
    batches = check_numbers("batch_sizes", batch_sizes)
    if threads is not None:
        check_numbers("threads", threads)
    check_runtimes(runtimes)
    if example_inputs is not None:
        check_inputs(models, example_inputs)
    measured = {
        name: facts(model, example_inputs, name=name, batch_size=max(batches)) for name, model in models.items()
    }
    if example_inputs is not None and latency:
        times = timings(models, example_inputs, batch_sizes=batches, threads=threads, runtimes=runtimes)
        measured = {
            name: dataclasses.replace(
                model, latency_us=times[name].latency_us, notes=(*model.notes, *times[name].notes)
            )
            for name, model in measured.items()
        }
    return tuple(measured.values())


def _layers(
    parameters: Mapping[str, Tensor], nonzero: Mapping[str, int], counted: Macs | None
) -> tuple[LayerFacts, ...]:
    layers = []
    for name, parameter in parameters.items():
        if parameter.ndim >= 2:
            macs, nonzero_macs = (counted.layers[name] if counted else None) or (None, None)
            size = parameter.numel()
            share = _sparsity(nonzero[name], size)
            layers.append(LayerFacts(name, tuple(parameter.shape), size, nonzero[name], share, macs, nonzero_macs))
    return tuple(layers)


def _sparsity(nonzero: int, total: int) -> float:
    return 1 - nonzero / total if total else 0.0
