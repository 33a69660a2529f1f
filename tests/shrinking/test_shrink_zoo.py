"""Shrinking every network of the zoo: the outputs are those of the masked model, whatever is zero in it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

import prunus
import prunus.graph
import prunus.shrinking
from masked import apart, cast, kill_channels, num_parameters, outputs, zero_at_random
from prunus.graph import ExampleInputs, Graph
from prunus.graph.coupling import couple
from prunus.graph.exported import ExportedModule
from prunus.proving import training
from zoo import ZOO, Case

pytestmark = pytest.mark.usefixtures("one_thread")

# Where the class's own forward does not hold the sizes in numbers of its own.
KEEPS_ITS_CLASS = (
    *("separate-qkv", "grouped-query-rotary", "mlp-mixer", "plain-cnn", "conv-bn", "global-average-pooling"),
    *("residual-identity", "residual-projection", "densenet", "autoencoder", "unet", "cnn-1d", "cnn-3d"),
    *("group-norm-cnn", "instance-norm-cnn", "prelu-net", "two-inputs", "dict-output", "resnext", "few-groups"),
    *("depthwise-separable", "depthwise-multiplier", "inverted-residual-se", "shufflenet-v1", "glu-chunk"),
    *("convnext-block", "tied-embedding", "lstm", "gru-bidirectional", "gru-final-state", "einsum"),
    *("hf-bert", "hf-gpt2", "hf-llama", "hf-vit", "hf-resnet", "hf-mobilenet-v2", "hf-convnext", "hf-whisper-encoder"),
)
SPARSITIES = (0.5, 0.9, 0.99)


class TracedOnce:
    """Reads one model's graph once, which takes longest, and hands out copies with the weights that it has by then.

    Other models are read each time.
    """

    def __init__(self, read: Callable[[nn.Module, ExampleInputs], Graph], model: nn.Module) -> None:
        self.read, self.model = read, model
        self.graphs: list[Graph] = []

    def original(self, inputs: ExampleInputs) -> Graph:
        """Return the graph itself, which holds the model's own parameters."""
        if not self.graphs:
            self.graphs.append(self.read(self.model, inputs))
        return self.graphs[0]

    def __call__(self, model: nn.Module, inputs: ExampleInputs) -> Graph:
        if model is not self.model:
            return self.read(model, inputs)
        original = self.original(inputs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, of how it copies a program
            graph = replace(original, program=copy.deepcopy(original.program))
        for node, same in zip(graph.nodes, original.nodes, strict=True):
            node.name = same.name  # a copy may number names anew
        return graph


@pytest.fixture(params=list(ZOO))
def case(request: pytest.FixtureRequest) -> Case:
    return ZOO[request.param]


def test_shrunk_equals_masked(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    model = case.make().double()
    dense = copy.deepcopy(model.state_dict())
    example = cast(case.inputs(1), torch.float64)
    traced = TracedOnce(prunus.graph.trace, model)
    monkeypatch.setattr(prunus.shrinking, "trace", traced)
    monkeypatch.setattr(training, "trace_training", TracedOnce(prunus.graph.trace_training, model))
    generator = torch.Generator().manual_seed(len(case.name))
    kinds = set()
    left_out = list(ZOO).index(case.name) % 3  # two of the three for each network
    for sparsity in (*SPARSITIES[:left_out], *SPARSITIES[left_out + 1 :]):
        model.load_state_dict(dense)
        zero_at_random(model, sparsity, generator)
        if sparsity != 0.9:  # unstructured alone at 90 %, whole channels besides at 50 and 99 %
            killed = kill_channels(couple(traced.original(example)), sparsity, generator)
        before = copy.deepcopy(model.state_dict())
        smaller = prunus.shrink(model, example)
        kinds.add(type(smaller))
        for batch in (1, 2, 5):
            inputs = cast(case.inputs(batch), torch.float64)
            assert apart(outputs(model, inputs), outputs(smaller, inputs)) <= 1e-10, (sparsity, batch)
        assert not smaller.training
        assert not model.training
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        if sparsity != 0.9 and bool(killed.any()):
            assert num_parameters(smaller) < num_parameters(model)
        if sparsity == 0.99:  # hardly a weight is left, and one channel each is the least there is
            single, float32 = smaller.float(), cast(case.inputs(2), torch.float32)
            assert apart(outputs(copy.deepcopy(model).float(), float32), outputs(single, float32)) <= 1e-5
    if case.name in KEEPS_ITS_CLASS:
        assert kinds == {type(model)}
    else:
        assert kinds <= {type(model), ExportedModule}
