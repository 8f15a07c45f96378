"""Which cache a run takes."""

from __future__ import annotations

import pytest

import configs
from cache import Array, Cache
from configs.errors import RequestError
from train import study
from train.sources import open_caches, resolve_dataset
from train.study import sizes_of


def config(folder, *overrides):
    return configs.load("gt", [f"cache_dir={folder}", "pairs.crop_size=64", *overrides])


def make(folder, name: str, count: int, *overrides):
    wanted = config(folder, f"pairs.count={count}", *overrides)
    identity = configs.pair_identity(wanted.pairs, name, "train") | {"content_sha256": "0"}
    path = folder / f"{name}-{count}"
    cache = Cache.create(path, identity, count, crop_bytes_bound=100, arrays=[Array("grey", (), "bool", "")], part=8, chunk=8)
    for part in range(cache.parts):
        start, stop = cache.bounds(part)
        cache.pairs.write(part, {"grey": [True] * (stop - start)}, crops=[(b"\xff\xd8", b"\xff\xd8")] * (stop - start))
    return path


def test_a_pair_set_of_another_size_serves_and_the_wanted_size_is_preferred(tmp_path):
    small, large = make(tmp_path, "demo", 8), make(tmp_path, "demo", 24)
    for asked, expected in ((8, small), (24, large), (32_000, large)):
        (found,) = open_caches(config(tmp_path, "dataset=demo", f"pairs.count={asked}"), "train")
        assert found.path == expected


def test_any_other_difference_is_refused_by_name(tmp_path):
    make(tmp_path, "demo", 8)
    with pytest.raises(RequestError, match=r"max_gap: cached 50, wanted 20.*make cache DATASET=demo"):
        open_caches(config(tmp_path, "dataset=demo", "pairs.max_gap=20"), "train")


def test_the_only_data_set_need_not_be_named(tmp_path):
    with pytest.raises(RequestError, match="expected the cache of one data set, found no cache that fits"):
        resolve_dataset(config(tmp_path))
    make(tmp_path, "demo", 8)
    assert resolve_dataset(config(tmp_path)).dataset == "demo"
    make(tmp_path, "got10k", 8)
    with pytest.raises(RequestError, match="found caches of demo, got10k; name one with dataset=NAME"):
        resolve_dataset(config(tmp_path))


def test_caches_of_another_size_are_pointed_out_with_the_setting_that_made_them(tmp_path):
    make(tmp_path, "demo", 8, "pairs.crop_size=144")
    with pytest.raises(RequestError, match=r"no cache that fits; make one with `make cache .*, or take the sizes .* with like=demo$"):
        resolve_dataset(config(tmp_path, "pairs.crop_size=288"))
    assert resolve_dataset(configs.load("gt", [f"cache_dir={tmp_path}", "like=demo", "dataset=null"])).dataset == "demo"


def test_a_study_takes_the_sizes_of_the_caches_that_are_there_and_says_so(tmp_path, capsys):
    make(tmp_path, "demo", 8, "pairs.crop_size=144")
    place = [f"cache_dir={tmp_path}"]
    assert sizes_of("gt", place) == "demo" and "takes sizes and budget of demo, as like=demo does" in capsys.readouterr().out
    assert sizes_of("gt", [*place, "like=demo_gt"]) == "demo_gt" and sizes_of("gt", [*place, "dataset=demo"]) is None
    assert sizes_of("gt", [f"cache_dir={tmp_path / 'none'}"]) is None
    # a cache of its own size goes before
    make(tmp_path, "got10k", 8, "pairs.crop_size=288")
    assert sizes_of("gt", place) is None and not capsys.readouterr().out
    # of two of its own size one must be named, which no other setting's sizes would mend
    make(tmp_path, "lasot", 8, "pairs.crop_size=288")
    assert sizes_of("gt", place) is None and not capsys.readouterr().out


@pytest.mark.parametrize(("own", "batches", "expected"), [(False, None, 256), (True, None, 1000), (True, 7, 7), (False, 7, 7)])
def test_a_study_has_one_number_of_steps_an_epoch(tmp_path, monkeypatch, own, batches, expected):
    make(tmp_path, "demo", 8, f"pairs.crop_size={288 if own else 144}")
    seen = []
    monkeypatch.setattr(study, "prepare", lambda config: seen.append(config))
    monkeypatch.setattr(study, "run", lambda config: None)
    monkeypatch.setattr(study, "write", lambda done, out: out)
    study.study(["gt", "ts"], [0, 1], tmp_path / "out", [f"cache_dir={tmp_path}"], batches=batches)
    assert len(seen) == 4 and {config.train.batches for config in seen} == {expected}
    assert {config.train.epochs for config in seen} == {50 if own else 5}
    if batches is None:
        study.study(["gt", "ts"], [0], tmp_path / "out", [f"cache_dir={tmp_path}", "train.batches=3"])
        assert [config.train.batches for config in seen[4:]] == [3, 3]
