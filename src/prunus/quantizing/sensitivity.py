"""What each layer's rounding costs by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from prunus.quantizing.calibrating import output_error
from prunus.quantizing.rounded_graph import Rounding
from prunus.recovering.batches import Samples
from prunus.recovering.lockstep import Lockstep

# Samples that costs are measured on: they are compared with each other only.
_SAMPLES = 16


def costs(
    rounding: Rounding, own: Mapping[str, Tensor], samples: Samples, progress: Callable[[str, float], None]
) -> dict[str, float]:
    """Return for each layer the error of the outputs where it alone is rounded, with the value that it reads.

    Args:
        rounding: of all layers.
        own: parameters and buffers by name.
        samples: of those held out some are taken.
        progress: called with what is being done and the share of it that is done.
    """
    plan, graph = rounding.plan, rounding.plan.graph
    first = samples.held_out[0]
    batch = first if graph.batch is not None else [value[:_SAMPLES] for value in first]
    result: dict[str, float] = {}
    for place, (key, layer) in enumerate(plan.layers.items()):
        progress(f"measuring {key}", place / len(plan.layers))
        weight = rounding.weight(layer, own[layer.layer.weight], own.__getitem__)
        lockstep = Lockstep(graph, own, {**own, layer.layer.weight: weight}, [batch])
        ((_, run),) = lockstep.values
        for node in graph.nodes:
            lockstep.reach(node, lambda node: None)
            if node is layer.tail:
                run[node] = rounding.corrected(layer, run[node], own.__getitem__)
            if node is layer.source:
                run[node] = rounding.value(plan.keys[node], run[node])
        result[key] = output_error(lockstep, 0)
    return result
