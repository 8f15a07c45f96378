"""Identities, their differences, and finding the cache that has one."""

from __future__ import annotations

import pytest

from cache import diff, find
from cache.locate import caches_below
from configs.errors import RequestError
from configs.files import fingerprint


def test_diff_names_nested_fields_and_both_values():
    cached = {"seed": 0, "crop": {"size": 288, "jitter": {"scale": 0.5}}, "gone": None, "same": [1, 2]}
    wanted = {"seed": 1, "crop": {"size": 288, "jitter": {"scale": 0.25}}, "new": "x", "same": (1, 2)}
    assert diff(cached, wanted) == [
        "crop.jitter.scale: cached 0.5, wanted 0.25",
        "gone: cached null, wanted nothing",
        'new: cached nothing, wanted "x"',
        "seed: cached 0, wanted 1",
    ]
    assert diff(cached, wanted, ignore=("crop", "gone", "new", "seed")) == []
    assert diff(cached, wanted, ignore=("cro", "crop.jitter.scale", "gone", "new")) == ["seed: cached 0, wanted 1"]


def test_diff_tells_apart_what_python_takes_for_equal_and_shows_whole_digests():
    assert diff({"a": {}}, {}) == ["a: cached {}, wanted nothing"]
    assert diff({"a": {"b": 1}}, {"a": 1}) == ["a: cached nothing, wanted 1", "a.b: cached 1, wanted nothing"]
    assert diff({"a": True, "b": 1}, {"a": 1, "b": 1.0}) == ["a: cached true, wanted 1"]
    assert "f" * 64 in diff({"a": "f" * 64}, {"a": "e" * 64})[0]
    assert len(diff({"a": list(range(1000))}, {"a": []})[0]) < 120


def test_the_fingerprint_follows_the_identity_alone(kit, tmp_path):
    first = kit.create(tmp_path / "first")
    second = kit.put(kit.create(tmp_path / "second", metadata={"sequences": ["other"]}), tmp_path / "second.h5")
    third = kit.create(tmp_path / "third", identity={**kit.IDENTITY, "split": "val"})
    assert first.fingerprint == second.fingerprint == fingerprint({"layout": 2, "identity": first.identity})
    assert third.fingerprint != first.fingerprint


def test_find_takes_the_largest_that_fits(kit, tmp_path):
    kit.create(tmp_path / "small", count=8, identity={**kit.IDENTITY, "count": 8})
    kit.put(kit.create(tmp_path / "made", count=24, identity={**kit.IDENTITY, "count": 24}), tmp_path / "deep" / "large.h5")
    kit.create(tmp_path / "other", count=32, identity={**kit.IDENTITY, "count": 32, "split": "val"})
    (tmp_path / ".large.h5.tmp").mkdir()
    (tmp_path / "notes.txt").write_text("no cache")
    (tmp_path / "broken.h5").write_text("no cache")
    assert [path.name for path in caches_below(tmp_path)] == ["large.h5", "other", "small"]
    assert find(tmp_path, kit.IDENTITY, ignore=["count"]).path.name == "large.h5"
    assert find(tmp_path, {**kit.IDENTITY, "count": 8}).path.name == "small"


def test_find_tells_the_differences_to_the_nearest_and_the_remedy(kit, tmp_path):
    with pytest.raises(RequestError, match=r"expected a cache below it, found none; run `make cache DATASET=demo`"):
        find(tmp_path / "nowhere", kit.IDENTITY, remedy="run `make cache DATASET=demo`")
    kit.create(tmp_path / "far", identity={"dataset": "lasot", "split": "val"})
    kit.create(tmp_path / "near", identity={**kit.IDENTITY, "split": "val"})
    with pytest.raises(RequestError, match=r'found none; nearest .*near \(split: cached "val", wanted "train"\); run `make cache`$'):
        find(tmp_path, kit.IDENTITY, remedy="run `make cache`")
    with pytest.raises(RequestError, match=r"nearest .*near"):
        find(tmp_path, {**kit.IDENTITY, "pairs": {"seed": 3, "crop_size": 64}}, remedy="", ignore=["split"])


def test_find_passes_over_what_cannot_be_read(kit, old, tmp_path):
    old(tmp_path / "old")
    with pytest.raises(RequestError, match=r"expected a cache below it, found none \(.*layout version 2, found version 1"):
        find(tmp_path, kit.IDENTITY)
    kit.create(tmp_path / "now")
    kit.create(tmp_path / "damaged")
    (tmp_path / "damaged/pairs/zarr.json").write_text("{")
    assert find(tmp_path, kit.IDENTITY).path.name == "now"
