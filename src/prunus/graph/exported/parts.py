"""What an exported module is made of, wherever that comes from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from prunus.graph.exported.structure import Signature


@dataclass(frozen=True)
class Parts:
    """What makes an `ExportedModule`.

    Attributes:
        graph: placeholders for the inputs' leaves, references to tensors and to modules' training flags, and calls.
        signature: how it is called, and what it gives back.
        tensors: parameters and buffers by name, in the order of the state dict; a name with dots is within modules. One
            object under two names is tied.
        not_saved: names of buffers that are not in the state dict, such as constants.
        modules: names of modules whose training flag the graph reads, whether they hold tensors or not.
    """

    graph: fx.Graph
    signature: Signature
    tensors: dict[str, Tensor]
    not_saved: frozenset[str]
    modules: frozenset[str]
