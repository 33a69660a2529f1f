"""Check, before a weight is changed, that pruned channels can also be removed from the model."""

from __future__ import annotations

from torch import Tensor

from prunus.errors import ChannelError
from prunus.graph import rewriting
from prunus.graph.coupling import Coupling, one_thread
from prunus.graph.kept import keep


def check_cut(coupling: Coupling, gone: Tensor) -> None:
    """Check that channels can be removed from a model: the smaller graph is built and run on the meta device.

    Args:
        coupling: the coupled channels of the model.
        gone: the classes to remove, bool per class.

    Raises:
        ChannelError: they can't; the message names the operation, its module and its line.
    """
    with one_thread():
        try:
            rewriting.demanded(keep(coupling, gone), {}, {})
        except rewriting.RewriteError as error:
            raise ChannelError(
                f"the channels to prune could be set to zero but not cut out of the model: {error}; exclude the layers "
                "that make these channels, or write the operation otherwise"
            ) from error
