"""Files are whole or not there, their bytes depend on their content only, and nothing is ever unpickled."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunus.errors import MaskError
from prunus.files import (
    content_hash,
    load_tensors,
    load_with_metadata,
    remove_left_overs,
    save_tensors,
    whole_file,
    write_json,
    write_text,
)
from prunus.pruning.masks import Masks

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.int64, torch.uint8]


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_appears_whole_and_its_folder_with_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "text.txt"
    with whole_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent, "a rename over file systems would be a copy"
    assert path.read_text() == "half"
    assert names_in(path.parent) == ["text.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "text.txt"
    write_text(path, "old")

    def write() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("new")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["text.txt"]


def test_what_cant_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    with pytest.raises(AttributeError):
        save_tensors(tmp_path / "a.safetensors", {"a": "no tensor"})  # type: ignore[dict-item]
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, expected: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "text", "x")
        save_tensors(tmp_path / "tensors", {"x": torch.ones(1)})
    finally:
        assert os.umask(before) == umask
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("text", "tensors")} == {expected}


KILLED_WRITER = """
import sys, torch
from pathlib import Path
from prunus.files import save_tensors
path = Path(sys.argv[1])
round = 0
while True:
    round += 1
    save_tensors(path, {"a": torch.full((1_000_000,), float(round)), "b": torch.full((1_000_000,), float(round))})
    print(round, flush=True)
"""


def test_a_killed_writer_leaves_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    for moment in random.Random(0).sample(range(60), 3):
        writer = subprocess.Popen([sys.executable, "-c", KILLED_WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        writer.stdout.readline()  # one file is there: from now on there always is
        time.sleep(moment / 1000)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        tensors = load_tensors(path)
        assert len({float(value) for tensor in tensors.values() for value in (tensor[0], tensor[-1])}) == 1
    remove_left_overs(tmp_path)
    assert names_in(tmp_path) == [path.name]


def test_left_overs_are_told_from_files(tmp_path: Path) -> None:
    kept = ["model.safetensors", ".hidden", "notes.part", ".tmp", "sub"]
    (tmp_path / "sub").mkdir()
    for name in [*kept[:-1], ".model.safetensors.0123456789abcdef.part", ".tmpAb12Cd", "sub/.x.1.part"]:
        (tmp_path / name).write_text("")
    remove_left_overs(tmp_path)
    assert names_in(tmp_path) == sorted(kept)
    assert names_in(tmp_path / "sub") == []


@st.composite
def tensors_of_any_kind(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    seed = draw(st.integers(0, 9))
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(3).to(dtype)
    if tensor.dim() == 4 and draw(st.booleans()):
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.transpose(0, 1) if tensor.dim() == 2 else tensor


@given(st.dictionaries(st.text(min_size=1, max_size=8), tensors_of_any_kind(), max_size=4))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tensors_come_back_as_they_were(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    tensors.pop("__metadata__", None)
    path = tmp_path / "tensors.safetensors"
    save_tensors(path, tensors)
    back = load_tensors(path)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)
    by_the_library = safetensors.torch.load_file(path)
    assert all(torch.equal(by_the_library[name], tensor) for name, tensor in tensors.items())


def test_tensors_that_share_memory_are_each_written_whole(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    tensors = {"whole": whole, "again": whole, "part": whole[3:7], "view": whole.view(3, 4), "grad": whole[:2]}
    tensors["parameter"] = torch.nn.Parameter(torch.ones(2))
    save_tensors(tmp_path / "x", tensors)
    back = load_tensors(tmp_path / "x")
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_the_same_content_gives_the_same_bytes_whatever_the_order(tmp_path: Path) -> None:
    tensors = {"b": torch.ones(3), "a": torch.zeros(2, dtype=torch.bool)}
    metadata = {f"key{index}": str(index) for index in range(8)}
    save_tensors(tmp_path / "one", tensors, metadata)
    code = (
        "import torch; from prunus.files import save_tensors; "
        f"save_tensors({str(tmp_path / 'two')!r}, dict(a=torch.zeros(2, dtype=torch.bool), b=torch.ones(3)), "
        f"dict(reversed({metadata!r}.items())))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert load_with_metadata(tmp_path / "two")[1] == metadata


def test_metadata_of_other_programs_is_read_as_it_is(tmp_path: Path) -> None:
    for metadata in ({"format": "pt"}, {"prunus": "[1, 2]"}):
        safetensors.torch.save_file({"x": torch.ones(1)}, tmp_path / "x", metadata)
        assert load_with_metadata(tmp_path / "x")[1] == metadata
    safetensors.torch.save_file({"x": torch.ones(1)}, tmp_path / "x")
    assert load_with_metadata(tmp_path / "x")[1] == {}


class Bomb:
    """Pickled, it writes a file as soon as it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


def test_pickles_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    target = tmp_path / "went off"
    torch.save({"weight": torch.ones(3), "bomb": Bomb(target)}, tmp_path / "model.pt")
    (tmp_path / "raw.pkl").write_bytes(pickle.dumps(Bomb(target)))
    for name in ("model.pt", "raw.pkl"):
        with pytest.raises(ValueError, match=r"saved by torch\.save, which prunus never loads"):
            load_tensors(tmp_path / name)
    assert not target.exists()


def test_a_file_that_is_not_there_is_told_by_its_path(tmp_path: Path) -> None:
    for path in (tmp_path / "no.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError) as caught:
            load_tensors(path)
        assert str(caught.value) == f"no file at {str(path)!r}; expected a .safetensors file"


def good_bytes() -> bytes:
    return safetensors.torch.save({"weight": torch.arange(6.0).view(2, 3)}, {"prunus": json.dumps({"a": "b"})})


@given(st.integers(0, len(good_bytes()) - 1))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_truncated_files_are_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(good_bytes()[:length])
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        load_tensors(path)


@given(st.one_of(st.binary(max_size=300), st.tuples(st.integers(0, 130), st.integers(0, 255))))
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_bytes_there_are_tensors_or_a_clear_error(tmp_path: Path, bytes_: bytes | tuple[int, int]) -> None:
    if isinstance(bytes_, tuple):  # a good file with one byte changed
        place, value = bytes_
        bytes_ = bytes(value if index == place else byte for index, byte in enumerate(good_bytes()))
    path = tmp_path / "any.safetensors"
    path.write_bytes(bytes_)
    try:
        tensors = load_tensors(path)
    except ValueError as error:
        assert "is not a readable safetensors file" in str(error)  # noqa: PT017
    else:
        assert all(isinstance(tensor, Tensor) for tensor in tensors.values())


def _raw(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _one(dtype: str, shape: list[int], num_bytes: int) -> dict[str, object]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, num_bytes]}}


@pytest.mark.parametrize(
    "content",
    {
        "metadata nested deeply": _raw({"__metadata__": {"prunus": "[" * 100_000}}),
        "a number of many digits": _raw({"__metadata__": {"prunus": "1" * 5000}}),
        "a length over 64 bits": _raw(_one("F32", [0, 2**63], 0)),
        "thousands of dimensions": _raw(_one("U8", [1] * 5000, 1), b"a"),
        "bools that are neither": _raw(_one("BOOL", [2], 2), b"\1\7"),
        "more than there is": _raw(_one("F32", [2**40], 2**42)),
        "header of any length": struct.pack("<Q", 2**62) + b"{}",
    }.items(),
    ids=lambda item: item[0],
)
def test_a_hostile_file_is_refused_with_one_error(content: tuple[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content[1])
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        load_with_metadata(tmp_path / "a.safetensors")
    with pytest.raises(MaskError, match="does not hold masks"):
        Masks.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("names", ["[" * 100_000, '["a", "b"]', '{"b": 1}', "[[1]]", "7", '["a", "a"]'])
def test_names_of_masks_that_are_not_those_of_the_tensors(names: str, tmp_path: Path) -> None:
    save_tensors(tmp_path / "m.safetensors", {"a": torch.ones(2) > 0}, {"names": names})
    with pytest.raises(MaskError, match="does not hold masks"):
        Masks.load(tmp_path / "m.safetensors")


def test_damaged_masks_are_refused_and_those_of_the_first_version_read(tmp_path: Path) -> None:
    path, masks = tmp_path / "m.safetensors", Masks({"b": torch.rand(9) < 0.5, "a": torch.rand(3, 2) < 0.5})
    masks.save(path, "a run")
    content = path.read_bytes()
    for place in (len(content) - 1, content.index(b"a run"), content.index(b"checksum"), content.rindex(b"made_from")):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(MaskError, match="does not hold masks"):
            Masks.load(path)
    save_tensors(path, dict(masks), {"kind": "masks", "names": '["b", "a"]', "made_from": ""})
    assert list(Masks.load(path)) == ["b", "a"]


def test_the_hash_of_content_knows_no_strides() -> None:
    for plain in (torch.ones(1, 1), torch.zeros(0, 3), torch.tensor(2.0), torch.ones(2, 3).t().clone()):
        other = plain.as_strided(
            plain.shape, [0 if size == 1 else step for size, step in zip(plain.shape, plain.stride(), strict=True)]
        )
        assert content_hash({"a": plain}) == content_hash({"a": other})
