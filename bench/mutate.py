"""Change files of every kind in 10,000 ways, and see that each is refused, or is what its kind allows.

    python bench/mutate.py [--count 10000] [--seed 0] [--only program] [--out runs/bench/mutate.json]

Ten files are changed in turn: four `.prunus` files (a pruned model, one with a norm, one of few shared values, weights
of many number types), three programs, masks and two recipes. They are cut, spliced, overwritten, bits are
flipped, their headers and texts edited, numbers and settings replaced by hostile ones, aliases and nesting put in;
where a file has a checksum, most changes compute it anew, as a forger would.

Each file is read in a child of its own, forked from this process, which has read all originals. A child may take 1 GiB
of memory beyond what it began with, by the peak that the system counted for it and for the compiler it starts, and 10 s
of the processor. What counts as wrong, beside a signal, more memory or time, and any exception that the reader does not
document:

    .prunus     it decodes to something else than the original, bit by bit: its checksum is of the content
    program     it loads with its checksum untouched and computes something else than the original on fixed inputs; or,
                the checksum forged, two calls on the same inputs differ, or it touches memory outside of its own
                (tensors lie between closed pages, filled with different bytes: `guarded_memory.c`)
    masks       they load with the checksum untouched and differ; forged: they are no bool tensors
    recipe      it loads, and what it is written as can't be read back to an equal one. Recipes have no checksum: a
                changed value that is allowed is another recipe, and right

A C compiler is needed; programs are built with -O1, since hundreds of different ones are.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import os
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import prunus
from _guarded_memory import guarded_memory, preload
from _mutations import safetensors_mutations, text_mutations
from prunus import packing as pack
from prunus.compiling import load_program
from prunus.files import write_json
from prunus.lab import recipe
from prunus.machine import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from forged import mutations

MOST_BYTES = 1 << 30
LONGEST = 10  # seconds
REFUSED, ORIGINAL, OTHER = "refused", "the original", "another, allowed"


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


class Branches(nn.Module):
    """A net with every operation that programs have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.down = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1, groups=2)
        self.norm, self.fc = nn.LayerNorm(8), nn.Linear(16, 5)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return two outputs."""
        x = nn.functional.max_pool2d(self.conv(images).relu(), 3, 2, 1)
        y = self.norm((self.down(x) * 2).sigmoid().mean((2, 3)))
        x = torch.cat([y, x.amax((2, 3)).flip(1)], 1)
        return {"logits": self.fc(x).softmax(-1), "features": x}


class Tokens(nn.Module):
    """Looks up tokens, and scales an image of bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.conv, self.fc = nn.Embedding(20, 6), nn.Conv1d(6, 8, 3), nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Return one output."""
        x = self.conv(self.table(tokens).transpose(1, 2)).amax(2)
        return self.fc(x + image.float().mean((1, 2))[:, None] / 255)


def write_originals(folder: Path) -> dict[str, Path]:
    """Write the files that are to be changed."""
    torch.manual_seed(0)
    lenet = prunus.models.create("lenet", widths=(4, 6, 8))
    masks = prunus.prune(lenet, 0.8)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    paths = {name: folder / f"{name}.prunus" for name in ("model", "graph", "bits", "weights")}
    pack.save(lenet, paths["model"], example_inputs=torch.zeros(1, 1, 28, 28))
    pack.save(net, paths["graph"], example_inputs=torch.randn(1, 1, 6, 6))
    pack.save(lenet, paths["bits"], example_inputs=torch.zeros(1, 1, 28, 28), codebook_bits=3)
    pack.save(Mixed(), paths["weights"], weights_only=True)
    examples = {
        "program lenet": (lenet, torch.randn(2, 1, 28, 28)),
        "program all": (Branches(), torch.randn(2, 2, 9, 9)),
        "program tokens": (Tokens(), (torch.zeros(2, 9, dtype=torch.int64), torch.zeros(2, 4, 4, dtype=torch.uint8))),
    }
    for name, (model, example) in examples.items():
        paths[name] = folder / f"{name}.safetensors"
        prunus.compile(model.eval(), example, tune=False, threads=1).save(paths[name])
    paths["masks"] = folder / "masks.safetensors"
    masks.save(paths["masks"], "a run")
    for name in ("lenet", "lenet-channels"):
        paths[f"recipe {name}"] = folder / f"{name}.yaml"
        paths[f"recipe {name}"].write_text(recipe.load(name).yaml(), encoding="utf-8")
    return paths


def changes(kind: str, path: Path, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Return changed files of a kind, with what was done."""
    data = path.read_bytes()
    if kind.startswith("recipe"):
        return text_mutations(data, count, seed)
    if path.suffix == ".prunus":
        return mutations(data, count, seed)
    return safetensors_mutations(data, count, seed, "program" if kind.startswith("program") else "names")


def bits_of(path: Path) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    """Return all that a `.prunus` file decodes to."""
    state = pack.read_tensors(path)
    return {
        name: (tensor.dtype, tensor.shape, tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, tensor in state.items()
    }


def outputs_of(path: Path) -> list[torch.Tensor]:
    """Return what a program computes of fixed inputs of the shapes it takes.

    Raises:
        AssertionError: it computes something else the second time, in memory that was filled with something else.
    """
    with guarded_memory(0):
        program = load_program(path, tune=False)
    results = []
    for place in (0, 1):
        with guarded_memory(place):
            program._engine._idle.clear()  # so that its workspace is made anew
            torch.manual_seed(0)
            inputs = [
                torch.randint(0, 20, (3, *shape)).to(program._integers[name])
                if name in program._integers
                else torch.randn(3, *shape, dtype=program.dtype)
                for name, (_, shape) in program._inputs
            ]
            results.append([leaf.clone() for leaf in torch.utils._pytree.tree_leaves(program(*inputs))])
    same = all(torch.equal(one.nan_to_num(7), other.nan_to_num(7)) for one, other in zip(*results, strict=True))
    assert same, "two calls on the same inputs differ"
    return results[0]


def content_of(kind: str, path: Path) -> Any:
    """Return what a file holds, such that equal content is equal; errors as its reader raises them."""
    if path.suffix == ".yaml":
        read = recipe.load(path)
        path.write_text(read.yaml(), encoding="utf-8")
        assert recipe.load(path) == read, "it can't be read back from what it writes"
        return read.hash
    if path.suffix == ".prunus":
        if kind != "weights":
            prunus.load(path)
        return bits_of(path)
    if kind == "masks":
        return {name: mask.tolist() for name, mask in prunus.Masks.load(path).items()}
    return [(tensor.shape, tensor.nan_to_num(7).tolist()) for tensor in outputs_of(path)]


def documented(kind: str) -> type[ValueError]:
    """Return what a reader raises for a file that it refuses."""
    if kind.startswith("program"):
        return prunus.ProgramError
    return prunus.MaskError if kind == "masks" else ValueError if kind.startswith("recipe") else prunus.PackError


def outcome(path: Path, kind: str, way: str, expected: object) -> str:
    """Read a changed file and say what came of it."""
    try:
        content = content_of(kind, path)
    except documented(kind):
        return REFUSED
    except BaseException as error:  # a Rust panic is no Exception
        return f"FAILED: {type(error).__name__}: {str(error)[:300]}"
    if content == expected:
        return ORIGINAL
    forged = kind.startswith("recipe") or (path.suffix == ".safetensors" and "resealed" in way)
    return OTHER if forged else "FAILED: it holds something else"


class Reading(NamedTuple):
    """What came of a file, and the seconds and bytes it took."""

    came: str
    seconds: float
    grown: int


class Child:
    """A process that reads one file.

    Its memory is counted from what it has of its parent; its time is the processor's, since others use that too.
    """

    def __init__(self, path: Path, kind: str, way: str, expected: object) -> None:
        self.kind, self.way, self.path = kind, way, path
        reading, writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _read_and_exit(path, kind, way, expected, writing)
        os.close(writing)
        self._pipe = os.fdopen(reading, "rb")

    def wait(self) -> Reading:
        """Return what came of it."""
        with self._pipe:
            start, _, came = self._pipe.read().decode(errors="replace").partition(" ")
        _, status, usage = os.wait4(self._pid, 0)
        self.path.unlink()
        seconds = usage.ru_utime + usage.ru_stime
        grown = usage.ru_maxrss * 1024 - int(start or 0)
        if os.WIFSIGNALED(status) or os.WEXITSTATUS(status):
            came = f"FAILED: {signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else 'it exited'}"
        elif seconds > LONGEST or grown > MOST_BYTES:
            came = f"FAILED: it took {seconds:.1f} s and {grown / 2**20:.0f} MiB ({came})"
        return Reading(came, seconds, grown)


def _read_and_exit(path: Path, kind: str, way: str, expected: object, pipe: int) -> None:
    size, resident = (int(pages) * resource.getpagesize() for pages in Path("/proc/self/statm").read_text().split()[:2])
    os.write(pipe, f"{resident} ".encode())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (size + 3 * MOST_BYTES, size + 3 * MOST_BYTES))
    signal.setitimer(signal.ITIMER_PROF, 2 * LONGEST)
    signal.alarm(60 * LONGEST)  # a child that waits for ever takes no time of the processor
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.write(pipe, outcome(path, kind, way, expected).encode(errors="replace")[:2000])
    os._exit(0)


class Tally:
    """What came of all files, by kind and by what was done."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, collections.Counter[str]]] = {
            group: collections.defaultdict(collections.Counter) for group in ("kind", "way")
        }
        self.slowest, self.largest, self.failures = (0.0, ""), (0, ""), list[str]()

    def add(self, child: Child) -> None:
        """Wait for a child, and count its file."""
        kind, way, read = child.kind, child.way, child.wait()
        for group, name in (("kind", kind), ("way", way)):
            self.counts[group][name][read.came.partition(":")[0]] += 1
        self.slowest = max(self.slowest, (read.seconds, f"{kind}, {way}"))
        self.largest = max(self.largest, (read.grown, f"{kind}, {way}"))
        if read.came.startswith("FAILED"):
            self.failures.append(f"{kind}, {way}: {read.came}")
            print(self.failures[-1], file=sys.stderr, flush=True)

    def show(self, count: int) -> None:
        """Print the tables."""
        columns = {REFUSED: 9, ORIGINAL: 10, OTHER: 9, "FAILED": 8}
        for group, rows in self.counts.items():
            print(f"{group:32}{'files':>8}{'refused':>9}{'original':>10}{'another':>9}{'failed':>8}")
            for name, found in sorted(rows.items()):
                row = "".join(f"{found[key]:{width},}" for key, width in columns.items())
                print(f"{name:32}{found.total():8,}{row}")
            print()
        print(f"{len(self.failures)} of {count:,} failed")
        print(f"slowest: {self.slowest[0]:.2f} s ({self.slowest[1]})")
        print(f"most memory: {self.largest[0] / 2**20:.0f} MiB more than the parent ({self.largest[1]})")
        print("\n".join(self.failures[:40]))


def main() -> None:
    """Change the files, count what came of it, print tables and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="children at once; each is judged by itself")
    parser.add_argument("--only", default="", help="kinds whose name begins with this")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/mutate.json"))
    arguments = parser.parse_args()
    preload()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    tally, children = Tally(), collections.deque[Child]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"PRUNUS_CACHE": str(folder / "cache"), "CFLAGS": "-O1"}
        paths = {kind: path for kind, path in write_originals(folder).items() if kind.startswith(arguments.only)}
        keep = {kind: path.read_bytes() for kind, path in paths.items()}
        expected = {kind: content_of(kind, path) for kind, path in paths.items()}
        for kind, data in keep.items():
            paths[kind].write_bytes(data)
        streams = {
            kind: changes(kind, path, arguments.count, arguments.seed + place)
            for place, (kind, path) in enumerate(paths.items())
        }
        for number, kind in enumerate(itertools.islice(itertools.cycle(paths), arguments.count)):
            way, data = next(streams[kind])
            changed = folder / f"changed-{number}{paths[kind].suffix}"
            changed.write_bytes(data)
            children.append(Child(changed, kind, way, expected[kind]))
            if len(children) >= arguments.jobs:
                tally.add(children.popleft())
            if number % 200 == 0:
                print(f"{number:,}, {len(tally.failures)} failed", file=sys.stderr, flush=True)
        while children:
            tally.add(children.popleft())
    tally.show(arguments.count)
    result = {
        "settings": {"count": arguments.count, "seed": arguments.seed, "only": arguments.only},
        "machine": {"torch": torch.__version__, **dataclasses.asdict(machine())},
        "counts": {group: {name: dict(found) for name, found in rows.items()} for group, rows in tally.counts.items()},
        "failures": tally.failures,
        "slowest_seconds": tally.slowest,
        "most_bytes": tally.largest,
    }
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
