"""Targets in bytes, multiply-adds and time: whether they are met, and how accurate each spread over layers leaves it.

    python bench/targets.py [--nets lenet5-caffe vgg ...] [--seeds 0] [--data FOLDER] [--json FILE] [--picture FILE]

Networks are those of `bench/recover.py`. Each target is a share of what the dense network costs, so that it is one that
users have: a tenth of the bytes, 40% of the multiply-adds, half the time. Each is met with every spread, the network is
refitted from 256 unlabelled images, its cost is taken anew, and accuracy on the test images, which nothing was chosen
by, is compared with that of `least_error` by the paired test (McNemar).
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import prunus
from _recover_models import SETTINGS, Trained, correct, trained
from prunus.machine import machine
from prunus.measuring import costs  # noqa: F401  # enters the units
from prunus.measuring.evaluate import paired_test
from prunus.pruning.budgets import COSTS, written

OURS = "least_error"
# So often a target of bytes is met anew after refitting.
_TRIES = 3
SPREADS = {
    "uniform": {"scope": "uniform"},
    "global": {"scope": "global"},
    "LAMP": {"scope": "global", "criterion": "lamp"},
    OURS: {"scope": OURS},
}


@dataclass(frozen=True)
class Target:
    """A share of what the dense network costs in a unit, and what is removed to meet it."""

    share: float
    unit: str
    pattern: str = "unstructured"


TARGETS = (
    Target(0.15, "bytes"),
    Target(0.06, "bytes"),
    Target(0.4, "MACs"),
    Target(0.2, "MACs"),
    Target(0.5, "us in prunus"),
    Target(0.5, "MACs", "channel"),
    Target(0.7, "us in onnxruntime", "channel"),
)


@dataclass(frozen=True)
class Result:
    """What became of a target with a spread."""

    net: str
    seed: int
    target: Target
    spread: str
    limit: float
    predicted: int
    measured: int
    accuracy: float
    seconds: float


def met(
    network: Trained, net: str, seed: int, target: Target, inputs: Tensor
) -> tuple[list[Result], dict[str, Tensor]]:
    """Meet a target with every spread; return the results, and which test images each network has right."""
    cost, whole = COSTS[target.unit].cost, target.pattern == "channel"
    limit = target.share * cost(network.model, prunus.Masks({}), False, inputs)
    samples, answers, results = network.samples(), {}, []
    for name, settings in SPREADS.items():
        began = time.monotonic()
        settings = settings | {"pattern": target.pattern, "data": samples, "example_inputs": inputs}
        aim = limit
        for _ in range(_TRIES):
            try:
                masks = prunus.prune(copy.deepcopy(network.model), written(aim, target.unit), **settings)
            except ValueError as error:
                print(f"    {name}: {error}", flush=True)
                return [], {}
            predicted = cost(network.model, masks, whole, inputs)
            model = copy.deepcopy(network.model)
            prunus.recover(model, masks, samples, choose=not whole)
            final: nn.Module = prunus.shrink(model, inputs, masks) if whole else model
            measured = cost(final, prunus.Masks({}), False, inputs)
            if measured <= limit or target.unit.startswith("us"):
                break
            aim *= 0.995 * limit / measured  # refitted weights take other bytes than the ones before
        seconds = time.monotonic() - began
        answers[name] = correct(final, network.data, "test")
        accuracy = 100 * float(answers[name].double().mean())
        results.append(Result(net, seed, target, name, limit, predicted, measured, accuracy, seconds))
        print(
            f"    {name:12} {measured:11,} of {limit:11,.0f} ({measured / limit - 1:+.1%}; after pruning "
            f"{predicted / limit - 1:+.1%})  {accuracy:6.2f}  {seconds:5.0f} s",
            flush=True,
        )
    return results, answers


def compare(answers: dict[str, Tensor]) -> dict[str, float]:
    """Print the paired tests of the other spreads against `least_error`, and return their p values, signed."""
    found = {}
    for name, right in answers.items():
        if name == OURS or OURS not in answers:
            continue
        test = paired_test(name, right, OURS, answers[OURS])
        found[name] = -test.p_value if test.difference < 0 else test.p_value
        interval = " to ".join(f"{100 * bound:+.2f}" for bound in test.ci95)
        print(f"    {OURS} less {name:8} {100 * test.difference:+.2f} ({interval}), p {test.p_value:.2g}", flush=True)
    return found


def draw(results: list[Result], path: Path) -> None:
    """Write a page with predicted and measured times."""
    import plotly.graph_objects as go

    timed = [result for result in results if result.target.unit.startswith("us")]
    figure = go.Figure()
    for unit in dict.fromkeys(result.target.unit for result in timed):
        own = [result for result in timed if result.target.unit == unit]
        names = [f"{result.net}, {result.spread}" for result in own]
        x, y = [result.predicted / 1e3 for result in own], [result.measured / 1e3 for result in own]
        figure.add_scatter(x=x, y=y, text=names, mode="markers", name=unit.removeprefix("us "))
    if timed:
        ends = [f(min(r.predicted, r.measured) / 1e3 for r in timed) for f in (min, max)]
        figure.add_scatter(x=ends, y=ends, mode="lines", name="equal", line={"color": "gray", "dash": "dot"})
    figure.update_xaxes(title="predicted by the search, ms", type="log")
    figure.update_yaxes(title="measured afterwards, ms", type="log")
    figure.write_html(path, include_plotlyjs=True)


def main() -> None:
    """Meet every target of every network with every spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=list(SETTINGS), default=["lenet5-caffe", "vgg", "resnet20"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--units", nargs="+", choices=list(dict.fromkeys(target.unit for target in TARGETS)))
    parser.add_argument("--batch", type=int, default=16, help="the batch that time is measured with")
    parser.add_argument("--data", type=Path, help="where the data lies; by default as everywhere in prunus")
    parser.add_argument("--cache", type=Path, default=Path("build/recover"), help="where trained networks are kept")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--picture", type=Path, help="where a page goes with predicted and measured times")
    arguments = parser.parse_args()
    print(machine(), f"{torch.get_num_threads()} threads", flush=True)
    results: list[Result] = []
    tests: list[dict[str, Any]] = []
    for net in arguments.nets:
        for seed in arguments.seeds:
            network = trained(net, seed, arguments.cache, arguments.data)
            inputs = torch.cat(network.samples())[: arguments.batch]
            dense = correct(network.model, network.data, "test").double().mean()
            print(f"\n{net}, seed {seed}; dense: {100 * float(dense):.2f}")
            for target in [own for own in TARGETS if not arguments.units or own.unit in arguments.units]:
                print(f"  {target.share:.0%} of the {target.unit}, {target.pattern}", flush=True)
                own, answers = met(network, net, seed, target, inputs)
                results += own
                tests.append({"net": net, "seed": seed, "target": asdict(target), "p": compare(answers)})
                if arguments.json:
                    arguments.json.write_text(
                        json.dumps({"results": [asdict(r) for r in results], "tests": tests}, indent=1)
                    )
    if arguments.picture:
        draw(results, arguments.picture)


if __name__ == "__main__":
    main()
