"""Which cache a run takes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import configs
import models
from cache import Array, Cache, PairSetSpec
from configs import Config
from configs.errors import RequestError
from kdlosses import build_objectives
from pairs.decode import PREPROCESS_VERSION
from pairs.identity import pair_identity
from train import request
from train.caches import open_caches, resolve_dataset
from train.inputs import find_teacher
from train.plan import ABSENT, make_plan
from train.request import sizes_of, understood_study


def sized(size: int) -> tuple[str, str]:
    """Overrides for crops of a size."""
    return f"pairs.ref.size={size}", f"pairs.test.size={size}"


DEMO = (*sized(144), "pairs.test.center_jitter=2", "pairs.test.scale_jitter=0.25")
"""The pair set of the setting demo."""


def config(folder: Path, *overrides: str) -> Config:
    return configs.load("gt", [f"cache_dir={folder}", *sized(64), *overrides])


def make(folder: Path, name: str, count: int, *overrides: str, split: str = "train") -> Path:
    wanted = config(folder, f"pairs.count={count}", f"pairs.val_count={count}", *overrides)
    identity = pair_identity(wanted.pairs, name, split) | {"content_sha256": "0"}
    path = folder / f"{name}-{split}-{count}"
    cache = Cache.create(path, PairSetSpec(identity, count, (Array("grey", (), "bool", ""),), crop_bytes_bound=100, part=8, chunk=8))
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


def test_a_mixture_takes_the_caches_of_its_members_and_is_named_as_it_was_typed(tmp_path, monkeypatch):
    catalog = tmp_path / "own.yaml"
    catalog.write_text("both: {kind: mixture, train: [demo, got10k], val: [lasot]}")
    monkeypatch.setenv("DATASETS", str(catalog))
    made = [make(tmp_path, "demo", 8), make(tmp_path, "elsewhere", 8)]
    wanted = config(tmp_path, "dataset=elsewhere both", "pairs.count=8", "pairs.val_count=8")
    with pytest.raises(RequestError, match=r"dataset: cached .*, wanted .*got10k.*; make it with `make cache DATASET=both SETTING=gt"):
        open_caches(wanted, "train")
    made.insert(2, make(tmp_path, "got10k", 8))
    # a data set that this machine's catalog does not know is found by its cache
    assert [cache.path for cache in open_caches(wanted, "train")] == [made[1], made[0], made[2]]
    make(tmp_path, "elsewhere", 8, split="val")
    with pytest.raises(RequestError, match=r"wanted .*lasot.*; make it with `make cache DATASET=both SETTING=gt"):
        open_caches(wanted, "val")
    val = make(tmp_path, "lasot", 8, split="val")
    assert open_caches(wanted, "val")[1].path == val
    (named,) = open_caches(config(tmp_path, "dataset=demo", "val_dataset=both", "pairs.val_count=8"), "val")
    assert named.path == val


def test_the_only_data_set_need_not_be_named(tmp_path):
    with pytest.raises(RequestError, match="expected the cache of one data set, found no cache that fits"):
        resolve_dataset(config(tmp_path))
    make(tmp_path, "demo", 8)
    assert resolve_dataset(config(tmp_path)).dataset == "demo"
    make(tmp_path, "got10k", 8)
    with pytest.raises(RequestError, match="found caches of demo, got10k; name one with dataset=NAME"):
        resolve_dataset(config(tmp_path))


def test_a_cache_of_an_old_layout_is_named_and_hinders_no_other(tmp_path, monkeypatch):
    with monkeypatch.context() as then:
        then.setattr("cache.layout.LAYOUT", 1)
        then.setattr("cache.store.LAYOUT", 1)
        make(tmp_path, "got10k", 8)
    with pytest.raises(RequestError, match=r"no cache that fits \(.*got10k-train-8: expected a cache of layout version 2.*make cache"):
        resolve_dataset(config(tmp_path))
    make(tmp_path, "demo", 8)
    assert resolve_dataset(config(tmp_path)).dataset == "demo"


def test_caches_of_another_size_are_pointed_out_with_the_setting_that_made_them(tmp_path):
    make(tmp_path, "demo", 8, *DEMO)
    with pytest.raises(RequestError, match=r"no cache that fits; make one with `make cache .*, or take the sizes .* with like=demo$"):
        resolve_dataset(config(tmp_path, *sized(288)))
    assert resolve_dataset(configs.load("gt", [f"cache_dir={tmp_path}", "like=demo", "dataset=null"])).dataset == "demo"


def test_a_study_takes_the_sizes_of_the_caches_that_are_there_and_says_so(tmp_path, capsys):
    make(tmp_path, "demo", 8, *DEMO)
    place = [f"cache_dir={tmp_path}"]
    assert sizes_of("gt", place) == "demo" and "takes sizes and budget of demo, as like=demo does" in capsys.readouterr().out
    assert sizes_of("gt", [*place, "like=demo_gt"]) == "demo_gt" and sizes_of("gt", [*place, "dataset=demo"]) is None
    assert sizes_of("gt", [f"cache_dir={tmp_path / 'none'}"]) is None
    # a cache of its own size goes before
    make(tmp_path, "got10k", 8, *sized(288))
    assert sizes_of("gt", place) is None and not capsys.readouterr().out
    # of two of its own size one must be named, which no other setting's sizes would mend
    make(tmp_path, "lasot", 8, *sized(288))
    assert sizes_of("gt", place) is None and not capsys.readouterr().out


@pytest.mark.parametrize(("own", "batches", "expected"), [(False, None, 256), (True, None, 1000), (True, 7, 7), (False, 7, 7)])
def test_a_study_has_one_number_of_steps_an_epoch(tmp_path, monkeypatch, own, batches, expected):
    make(tmp_path, "demo", 8, *(sized(288) if own else DEMO))
    monkeypatch.setattr(request, "open_caches", lambda config, split: None)
    seen = understood_study(["gt", "ts"], [0, 1], [f"cache_dir={tmp_path}"], None, batches)
    assert len(seen) == 4 and {config.train.batches for config in seen} == {expected}
    assert {config.train.epochs for config in seen} == {50 if own else 5}
    if batches is None:
        seen = understood_study(["gt", "ts"], [0], [f"cache_dir={tmp_path}", "train.batches=3"], None, None)
        assert [config.train.batches for config in seen] == [3, 3]


def test_the_demo_teacher_stands_in_for_its_like_alone(monkeypatch):
    numbers = {"architecture": models.DEMO_TEACHER.stem, "weights_sha256": models.weights_digest(models.DEMO_TEACHER), "dtype": "float32"}
    held = {models.DEMO_TEACHER.stem: numbers | {"preprocess_version": PREPROCESS_VERSION}}
    cache: Any = SimpleNamespace(teachers=lambda: held, history=list, path="caches/demo", identity={})
    atom, drnet = (configs.load(name, ["dataset=demo"]) for name in ("atom_cfkd", "drnet_cfkd"))
    assert find_teacher(atom, cache).name == models.DEMO_TEACHER.stem
    spec = find_teacher(drnet, cache)
    assert (spec.name, spec.architecture, spec.weights) == ("drnet_resnet50", "drnet_resnet50", None)
    (objective,) = build_objectives(drnet, spec.architecture)
    needs = [{name: term.targets for name, term in objective.per_term.items()}]
    absent = dict.fromkeys(("iou", "abs_sum"), ABSENT)
    with pytest.raises(RequestError, match="teacher drnet_resnet50: expected its targets iou, abs_sum in the train cache") as said:
        make_plan(drnet, needs, absent, absent, spec.weights)
    assert "run `make cache DATASET=demo SETTING=drnet_cfkd` to add it (with TEACHER=FILE, its weights)" in str(said.value)


def test_a_cache_without_a_finished_part_is_passed_over(tmp_path):
    small, large = make(tmp_path, "demo", 8), make(tmp_path, "demo", 24)
    for entry in large.rglob("ledger/pairs/*.json"):
        entry.unlink()
    assert [cache.path for cache in open_caches(config(tmp_path, "dataset=demo"), "train")] == [small]
    for path in small.rglob("ledger/pairs/*.json"):
        path.unlink()
    with pytest.raises(RequestError, match="found no cache that fits"):
        resolve_dataset(config(tmp_path))
