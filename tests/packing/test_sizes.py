from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import pytest
import torch
import zstandard
from torch import nn

from prunus import extras, files
from prunus.lab import models
from prunus.packing.sizes import sizes


def test_sizes_are_those_of_the_written_files(tmp_path: Path):
    state = models.create("lenet").state_dict()
    state["fc.weight"][:, ::2] = 0
    path = tmp_path / "model.safetensors"
    files.save_tensors(path, state)
    content = path.read_bytes()
    found = sizes(state)
    assert found.notes == ()
    assert found.bytes == {
        "safetensors": len(content),
        "gzip": len(gzip.compress(content, 9, mtime=0)),
        "zstd": len(zstandard.ZstdCompressor(level=19).compress(content)),
    }
    assert found == sizes(state)


def test_gzip_is_what_the_program_writes_to_a_few_bytes(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    state = {"weight": torch.randn(300, 300) * (torch.rand(300, 300) > 0.9)}
    files.save_tensors(path, state)
    subprocess.run(["gzip", "-9", "-n", str(path)], check=True)
    assert sizes(state).bytes["gzip"] == pytest.approx((tmp_path / "model.safetensors.gz").stat().st_size, rel=0.01)


def test_zeros_do_not_shrink_the_file_but_the_compressed_one():
    dense, pruned = nn.Linear(200, 200).state_dict(), nn.Linear(200, 200).state_dict()
    pruned["weight"][torch.rand(200, 200) < 0.9] = 0
    before, after = sizes(dense).bytes, sizes(pruned).bytes
    assert before["safetensors"] == after["safetensors"]
    assert after["gzip"] < 0.25 * before["gzip"]
    assert after["zstd"] < 0.25 * before["zstd"]


def test_buffers_dtypes_and_tied_weights_take_their_bytes():
    model = nn.Sequential(nn.Linear(100, 100, bias=False), nn.BatchNorm1d(100), nn.Linear(100, 100, bias=False)).half()
    model[2].weight = model[0].weight  # under two names in the state dict, twice in the file
    found = sizes(model.state_dict()).bytes["safetensors"]
    payload = 2 * 2 * 10_000 + 4 * 2 * 100 + 8
    assert payload < found < payload + 1000


def test_a_large_model_is_not_compressed_and_says_so():
    found = sizes({"weight": torch.zeros(1000)}, compress_limit=4079)
    assert found.bytes == {"safetensors": 4080}
    assert found.notes == ("gzip, zstd: the file has 4,080 bytes, above the limit of 4,079 for compressing",)
    assert set(sizes({"weight": torch.zeros(1000)}, compress_limit=4080).bytes) == {"safetensors", "gzip", "zstd"}


def test_without_zstandard_its_size_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    def missing(module: str, purpose: str) -> None:
        raise extras.MissingExtraError(f"{purpose} needs {module}")

    monkeypatch.setattr(extras, "require", missing)
    found = sizes({"weight": torch.zeros(10)})
    assert set(found.bytes) == {"safetensors", "gzip"}
    assert found.notes == ("the size through zstd -19 needs zstandard",)


def test_what_safetensors_cannot_hold_is_named():
    found = sizes({"weight": torch.zeros(3), "version": 3})
    assert found == ({}, ("bytes: 'version' of the state dict is a int, which safetensors can't hold",))
    assert "torch.sparse_coo tensor" in sizes({"weight": torch.eye(2).to_sparse()}).notes[0]


def test_an_empty_state_has_a_header_only():
    assert sizes({}).bytes["safetensors"] < 50
