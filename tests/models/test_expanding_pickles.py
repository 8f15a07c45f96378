"""Pickles of a few bytes that would take any memory or time are refused at once; a record under many names is read a few times only."""

from __future__ import annotations

import io
import pickle
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch

from configs.errors import RequestError
from models.checkpoint import read_state
from models.contents import file_contents


def _archive(path: Path, data: bytes, record: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", data)
        archive.writestr("x/data/0", record)
    return path


def _list_again_and_again() -> bytes:
    """A text of 1 MB made a list a thousand times."""
    text = pickle.BINUNICODE + struct.pack("<I", 2**20) + b"a" * 2**20 + pickle.BINPUT + b"\0"
    again = b"cbuiltins\nlist\n" + pickle.BINGET + b"\0" + pickle.TUPLE1 + pickle.REDUCE
    return pickle.PROTO + b"\4" + pickle.EMPTY_LIST + pickle.MARK + text + again * 1000 + pickle.APPENDS + pickle.STOP


def _tuples_as_a_key(depth: int, width: int) -> bytes:
    """A key of width ** depth parts."""
    wider = (pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)[width - 1]
    level = pickle.BINPUT + b"\0" + pickle.POP + (pickle.BINGET + b"\0") * width + wider
    return (
        pickle.PROTO
        + b"\4"
        + pickle.EMPTY_DICT
        + pickle.EMPTY_TUPLE
        + level * depth
        + pickle.BININT1
        + b"\1"
        + pickle.SETITEM
        + pickle.STOP
    )


@pytest.mark.parametrize(
    "data",
    [_list_again_and_again(), _tuples_as_a_key(45, 3), _tuples_as_a_key(100_000, 1)],
    ids=["list again and again", "wide tuples", "deep tuples"],
)
def test_a_pickle_that_expands_is_refused(tmp_path, data):
    path = _archive(tmp_path / "bomb.pth", data)
    began = time.process_time()
    with pytest.raises(RequestError, match=r"damaged \(what it holds expands far beyond its length\)"):
        file_contents(path)
    assert time.process_time() - began < 10


def test_two_thousand_tensors_over_one_record_are_refused(tmp_path):
    part = torch.zeros(2**19)
    stream = io.BytesIO()
    torch.save({f"w{number}": part.view(2**19)[number:] for number in range(2000)}, stream)
    (tmp_path / "many.pth").write_bytes(stream.getvalue())
    with pytest.raises(RequestError, match="tensors that hold many times the bytes of the file"):
        read_state(tmp_path / "many.pth")


def test_an_honest_checkpoint_of_many_parameters_and_shared_ones_reads(tmp_path):
    shared = torch.arange(1000.0)
    state = {f"layer{number}.weight": torch.full((3, 4), float(number)) for number in range(3000)} | {"a": shared, "b": shared}
    torch.save({"net": state, "optimizer": {"state": {number: {"step": number} for number in range(3000)}}}, tmp_path / "w.pth")
    read, _ = read_state(tmp_path / "w.pth")
    assert len(read) == 3002 and read["layer2999.weight"][2, 3] == 2999 and torch.equal(read["a"], read["b"])
