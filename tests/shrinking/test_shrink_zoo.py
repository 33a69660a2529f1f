"""Shrinking every network of the zoo: the outputs are those of the masked model, whatever is zero in it."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

import prunus
import prunus.shrinking
from masked import apart, cast, kill_channels, num_parameters, outputs, zero_at_random
from prunus.graph import ExampleInputs, Graph, trace
from prunus.graph.coupling import couple
from prunus.graph.exported import ExportedModule
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
    """Reads a model's graph once, which takes longest, and hands out copies."""

    def __init__(self, model: nn.Module, inputs: ExampleInputs) -> None:
        self.model, self.inputs = model, inputs
        self.graph = trace(model, inputs)

    def __call__(self, model: nn.Module, inputs: ExampleInputs) -> Graph:
        assert model is self.model
        assert inputs is self.inputs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, of how it copies a program
            graph = replace(self.graph, program=copy.deepcopy(self.graph.program))
        for node, original in zip(graph.nodes, self.graph.nodes, strict=True):
            node.name = original.name  # a copy may number names anew
        return graph


@pytest.fixture(params=list(ZOO))
def case(request: pytest.FixtureRequest) -> Case:
    return ZOO[request.param]


def test_shrunk_equals_masked(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    model = case.make().double()
    dense = copy.deepcopy(model.state_dict())
    traced = TracedOnce(model, cast(case.inputs(1), torch.float64))
    monkeypatch.setattr(prunus.shrinking, "trace", traced)
    generator = torch.Generator().manual_seed(len(case.name))
    kinds = set()
    for sparsity in SPARSITIES:
        model.load_state_dict(dense)
        zero_at_random(model, sparsity, generator)
        if sparsity != 0.9:  # unstructured alone at 90 %, whole channels besides at 50 and 99 %
            killed = kill_channels(couple(traced.graph), sparsity, generator)
        before = copy.deepcopy(model.state_dict())
        smaller = prunus.shrink(model, traced.inputs)
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
