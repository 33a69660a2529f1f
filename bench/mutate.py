"""Change `.prunus` files in 10,000 ways, and see that each is refused or decodes to exactly the original.

    python bench/mutate.py [--count 10000] [--seed 0] [--out runs/bench/mutate.json]

Four files are changed in turn: a model told by its name, one told by its graph, one of few shared values, and weights
of many number types. They are cut, spliced, overwritten, bits are flipped, their headers edited and their lengths; in 7
of 10 cases the checksum is computed anew, as a forger would, so that the rest of the reader meets the change. `load`
and `read_tensors` may raise PackError, and nothing else; what they return is compared with the original, bit by bit.
The time of each file is taken, and the memory of the process.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import prunus
from prunus import pack
from prunus.files import write_json
from prunus.machine import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "pack"))
from forged import mutations


class Mixed(nn.Module):
    """Weights of many number types and ways to be coded, which only load into a model."""

    def __init__(self) -> None:
        super().__init__()
        for place, dtype in enumerate((torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn)):
            weight = torch.randn(20, 30) * (torch.rand(20, 30) < 0.3)
            self.register_buffer(f"float{place}", weight.to(dtype))
        self.register_buffer("table", torch.arange(2000) % 37)
        self.register_buffer("again", torch.arange(2000) % 37)
        self.register_buffer("mask", torch.ones(64, 64, dtype=torch.bool).tril())
        self.register_buffer("waves", torch.complex(torch.randn(50), torch.zeros(50)))
        self.register_buffer("rows", (torch.rand(80, 90) < torch.rand(80, 1) ** 4).float())
        self.register_buffer("nothing", torch.zeros(0, 3))


def write_originals(folder: Path) -> dict[str, Path]:
    """Write the files that are to be changed."""
    torch.manual_seed(0)
    lenet = prunus.models.create("lenet", widths=(4, 6, 8))
    prunus.prune(lenet, 0.8)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    paths = {name: folder / f"{name}.prunus" for name in ("model", "graph", "bits", "weights")}
    pack.save(paths["model"], lenet)
    pack.save(paths["graph"], net, example_inputs=torch.randn(1, 1, 6, 6))
    pack.save(paths["bits"], lenet, bits=3)
    pack.save(paths["weights"], Mixed(), weights_only=True)
    return paths


def bits_of(path: Path) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    """Return all that a file decodes to."""
    state = pack.read_tensors(path)
    return {
        name: (tensor.dtype, tensor.shape, tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, tensor in state.items()
    }


def outcome(path: Path, kind: str, expected: object) -> str:
    """Read a changed file and say what came of it."""
    try:
        if kind != "weights":
            prunus.load(path)
        found = bits_of(path)
    except prunus.PackError:
        return "refused"
    except BaseException as error:  # a Rust panic is no Exception
        return f"FAILED: {type(error).__name__}: {error}"
    return "the original" if found == expected else "FAILED: decoded to something else"


def main() -> None:
    """Change the files, count what came of it, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/mutate.json"))
    arguments = parser.parse_args()
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    slowest, failures = (0.0, ""), []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_originals(Path(folder))
        expected = {kind: bits_of(path) for kind, path in paths.items()}
        prunus.load(paths["graph"])  # imports what a graph takes, before memory is read
        streams = {
            kind: mutations(path.read_bytes(), arguments.count, arguments.seed + place)
            for place, (kind, path) in enumerate(paths.items())
        }
        changed = Path(folder) / "changed.prunus"
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for kind in itertools.islice(itertools.cycle(paths), arguments.count):
            way, data = next(streams[kind])
            changed.write_bytes(data)
            began = time.perf_counter()
            came = outcome(changed, kind, expected[kind])
            slowest = max(slowest, (time.perf_counter() - began, f"{kind}, {way}"))
            counts[way][came.partition(":")[0]] += 1
            if came.startswith("FAILED"):
                failures.append(f"{kind}, {way}: {came}")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(f"{'what was done':32}{'files':>8}{'refused':>9}{'original':>10}{'failed':>8}")
    for way, found in sorted(counts.items()):
        row = (found[key] for key in ("refused", "the original", "FAILED"))
        print(f"{way:32}{found.total():8,}{''.join(f'{n:{w},}' for n, w in zip(row, (9, 10, 8), strict=True))}")
    print(f"\n{len(failures)} of {arguments.count:,} failed; slowest {slowest[0]:.2f} s ({slowest[1]});")
    print(f"the process's peak memory grew by {grown / 2**20:.0f} MiB")
    print("\n".join(failures[:20]))
    result = {
        "settings": {"count": arguments.count, "seed": arguments.seed},
        "machine": {"torch": torch.__version__, **dataclasses.asdict(machine())},
        "counts": {way: dict(found) for way, found in counts.items()},
        "failures": failures,
        "slowest_seconds": slowest[0],
        "peak_grew_bytes": grown,
    }
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
