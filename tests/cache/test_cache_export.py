"""Copies: the same byte by byte on the way back, whole or not there, and never written to."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import cache
from cache import Cache
from cache.__main__ import main
from cache.backends import hdf5
from cache.export import export
from cache.owner import owner
from cache.verify import verify
from configs import stop
from configs.cli import run
from configs.errors import RequestError, RunError


def test_a_copy_is_whole_and_comes_back_byte_by_byte(kit, tmp_path):
    source = kit.fill(tmp_path / "cache")
    source.add_history({"seconds": 2})
    kit.add_maps(source, teacher="other", name="more", constants={}, about={})
    lines: list[str] = []
    copy = export(source, tmp_path / "copy.h5", lines.append)
    assert lines[:2] == ["pairs: part 1 of 3", "pairs: part 2 of 3"]
    assert [fault.where for fault in verify(copy)] == ["targets/other/more"]
    assert copy.metadata == source.metadata
    export(copy, tmp_path / "back")
    assert kit.tree(tmp_path / "back") == kit.tree(tmp_path / "cache")
    assert sorted(os.listdir(tmp_path)) == ["back", "cache", "copy.h5"]


def test_a_copy_to_a_directory_goes_on_where_it_stopped(kit, tmp_path):
    source = kit.fill(tmp_path / "cache")
    half = kit.create(tmp_path / "copy")
    kit.write(half, half.pairs, 1)
    lines: list[str] = []
    export(source, tmp_path / "copy", lines.append)
    assert lines[:2] == ["pairs: part 1 of 3", "pairs: part 3 of 3"]
    assert kit.tree(tmp_path / "copy") == kit.tree(tmp_path / "cache")
    with pytest.raises(RequestError, match=r"split: cached .* name another place for the copy"):
        export(kit.create(tmp_path / "other", identity={**kit.IDENTITY, "split": "val"}), tmp_path / "copy")


def test_a_file_that_is_there_is_left_as_it_is(kit, tmp_path):
    source, out = kit.fill(tmp_path / "cache"), tmp_path / "copy.h5"
    export(source, out)
    before = out.read_bytes()
    lines: list[str] = []
    export(source, out, lines.append)
    assert lines == [f"{out}: already there, a copy that lacks nothing"]
    source.backend.retract("pairs", [1])
    unit = kit.add_maps(source, name="more")
    with pytest.raises(RequestError, match=r"found another file \(pairs.parts: cached 3, wanted 2; targets/atom/more.fingerprint: cached"):
        export(source, out)
    kit.write(source, source.pairs, 1)
    kit.write(source, unit, 0)
    with pytest.raises(RequestError, match=r"targets/atom/more.parts: cached nothing, wanted 1\); name another file, or remove that one"):
        export(source, out)
    with pytest.raises(RequestError, match=r'identity.split: cached "train", wanted "val"'):
        export(kit.create(tmp_path / "other", identity={**kit.IDENTITY, "split": "val"}), out)
    assert out.read_bytes() == before
    (tmp_path / "file.h5").write_text("x")
    with pytest.raises(RequestError, match=r"file.h5: expected a free name or a copy of .*, found a file that is no cache; name"):
        export(source, tmp_path / "file.h5")
    assert (tmp_path / "file.h5").read_text() == "x"


def test_a_copy_of_damage_is_refused(kit, tmp_path):
    source = kit.fill(tmp_path / "cache")
    shard = tmp_path / "cache/crops/jpeg/c.1"
    shard.write_bytes(shard.read_bytes()[:100] + b"?" + shard.read_bytes()[101:])
    for out in ("copy.h5", "copy"):
        with pytest.raises(RunError, match="crops/jpeg, part 1: expected sound bytes to copy, found checksum of the shard differs"):
            export(source, tmp_path / out)
    assert Cache.open(tmp_path / "copy").pairs.missing() == [1, 2]
    assert sorted(os.listdir(tmp_path)) == ["cache", "copy"]


def test_a_copy_is_never_written_to(kit, tmp_path, capsys):
    path = tmp_path / "cache.h5"
    copy, before = kit.fill(path), path.read_bytes()
    for write in (
        lambda: kit.create(path),
        lambda: kit.create(tmp_path / "new.h5"),
        lambda: kit.add_maps(copy),
        lambda: copy.add_history({"seconds": 1}),
        lambda: kit.write(copy, copy.pairs, 1),
    ):
        with pytest.raises(RequestError, match=r"h5: expected a zarr cache .*, found the path of an HDF5 file, which is a copy .*; change"):
            write()
    for what in (("--target", "atom/maps"), ("--teacher", "atom"), ("--unfinished",), ("--damaged",)):
        assert run(main, ["gc", str(path), *what, "--yes"]) == 2
        out, error = capsys.readouterr()
        assert (out, error.count("\n")) == ("", 1)
        assert "which is a copy and never changed; change the zarr cache and export it again (`python -m cache export`)" in error
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["cache.h5"]


# An export is killed at its n-th call that makes something lasting, or fails there for want of room.
EXPORT = """
import os, resource, signal, sys
from cache import Cache
from cache.export import export

source, out, name, turn = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
if name == "room":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (turn, turn))
else:
    real, calls = getattr(os, name), [0]
    def call(*arguments, **options):
        calls[0] += 1
        if calls[0] > turn:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    setattr(os, name, call)
export(Cache.open(source), out)
"""


def child(kit, tmp_path: Path, name: str, turn: int) -> subprocess.CompletedProcess[str]:
    """One export in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(cache.__file__).parents[1])}
    command = [sys.executable, "-c", EXPORT, str(tmp_path / "cache"), str(tmp_path / "out" / "copy.h5"), name, str(turn)]
    return subprocess.run(command, env=environment, timeout=60, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name, turn, there", [("fsync", 1, False), ("rename", 0, False), ("fsync", 2, True)])
def test_a_killed_export_leaves_a_whole_file_or_none_and_is_simply_run_again(kit, tmp_path, name, turn, there):
    source, out = kit.fill(tmp_path / "cache"), tmp_path / "out" / "copy.h5"
    assert child(kit, tmp_path, name, turn).returncode == -signal.SIGKILL
    assert out.exists() == there
    if there:
        assert verify(Cache.open(out)) == []
    else:
        assert len(list(out.parent.iterdir())) == 1  # what a kill has left
    assert verify(export(source, out)) == []
    assert os.listdir(out.parent) == ["copy.h5"]


@pytest.mark.parametrize("room", [0, 700, 10_000, 100_000])
def test_a_full_disk_leaves_nothing_of_a_copy(kit, tmp_path, room):
    kit.fill(tmp_path / "cache")
    ended = child(kit, tmp_path, "room", room)
    assert ended.returncode == 1
    assert "RunError" in ended.stderr and "copy.h5: expected to write this copy, found" in ended.stderr
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("nth", [1, 9, 20])
def test_a_signal_within_hdf5_is_not_lost(kit, tmp_path, monkeypatch, nth):
    source, out = kit.fill(tmp_path / "cache"), tmp_path / "out" / "copy.h5"
    calls, write = [], hdf5._Stream.write

    def signalled(stream, data):
        calls.append(0)
        if len(calls) == nth:
            os.kill(os.getpid(), signal.SIGTERM)
        return write(stream, data)

    monkeypatch.setattr(hdf5._Stream, "write", signalled)
    with pytest.raises(stop.Stopped), stop.raising():
        export(source, out)
    assert os.listdir(out.parent) == []


def test_what_killed_copies_have_left_is_removed(kit, tmp_path):
    cache = kit.fill(tmp_path / "cache")
    beside = tmp_path / f".copy.{owner()[:-1]}x.0123abcd.tmp"  # of a process that has ended
    inside = tmp_path / "copy/ledger" / beside.name.replace(".copy.", ".tmp-").removesuffix(".tmp")
    for remains in (beside, inside):
        (remains / "tree").mkdir(parents=True)
    shutil.copytree(tmp_path / "cache", tmp_path / "copy", dirs_exist_ok=True)
    export(cache, tmp_path / "copy")
    assert not beside.exists() and kit.tree(tmp_path / "copy") == kit.tree(tmp_path / "cache") and not inside.exists()
