"""Slices of `make torture`: nothing missed, nothing used, nothing lost, nothing left."""

from __future__ import annotations

import json

import pytest

import bench.torture.__main__
from bench.torture.caches import tree
from bench.torture.commands import damage_checkpoint, killed, workshop
from bench.torture.damage import damage_cache
from bench.torture.shared import shared, worker
from cache.verify import verify_path
from configs.cli import run


def test_damage_anywhere_in_a_cache_is_found_and_mended(tmp_path):
    assert damage_cache(tmp_path, tries=12, seed=5) == {"tried": 12, "missed": 0, "read": 0, "foreign": 0, "unmended": 0}


def test_workers_that_die_leave_the_cache_that_is_made_in_peace(tmp_path):
    worker(tmp_path / "peace", tmp_path / "made by one")
    peace = tree(tmp_path / "peace")
    (tmp_path / "words").mkdir()
    result = shared(tmp_path / "shared", tmp_path / "words", peace, workers=2, kills=2, seed=1)
    assert (result["different"], result["faults"], result["failed"]) == (0, 0, 0)
    assert verify_path(tmp_path / "shared") == []


def test_what_is_killed_or_stopped_ends_as_in_peace(tmp_path):
    for stage, seed in (("training", 1), ("export", 2)):  # killed, and stopped
        counts = killed(stage, workshop(tmp_path / "shop", stage), seed)
        assert (counts["different"], counts["left"], counts["failed"]) == (0, 0, 0), counts
    assert damage_checkpoint(workshop(tmp_path / "shop", "training"), 20, 0) == {"tried": 20, "used": 0, "foreign": 0}


def test_a_log_goes_on_where_it_was(tmp_path, capsys):
    words = ["--damages", "20", "--kills", "0", "--caches", "1", "--workers", "1", "--log", str(tmp_path / "log")]
    (tmp_path / "log").write_text(json.dumps({"name": "cache", "seed": 0, "tried": 10, "missed": 0}) + "\n")
    with open(tmp_path / "log", "a") as log:
        log.write(json.dumps({"name": "checkpoint", "seed": 0, "tried": 10, "used": 0}) + "\n")
    assert run(bench.torture.__main__.main, [*words, "--minutes", "0"]) == 1
    told = capsys.readouterr()
    assert "| 1 workers, disk, none killed | 0 caches | 0 |" in told.out and "the same command goes on" in told.err
    assert run(bench.torture.__main__.main, words) == 0
    assert "| 1 workers, disk, none killed | 1 caches | 0 | 1.00 of 5 |" in capsys.readouterr().out
    lines = (tmp_path / "log").read_text()
    assert run(bench.torture.__main__.main, words) == 0 and (tmp_path / "log").read_text() == lines


@pytest.mark.parametrize("fault", ["missed", "different", "failed"])
def test_a_fault_is_a_failure(tmp_path, fault):
    (tmp_path / "log").write_text(json.dumps({"name": "cache", "seed": 0, "tried": 50, fault: 1}) + "\n")
    assert run(bench.torture.__main__.main, ["--damages", "0", "--kills", "0", "--caches", "0", "--log", str(tmp_path / "log")]) == 1
