"""Several processes fill one cache: what another is making is waited for, and made when its lease ends."""

from __future__ import annotations

import time
from pathlib import Path

import precompute.__main__
import precompute.request
import precompute.run
from cache import Cache
from cache.backends.base import writable
from cache.owner import Held
from configs.cli import run
from tests.compare import digests


def test_a_part_that_another_is_making_is_waited_for_and_made_when_its_lease_ends(write_got10k, tmp_path, monkeypatch, capsys):
    write_got10k(tmp_path / "got10k", [8, 8], size=(64, 48))
    monkeypatch.setenv("GOT10K_ROOT", str(tmp_path / "got10k"))
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "caches"))
    monkeypatch.setattr(precompute.request, "PART", 4)
    monkeypatch.setattr(precompute.request, "CHUNK", 2)
    monkeypatch.setattr(precompute.run, "POLL_S", 0.05)
    words = ["cache", "--dataset", "got10k", "--split", "train", "--pairs", "10", "--setting", "gt", "--device", "cpu"]
    words += ["pairs.ref.size=32", "pairs.test.size=32", "pairs.min_frames=4"]
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
