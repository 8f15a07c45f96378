"""Several processes fill one cache: what another is making is waited for, and made when its lease ends. A disk runs full in between."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest
import torch

import models
import precompute.__main__
import precompute.request
import precompute.run
from cache import Cache
from cache.backends.base import writable
from cache.backends.shard import ShardWriter
from cache.owner import Held
from cache.verify import verify
from configs.cli import run
from tests.compare import digests

WORDS = ["cache", "--dataset", "got10k", "--split", "train", "--device", "cpu", "pairs.ref.size=32", "pairs.test.size=32"]
WORDS += ["pairs.min_frames=4"]


@pytest.fixture(autouse=True)
def place(write_got10k, tmp_path, monkeypatch) -> None:
    """A small data set, and parts of 4 pairs."""
    write_got10k(tmp_path / "got10k", [8, 8], size=(64, 48))
    monkeypatch.setenv("GOT10K_ROOT", str(tmp_path / "got10k"))
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "caches"))
    monkeypatch.setattr(precompute.request, "PART", 4)
    monkeypatch.setattr(precompute.request, "CHUNK", 2)


def test_a_part_that_another_is_making_is_waited_for_and_made_when_its_lease_ends(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(precompute.run, "POLL_S", 0.05)
    words = [*WORDS, "--pairs", "10", "--setting", "gt"]
    assert run(precompute.__main__.main, words) == 0
    (path,) = Path(tmp_path / "caches").iterdir()
    whole = digests(path)
    writable(Cache.open(path).backend).retract("pairs", [0, 1])
    other = Held("0123456789ab-1-1", time.time(), 2.0)
    (path / "ledger/claims/00001.0").write_bytes(other.text())
    capsys.readouterr()
    assert run(precompute.__main__.main, words) == 0
    assert time.time() > other.time + other.lease
    assert "waits for 1 parts that others are making (first: part 1)" in capsys.readouterr().out
    assert digests(path) == whole


def test_a_disk_that_runs_full_within_a_part_loses_nothing(tmp_path, monkeypatch, capsys):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    models.save_weights(models.build("atom_resnet18tiny"), tmp_path / "teacher.safetensors")
    words = [*WORDS, "--pairs", "10", "--setting", "ts", "--teacher", str(tmp_path / "teacher.safetensors"), "teacher.batch=2"]
    words += ["teacher.architecture=atom_resnet18tiny", "train.feed=torch"]
    put, room = ShardWriter._put, [1_100_000]  # bytes: what is not used of a chunk of crops counts

    def limited(writer, content):
        room[0] -= memoryview(content).nbytes
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(writer, content)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "_put", limited)
        assert run(precompute.__main__.main, words) == 1
    said = "error: No space left on device; free some space and run the same command again: finished parts are kept\n"
    assert capsys.readouterr().err.endswith(said)
    (path,) = (tmp_path / "caches").iterdir()
    begun = digests(path)
    assert len(Cache.open(path).pairs.missing()) == 2
    assert not [file for file in path.rglob("*") if file.name.startswith(".tmp") or file.parent.name == "claims"]
    with monkeypatch.context() as patch:
        patch.setattr("configs.machine.os.access", lambda place, mode: Path(place) != path)  # a superuser may always
        assert run(precompute.__main__.main, words) == 2
    assert f"the cache: expected a folder that can be written to, found one without the right to write at {path}" in capsys.readouterr().err
    assert run(precompute.__main__.main, words) == 0
    assert verify(Cache.open(path)) == [] and begun.items() <= digests(path).items()
