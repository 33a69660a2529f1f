"""A pruned model is the plain module it was: class, keys, hooks, copies, compilation, export, several processes."""

from __future__ import annotations

import ast
import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from axes import every_combination, sparsity_for, with_loss
from prunus import Masks, Pruner, prune
from prunus.files import load_tensors

pytestmark = pytest.mark.usefixtures("one_thread")

Batches = list[tuple[Tensor, Tensor]]


def anatomy(model: nn.Module) -> dict[str, Any]:
    """Return all of a model that is not the values of its tensors."""
    modules = dict(model.named_modules())
    return {
        "classes": {name: type(module) for name, module in modules.items()},
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "hooks": {
            name: {key: len(value) for key, value in vars(module).items() if "hooks" in key and value is not None}
            for name, module in modules.items()
        },
        "training": {name: module.training for name, module in modules.items()},
        "parameters": {name: (id(p), p.requires_grad, p.grad) for name, p in model.named_parameters()},
        "tensors": {name: (t.dtype, t.shape, t.stride(), t.data_ptr()) for name, t in model.state_dict().items()},
    }


@every_combination
def test_nothing_but_values_changes(
    criterion: str, pattern: str, scope: str, network: nn.Module, batches: Batches
) -> None:
    before = anatomy(network)
    options: dict[str, Any] = {"criterion": with_loss(criterion), "pattern": pattern, "scope": scope, "data": batches}
    sparsity = sparsity_for(pattern, 0.5)
    masks = prune(network, sparsity, **options)
    pruner = Pruner(network, sparsity, steps=2, masks=masks, **options)
    for _ in range(3):
        pruner.step()
    assert anatomy(network) == before
    assert all(type(mask) is Tensor and mask.dtype == torch.bool for mask in pruner.masks.values())


def test_copies_are_pruned_and_independent(network: nn.Module) -> None:
    masks = prune(network, 0.5)
    twin = copy.deepcopy(network)
    masks.check(twin)
    nn.init.ones_(network.head.weight)
    masks.check(twin)
    assert Masks.from_model(twin) == masks
    assert copy.deepcopy(masks) == masks


def test_a_pruners_model_can_be_copied_while_it_trains(network: nn.Module) -> None:
    pruner = Pruner(network, 0.5, steps=2)
    pruner.step()
    twin = copy.deepcopy(network)
    pruner.step()
    assert Masks.from_model(twin).num_pruned < pruner.masks.num_pruned


def test_a_checkpoint_loads_into_a_model_that_knows_nothing_of_pruning(network: nn.Module, batches: Batches) -> None:
    images = batches[0][0]
    fresh = type(network)()
    prune(network, 0.5)
    fresh.load_state_dict(network.state_dict())
    assert torch.equal(fresh.eval()(images), network.eval()(images))


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")  # torch's own, as it loads its compiler
def test_a_pruned_model_compiles_as_one_graph_and_goes_on_being_pruned(network: nn.Module, batches: Batches) -> None:
    images = batches[0][0]
    network.eval()
    prune(network, 0.5)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), network(images))
    masks = prune(compiled, 0.8)  # through the wrapper: same names, same model
    assert set(masks) == {"conv.weight", "hidden.weight", "head.weight"}
    masks.check(network)
    torch.testing.assert_close(compiled(images), network(images))
    pruner = Pruner(compiled, 0.9, steps=1, masks=masks)
    pruner.step()
    pruner.masks.check(network)


def test_a_pruned_model_is_exported(network: nn.Module, batches: Batches) -> None:
    images = batches[0][0]
    network.eval()
    masks = prune(network, 0.5)
    program = torch.export.export(network, (images,))
    assert {node.op for node in program.graph.nodes} == {"placeholder", "call_function", "output"}
    assert program.state_dict.keys() == network.state_dict().keys()
    masks.check(program.module())
    torch.testing.assert_close(program.module()(images), network(images))


def test_autograd_goes_through_a_pruned_model(network: nn.Module, batches: Batches) -> None:
    masks = prune(network, 0.5)
    F.cross_entropy(network(batches[0][0]), batches[0][1]).backward()
    gradient = network.head.weight.grad
    assert gradient is not None
    assert (gradient[~masks["head.weight"]] != 0).any(), "pruned weights get gradients: nothing hides them"


# ----------------------------------------------------------------------------------------- two processes, with gloo

WORKER = """
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from prunus import Pruner, prune
from prunus.files import save_tensors
from prunus.pruning import Gradient
from prunus.pruning.criteria import CRITERIA

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
torch.manual_seed(0)
model = DistributedDataParallel(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)))
own = torch.Generator().manual_seed(rank)  # each process has data of its own
data = [(torch.randn(8, 12, generator=own), torch.randint(0, 4, (8,), generator=own)) for _ in range(3)]

found = {}
for criterion in (Gradient(F.cross_entropy), CRITERIA["activation"]):
    twin = DistributedDataParallel(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)))
    twin.load_state_dict(model.state_dict())
    masks = prune(twin, 0.5, criterion=criterion, data=data)
    found |= {f"{criterion.name} {name}": mask for name, mask in masks.items()}
    F.cross_entropy(twin(data[0][0]), data[0][1]).backward()  # training goes on

for criterion, schedule in [(CRITERIA["magnitude"], "cubic"), (Gradient(F.cross_entropy), "linear")]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner = Pruner(model, 0.6, steps=4, criterion=criterion, schedule=schedule, data=data)
    for step in range(6):
        optimizer.zero_grad()
        inputs, labels = data[step % 3]
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        pruner.step()
    pruner.masks.check(model)
    found |= {f"pruner {criterion.name} {name}": mask for name, mask in pruner.masks.items()}
found |= {f"trained {name}": tensor for name, tensor in model.module.state_dict().items()}
save_tensors(folder / f"rank{rank}.safetensors", found)
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "worker.py").write_text(WORKER)
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen(
            [sys.executable, str(folder / "worker.py"), str(rank), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)
    return [load_tensors(folder / f"rank{rank}.safetensors") for rank in range(2)]


def test_two_processes_get_the_same_masks_and_weights_to_the_bit(two_ranks: list[dict[str, Tensor]]) -> None:
    first, second = two_ranks
    assert len(first) == 2 * 2 + 2 * 2 + 4
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    for method in ("pruner magnitude", "pruner gradient"):
        masks = Masks({name: mask for name, mask in first.items() if name.startswith(method)})
        assert masks.num_pruned == round(0.6 * (12 * 16 + 16 * 4))


def test_two_processes_get_the_masks_the_first_one_finds_alone(two_ranks: list[dict[str, Tensor]]) -> None:
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(8, 12, generator=generator), torch.randint(0, 4, (8,), generator=generator)) for _ in range(3)]
    for criterion in ("gradient", "activation"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
        for name, mask in prune(model, 0.5, criterion=with_loss(criterion), data=data).items():
            assert torch.equal(mask, two_ranks[1][f"{criterion} {name}"])


# ----------------------------------------------------------------------------------------------- nothing is unpickled


def test_no_code_of_the_package_loads_a_pickle() -> None:
    loaders = {"load", "loads", "Unpickler", "read_pickle"}
    picklers = {"torch", "np", "numpy", "pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    own_pipe = {("processes.py", "pickle.loads")}  # from the parent process, as multiprocessing does it itself
    for path in Path(prunus.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                loads = node.value.id in picklers and node.attr in loaders
                assert not loads or (path.name, ast.unparse(node)) in own_pipe, f"{path}:{node.lineno}"
            if isinstance(node, ast.ImportFrom) and node.module in picklers:
                assert not loaders & {alias.name for alias in node.names}, f"{path}:{node.lineno}"
