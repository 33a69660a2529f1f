"""Accuracy of pruned networks recovered from 256 unlabelled images, beside published methods.

    python bench/recover.py [--nets resnet20 vgg ...] [--seeds 0 1 2] [--sparsities 0.8 0.9] [--data FOLDER]

Networks are trained once for each seed and kept in --cache. All methods prune the same fraction of each layer (uniform)
with the same images. Published methods are those of `_recover_peers`. Printed is accuracy on the test images, which
nothing was chosen by, and for each method the paired test (McNemar) against `recover(choose=True)`.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import prunus
from _recover_models import SETTINGS, Trained, correct, trained
from _recover_peers import PEERS, layer_by_layer
from prunus.machine import machine
from prunus.measuring.evaluate import paired_test

Method = Callable[[nn.Module, float, list[Tensor]], None]
OURS = "recover, choose"


def _pruned(criterion: str) -> Method:
    def apply(model: nn.Module, sparsity: float, samples: list[Tensor]) -> None:
        data = samples if criterion != "magnitude" else None
        prunus.prune(model, sparsity, criterion=criterion, scope="uniform", data=data)

    return apply


def _peer(name: str, dense_inputs: bool) -> Method:
    def apply(model: nn.Module, sparsity: float, samples: list[Tensor]) -> None:
        masks = prunus.prune(copy.deepcopy(model), sparsity, scope="uniform")
        layer_by_layer(model, dict(masks), samples, PEERS[name], dense_inputs=dense_inputs)

    return apply


def _recovered(*, scope: str = "uniform", choose: bool = False, minutes: float = 0.0) -> Method:
    def apply(model: nn.Module, sparsity: float, samples: list[Tensor]) -> None:
        masks = prunus.prune(copy.deepcopy(model), sparsity, scope=scope)
        prunus.recover(model, masks, samples, choose=choose, minutes=minutes)

    return apply


METHODS: dict[str, Method] = {
    "magnitude": _pruned("magnitude"),
    "Wanda": _pruned("activation"),
    "OBS": _pruned("obs"),
    **{f"{name}, dense inputs": _peer(name, True) for name in PEERS},
    **{f"{name}, pruned inputs": _peer(name, False) for name in PEERS},
    "recover": _recovered(),
    OURS: _recovered(choose=True),
    "recover, choose, 1 minute": _recovered(choose=True, minutes=1.0),
    "recover, choose, ERK": _recovered(choose=True, scope="erk"),
}


def compare(network: Trained, sparsity: float, methods: list[str]) -> None:
    """Print the accuracy of each method on the test images."""
    dense = correct(network.model, network.data, "test")
    print(f"{'dense':28} {100 * float(dense.double().mean()):6.2f}")
    samples, answers = network.samples(), {}
    for name in methods:
        model = copy.deepcopy(network.model)
        began = time.monotonic()
        METHODS[name](model, sparsity, samples)
        seconds = time.monotonic() - began
        answers[name] = correct(model, network.data, "test")
        print(f"{name:28} {100 * float(answers[name].double().mean()):6.2f}  {seconds:5.1f} s", flush=True)
    for name in methods:
        if name != OURS and OURS in answers:
            test = paired_test(OURS, answers[OURS], name, answers[name])
            interval = " to ".join(f"{100 * bound:+.2f}" for bound in test.ci95)
            print(f"  {name:26} less {OURS}: {100 * test.difference:+.2f} ({interval}), p {test.p_value:.1e}")


def main() -> None:
    """Compare for every network, seed and sparsity."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.8, 0.9])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--data", type=Path, help="where the data lies; by default as everywhere in prunus")
    parser.add_argument("--cache", type=Path, default=Path("build/recover"), help="where trained networks are kept")
    arguments = parser.parse_args()
    print(machine(), f"{torch.get_num_threads()} threads", flush=True)
    for net in arguments.nets:
        for seed in arguments.seeds:
            network = trained(net, seed, arguments.cache, arguments.data)
            for sparsity in arguments.sparsities:
                print(f"\n{net}, seed {seed}, {sparsity:.0%} of each layer pruned: test accuracy in %", flush=True)
                compare(network, sparsity, arguments.methods)


if __name__ == "__main__":
    main()
