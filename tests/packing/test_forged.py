"""What is no `.prunus` file, or no longer one: refused in words, within little memory and time; never anything else."""

from __future__ import annotations

import hashlib
import json
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import prunus
from forged import mutations, resealed, with_header
from prunus.errors import PackError
from prunus.files import save_tensors
from prunus.packing import container, read_tensors
from prunus.packing.coder import Encoder
from prunus.packing.dictionaries import DICTIONARIES


class Odd(nn.Module):
    """Some of everything: a codebook, whole numbers, zeros, repeats, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.sparse = nn.Parameter(torch.randn(60, 50, generator=generator) * (torch.rand(60, 50) < 0.1))
        self.listed = nn.Parameter(torch.randint(-3, 3, (40, 30), generator=generator) * 0.3)
        self.short = nn.Parameter(torch.randn(9, 9, generator=generator).half())
        self.tied = self.short
        self.register_buffer("table", torch.arange(1000) % 37)
        self.register_buffer("steps", torch.tensor(77))
        self.register_buffer("again", torch.arange(1000) % 37)
        self.register_buffer("rows", (torch.rand(80, 90, generator=generator) < torch.rand(80, 1) ** 4).float())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of a pruned model, of one with a norm, and of weights only."""
    folder = tmp_path_factory.mktemp("packed")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pruned = prunus.models.create("lenet", widths=(3, 4, 5))
        prunus.prune(pruned, 0.8)
        graph = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
        odd = Odd()
    paths = {kind: folder / f"{kind}.prunus" for kind in ("pruned", "graph", "weights")}
    prunus.save(pruned, paths["pruned"], torch.zeros(1, 1, 28, 28))
    prunus.save(graph, paths["graph"], example_inputs=torch.randn(1, 1, 6, 6))
    prunus.save(odd, paths["weights"], weights_only=True)
    return paths


def bits_of(path: Path) -> dict[str, Any]:
    return {name: (t.dtype, t.shape, t.numpy().tobytes()) for name, t in read_tensors(path).items()}


@pytest.mark.parametrize("kind", ["pruned", "graph", "weights"])
def test_a_mutated_file_is_refused_or_gives_exactly_the_original(
    files: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    original, changed = files[kind].read_bytes(), tmp_path / "changed.prunus"
    expected = bits_of(files[kind])
    for told, data in mutations(original, 120, seed=len(kind)):
        changed.write_bytes(data)
        try:
            if kind != "weights":
                prunus.load(changed)
            found = bits_of(changed)
        except PackError:
            continue
        assert found == expected, told


@pytest.mark.parametrize("kind", ["pruned", "weights"])
def test_each_single_flipped_bit_is_found(files: dict[str, Path], kind: str, tmp_path: Path) -> None:
    original, changed = files[kind].read_bytes(), tmp_path / "changed.prunus"
    for at in range(0, 8 * len(original), 101):
        data = bytearray(original)
        data[at // 8] ^= 1 << at % 8
        changed.write_bytes(data)
        with pytest.raises(PackError):
            read_tensors(changed)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty"),
        (b"PR", "it is too short"),
        (b"PRUN\x02" + b"\0" * 10, "it is too short"),
        (b"PRUN\x03" + b"\0" * 50, "version 3 of the format, and this prunus reads up to 2; upgrade prunus"),
        (b"PRUN\x01" + b"\0" * 50, "it is of prunus 0.1, .* extract its weights with prunus 0.1"),
        (b"PRUN\x00" + b"\0" * 50, "its version is 0"),
        (b"PRUN\x02" + b"\0" * 50, "its checksum is not that of its content"),
        (b"\x80\x02}q\x00.", "it is not a .prunus file, but a pickle"),
        (b"\x28\xb5\x2f\xfd....", "but a zstd file"),
        (b"import os", "it is not a .prunus file"),
    ],
)
def test_what_is_something_else_is_said(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "model.prunus"
    path.write_bytes(content)
    with pytest.raises(PackError, match=told) as caught:
        prunus.load(path)
    assert str(path) in str(caught.value)


def test_other_kinds_of_files_and_none(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="is a directory"):
        prunus.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"expected a \.prunus file"):
        prunus.load(tmp_path / "none.prunus")
    save_tensors(tmp_path / "model.safetensors", {"weight": torch.zeros(3)})
    with pytest.raises(PackError, match="holds tensors, but neither masks, scales nor a program"):
        prunus.load(tmp_path / "model.safetensors")
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("data.pkl", "x")
    with pytest.raises(PackError, match=r"a zip archive, such as torch\.save writes"):
        prunus.load(tmp_path / "model.pt")


HEADERS: list[tuple[Any, str]] = [
    ([], "not a JSON object"),
    ({}, "names the number type None"),
    ({"dtype": "float32"}, "does not list the tensors"),
    ({"dtype": "float31", "tensors": []}, "number type 'float31'"),
    ({"dtype": ["float32"], "tensors": []}, "number type"),
    ({"dtype": "float32", "tensors": [["w", -1]]}, "the shape of 'w'"),
    ({"dtype": "float32", "tensors": [["w", 1.5]]}, "the shape of 'w'"),
    ({"dtype": "float32", "tensors": [["w", True]]}, "the shape of 'w'"),
    ({"dtype": "float32", "tensors": ["w"]}, "the shape of 'w'"),
    ({"dtype": "float32", "tensors": [["w"], "v"]}, "the shape of 'v'"),
    ({"dtype": "float32", "tensors": [[7]]}, "as a tensor"),
    ({"dtype": "float32", "tensors": [[]]}, "as a tensor"),
    ({"dtype": "float32", "tensors": [7]}, "as a tensor"),
    ({"dtype": "float32", "tensors": [["w", 2], ["w", 2]]}, "two of its tensors have the name 'w'"),
    ({"dtype": "float32", "tensors": ["/a.", ["w", 2], "/", ["a.w", 2]]}, "two of its tensors have the name 'a.w'"),
    ({"dtype": "float32", "tensors": ["/" + "a" * 50_000, *([f"{place}", 2] for place in range(400))]}, "characters"),
    ({"dtype": "float32", "tensors": [["w", *[1] * 65]]}, "the shape of 'w'"),
    ({"dtype": "float32", "tensors": [["w", 1 << 40, 1 << 40]]}, "larger than any tensor"),
    ({"dtype": "float32", "tensors": [["w", 1 << 40, 0, 1 << 40]]}, "larger than any tensor"),
    ({"dtype": "float32", "tensors": [["w", 1 << 40]]}, "give max_bytes=4398046511104"),
    ({"dtype": "float32", "tensors": [["w", 1 << 40, 0], "v"]}, "give max_bytes=4398046511104"),
    ({"dtype": "float32", "tensors": [["w", "same", 0]]}, "'w' is tied to"),
    ({"dtype": "float32", "tensors": [["v", 2], ["w", "same", 1]]}, "'w' is tied to"),
    ({"dtype": "float32", "tensors": [["v", 2], ["w", "same", -1]]}, "'w' is tied to"),
    ({"dtype": "float32", "tensors": [["v", 2], ["w", "same", "v"]]}, "'w' is tied to"),
    ({"dtype": "float32", "tensors": [["v", 2], ["w", "same"]]}, "'w' is tied to"),
    ({"graph": 1, "dtype": "float32", "tensors": []}, "not what was written"),
]


@pytest.mark.parametrize(("header", "told"), HEADERS, ids=range(len(HEADERS)))
def test_forged_headers_are_refused_before_memory_is_taken(
    files: dict[str, Path], tmp_path: Path, header: Any, told: str
) -> None:
    path = tmp_path / "forged.prunus"
    path.write_bytes(with_header(files["pruned"].read_bytes(), json.dumps(header).encode()))
    tracemalloc.start()
    try:
        with pytest.raises(PackError, match=told):
            prunus.load(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def forged(tmp_path: Path, graph: Any) -> Path:
    """Return a file of one empty tensor, whose checksums fit."""
    text = container.header_text({"graph": graph, "dtype": "float32", "tensors": [["w", 0]]})
    checksum = container.content_checksum(text, [("w float32 [0]", hashlib.sha256(b"").digest())])
    path = tmp_path / "forged.prunus"
    path.write_bytes(container.join(text, b"", checksum))
    return path


@pytest.mark.parametrize("graph", [None, 1, {}, {"kinds": 1}, {"kinds": "bb"}, {"kinds": ["b"]}])
def test_kinds_that_are_not_told_are_refused_though_every_checksum_fits(tmp_path: Path, graph: Any) -> None:
    with pytest.raises(PackError, match="kind of each tensor"):
        read_tensors(forged(tmp_path, graph))


def test_graphs_that_were_forged_are_refused_though_every_checksum_fits(tmp_path: Path) -> None:
    for graph in (1, None, {}, {"version": 99}, {"nodes": [["os.system", "true"]]}):
        with pytest.raises(PackError, match="graph"):
            prunus.load(forged(tmp_path, graph))


@pytest.mark.parametrize("text", [b"[" * 100_000, b"\xff\xfe", b'{"a":1,"a":2}', b"NaN", b"1" * 5000])
def test_headers_that_are_no_json_are_refused(files: dict[str, Path], tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "forged.prunus"
    path.write_bytes(with_header(files["pruned"].read_bytes(), text))
    with pytest.raises(PackError, match="JSON"):
        prunus.load(path)


def test_a_header_can_not_unpack_to_more_than_it_says_or_than_a_file_may_hold(
    files: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "bomb.prunus"
    bomb = container.join(b" " * (1 << 17), b"", bytes(8))
    assert len(bomb) < 5000
    start = 13 + 8 + 1
    length = bomb.index(struct.pack("BBB", 0x80, 0x80, 0x08), start)  # 1 << 17, in bytes of seven bits
    for size in (b"\x05", b"\x81\x80\x08", b"\x80\x80\x80\x80\x08"):
        path.write_bytes(resealed(bomb[:length] + size + bomb[length + 3 :]))
        with pytest.raises(PackError, match="its header"):
            prunus.load(path)


def test_a_dictionary_that_a_later_prunus_has_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(files["pruned"].read_bytes())
    data[13 + 8] += 1
    (tmp_path / "later.prunus").write_bytes(resealed(bytes(data)))
    with pytest.raises(PackError, match="needs dictionary 2, and this prunus has 1 of them; upgrade prunus"):
        prunus.load(tmp_path / "later.prunus")


def test_dictionaries_never_change() -> None:
    digests = [hashlib.sha256(dictionary).hexdigest()[:16] for dictionary in DICTIONARIES]
    assert digests == ["fd9e09c86d1fbdc4"]


def test_zeros_without_end_need_leave(tmp_path: Path) -> None:
    class Zeros(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2200, 2000))

    facts = prunus.save(Zeros(), tmp_path / "zeros.prunus", weights_only=True)
    assert facts.bytes < 100
    with pytest.raises(PackError, match="give max_bytes=17600000"):
        read_tensors(tmp_path / "zeros.prunus")
    found = read_tensors(tmp_path / "zeros.prunus", max_bytes=17_600_000)
    assert found["weight"].shape == (2200, 2000)
    assert not found["weight"].any()


@pytest.mark.parametrize("mode", range(8))
def test_random_bits_after_any_mode_end_soon_in_an_error(tmp_path: Path, mode: int) -> None:
    """A forger can ask for each way of coding a tensor of 16 MB; what follows is noise."""
    generator = np.random.default_rng(mode)
    text = container.header_text({"dtype": "float32", "tensors": [["w", 2048, 2000]]})
    path = tmp_path / "noise.prunus"
    for length in (0, 30, 300):
        encoder = Encoder()
        encoder.number(mode, 8)
        encoder.raw(generator.bytes(length))
        path.write_bytes(container.join(text, encoder.finish(), bytes(8)))
        began = time.perf_counter()
        with pytest.raises(PackError):
            read_tensors(path)
        assert time.perf_counter() - began < 20
