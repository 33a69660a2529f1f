"""Check, before a weight is changed, that pruned channels can also be removed from the model."""

from __future__ import annotations

from torch import Tensor, nn

from prunus.errors import ChannelError, GraphError
from prunus.graph import rewriting
from prunus.graph.coupling import Coupling, couple, one_thread
from prunus.graph.kept import Kept, keep
from prunus.proving import training
from prunus.proving.drawing import Inputs
from prunus.proving.rebuilding import RebuildError, rebuild_proved
from prunus.proving.trials import Trial
from prunus.proving.verification import outputs

_REFUSED = "the channels to prune could be set to zero but not cut out of the model"


def check_cut(coupling: Coupling, gone: Tensor, *, trained: bool = True) -> None:
    """Check that channels can be removed from a model: the smaller graph is built and run on the meta device.

    Where a model does something else in training, the smaller model is built, and has to do the same there.

    Args:
        coupling: the coupled channels of the model.
        gone: the classes to remove, bool per class.
        trained: whether training mode is looked at, which can take as long as `prunus.shrink`.

    Raises:
        ChannelError: they can't; the message names the operation, its module and its line, or what only training runs.
    """
    graph = coupling.graph
    with one_thread():
        try:
            rewriting.demanded(keep(coupling, gone), {}, {})
        except rewriting.RewriteError as error:
            raise ChannelError(
                f"{_REFUSED}: {error}; exclude the layers that make these channels, or write the operation otherwise"
            ) from error
    has_weights = trained and not any(parameter.is_meta for parameter in graph.model.parameters())
    if not has_weights or not bool(gone.any()) or not training.has_branch(graph, Inputs(graph.args, graph.kwargs)):
        return
    try:
        _check_training(coupling, gone)
    except training.TrainingError as error:
        raise ChannelError(f"{_REFUSED}: {error.advice(graph)}") from error


def _check_training(coupling: Coupling, gone: Tensor) -> None:
    """Check that what only training runs works on the channels that it worked on before.

    Raises:
        TrainingError: it would not.
    """
    graph = coupling.graph
    inputs, counted = Inputs(graph.args, graph.kwargs), couple(graph, "counted")
    kept = training.with_training_branches(keep(counted, training.carried(gone, coupling, counted)))
    smaller = _smaller(kept, inputs)
    steps = training.check_steps(graph.model, smaller, inputs)
    if steps is None or not isinstance(smaller, type(graph.model)):
        return
    try:
        training.check_branches(smaller, kept, training.Biases({}, {}))
    except GraphError:
        return  # nothing can be seen


def _smaller(kept: Kept, inputs: Inputs) -> nn.Module:
    """Return the model without what goes, or else its graph, which has no branch of training.

    Its weights are the model's own, not yet zero, so it computes something else; only its structure is looked at.
    """
    graph = kept.coupling.graph
    demanded = rewriting.demanded(kept, {}, {})
    module = demanded.module("its class can't be kept")
    trial = Trial(inputs, outputs(module, inputs.args, inputs.kwargs))
    try:
        return module if graph.batch is not None else rebuild_proved(graph.model, kept, {}, demanded, trial)
    except RebuildError:
        return module
