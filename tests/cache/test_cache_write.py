"""Writing: what is checked, what is refused, what lies on the disk. A zarr cache throughout."""

from __future__ import annotations

import json
import os
import signal
import warnings
from dataclasses import replace

import numpy as np
import pytest
import zarr

from cache import Array, Cache, TargetSpec
from cache.backends.description import group_text
from configs import stop
from configs.errors import RequestError, RunError


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda a: a.pop("grey"), r"pairs: expected arrays .*'grey'.*, found"),
        (lambda a: a.update(more=a["grey"]), r"pairs: expected arrays .*, found .*'more'"),
        (lambda a: a.update(grey=a["grey"][:-1]), r"pairs/grey: expected shape \(8,\) \(pairs 8-15\), found \(7,\)"),
        (lambda a: a.update(ref_box=a["ref_box"][:, :3]), r"pairs/ref_box: expected shape \(8, 4\)"),
        (lambda a: a.update(sequence=a["sequence"] * 1.0), r"pairs/sequence: expected numbers that cast to int32, found float64"),
        (lambda a: a.update(grey=a["grey"].astype("uint8")), r"pairs/grey: expected numbers that cast to bool, found uint8"),
        (
            lambda a: a.update(sequence=a["sequence"] + (np.arange(8) == 5) * 2**40),
            r"pairs/sequence, pair 13: expected numbers within int32",
        ),
        (lambda a: a["proposals"].__setitem__((3, 2, 1), np.nan), r"pairs/proposals, pair 11: expected finite .*, found nan at \(2, 1\)"),
        (lambda a: a["proposals"].__setitem__((3, 2, 1), -np.inf), r"pairs/proposals, pair 11: expected finite .*, found -inf"),
    ],
)
def test_writing_is_checked(kit, folder, change, text):
    cache = kit.create(folder)
    arrays = {name: kit.numbers(array)[8:16] for name, array in cache.pairs.arrays.items()}
    change(arrays)
    with pytest.raises(RunError, match=text):
        cache.pairs.write(1, arrays, kit.images()[8:16])
    assert cache.pairs.missing() == [0, 1, 2]


def test_beyond_float16_is_an_error_that_names_the_pair(kit, folder):
    unit = kit.add_maps(kit.create(folder))
    arrays = {name: kit.numbers(array)[16:20] for name, array in unit.arrays.items()}
    arrays["layer3"][2, 1, 0, 2] = 65519.0  # rounds to the largest float16
    unit.write(2, arrays)
    assert unit.read(18, 19)["layer3"][0, 1, 0, 2] == 65504
    arrays = {name: kit.numbers(array)[0:8] for name, array in unit.arrays.items()}
    arrays["layer3"][2, 1, 0, 2] = 65520.0
    with pytest.raises(
        RunError, match=r"targets/atom/maps/layer3, pair 2: expected finite numbers within float16 \(\+-65504\), found 65520.0"
    ):
        unit.write(0, arrays)
    assert unit.missing() == [0, 1]


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda crops: None, "pairs: expected crops, found the opposite"),
        (lambda crops: crops[:-1], r"crops: expected 8 pairs \(from pair 8\), found 7"),
        (lambda crops: [*crops[:3], crops[3][:1], *crops[4:]], r"crops, pair 11: expected \(ref, test\), found 1 images"),
        (
            lambda crops: [*crops[:3], (crops[3][0], b"PNG"), *crops[4:]],
            r"crops, pair 11: expected a JPEG file as test crop, found 3 other bytes",
        ),
        (lambda crops: [(ref + bytes(2**20), test) for ref, test in crops], r"crops of pairs 8-15: expected at most 1048576 bytes, found"),
    ],
)
def test_crops_are_checked(kit, folder, change, text):
    cache = kit.create(folder)
    arrays = {name: kit.numbers(array)[8:16] for name, array in cache.pairs.arrays.items()}
    with pytest.raises(RunError, match=text):
        cache.pairs.write(1, arrays, change(kit.images()[8:16]))
    assert cache.pairs.missing() == [0, 1, 2]


def test_a_published_part_is_never_rewritten(kit, folder):
    cache = kit.fill(folder)
    before = kit.tree(folder)
    kit.write(cache, cache.pairs, 1)
    assert kit.tree(folder) == before
    arrays = {name: kit.numbers(array)[8:16] for name, array in cache.pairs.arrays.items()}
    arrays["ref_box"][2, 0] += 1
    with pytest.raises(
        RunError, match="pairs/ref_box, part 1: expected a part that is not published, found it published with other numbers"
    ):
        cache.pairs.write(1, arrays, kit.images()[8:16])
    assert kit.tree(folder) == before


def test_adding_a_target_touches_nothing_that_is_there(kit, folder):
    cache = kit.fill(folder)
    before, entries = kit.tree(folder), {unit.path: unit.entries() for unit in (cache.pairs, cache.target("atom", "maps"))}
    iou = TargetSpec("iou", {"version": 1}, (Array("iou", (3,), "float16", "predicted"),))
    for teacher in ("atom", "drnet"):
        unit = cache.add_target(teacher, {"architecture": teacher, "sha256": "ab" * 32}, iou)
        assert unit.missing() == [0, 1, 2]
    after = kit.tree(folder)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in set(after) - set(before)} == {"targets"}
    cache = Cache.open(folder)
    assert {unit.path: unit.entries() for unit in (cache.pairs, cache.target("atom", "maps"))} == entries
    assert np.array_equal(cache.pairs.read(0, 20)["ref_box"], kit.numbers(kit.PAIRS[2]))
    assert set(cache.targets()) == {("atom", "iou"), ("atom", "maps"), ("drnet", "iou")}


def test_a_teacher_or_target_of_another_identity_is_refused(kit, folder):
    cache = kit.fill(folder)
    assert kit.add_maps(cache).complete  # the same again is the one that is there
    with pytest.raises(RequestError, match=r"teacher atom: .* found another \(sha256: cached \"abab.*\", wanted \"ff\"\); do this"):
        kit.add_maps(cache, teacher_identity={**kit.TEACHER, "sha256": "ff"}, remedy="do this")
    with pytest.raises(RequestError, match=r"targets/atom/maps: .*\(version: cached 1, wanted 2\)"):
        kit.add_maps(cache, identity={"version": 2})
    with pytest.raises(RequestError, match=r"arrays.layer3.shape: cached \[2, 3, 3\], wanted \[2, 3, 4\]"):
        kit.add_maps(cache, arrays=[kit.MAPS[0], replace(kit.MAPS[1], shape=(2, 3, 4))])
    with pytest.raises(RequestError, match=r"constants.projection.sha256: cached \"64ee.*\", wanted"):
        kit.add_maps(cache, constants={"projection": 2 * np.eye(3, dtype="float32")})
    assert kit.add_maps(cache, arrays=[replace(array, doc="other words") for array in kit.MAPS]).complete


def test_what_people_are_told_is_kept_as_first_written_and_is_no_identity(kit, folder):
    cache = kit.fill(folder)
    unit = cache.target("atom", "maps")
    assert unit.about == kit.ABOUT
    before, fingerprint = kit.tree(folder), unit.fingerprint
    for other in ({}, {"doc": "other words", "needed_by": []}):
        again = kit.add_maps(cache, about=other)
        assert again.complete and again.about == kit.ABOUT and again.fingerprint == fingerprint
        assert kit.tree(folder) == before
    plain = folder.with_name("plain")
    unit = kit.add_maps(kit.create(plain), about={})
    kit.write(Cache.open(plain), unit, 0)
    assert unit.fingerprint == fingerprint
    assert "about" not in Cache.open(plain).backend.attributes("targets/atom/maps"), "as in caches from before there was any"
    before = kit.tree(plain)
    unit = kit.add_maps(Cache.open(plain))
    assert unit.about == {} and unit.missing() == [1, 2]
    assert kit.tree(plain) == before


def test_compressed_parts_are_the_same_bytes_in_whatever_order_they_are_written(kit, folder):
    made = []
    for name, order in (("a", (0, 1, 2)), ("b", (2, 0, 1))):
        place = folder.with_name(name)
        unit = kit.create(place).add_target("atom", kit.TEACHER, kit.features(kit.COARSE))
        for part in order:
            start, stop = Cache.open(place).bounds(part)
            Cache.open(place).target("atom", "features").write(part, {"coarse": kit.coarse()[start:stop]})
        unit.write(1, {"coarse": kit.coarse()[8:16]})  # compared, never rewritten
        with pytest.raises(RunError, match="found it published with other numbers"):
            unit.write(1, {"coarse": kit.coarse(1)[8:16]})
        made.append(kit.tree(place))
    assert made[0] == made[1]


def test_creating_again_opens_and_other_arguments_are_refused(kit, folder):
    kit.fill(folder)
    assert kit.create(folder).pairs.complete
    other = {**kit.IDENTITY, "pairs": {"seed": 4, "crop_size": 32}}
    with pytest.raises(RequestError, match=r"\(pairs.seed: cached 3, wanted 4\); run `make cache SEED=4`"):
        kit.create(folder, identity=other, remedy="run `make cache SEED=4`")
    with pytest.raises(RequestError, match="count: cached 20, wanted 24"):
        kit.create(folder, count=24)
    with pytest.raises(RequestError, match="part: cached 8, wanted 16"):
        kit.create(folder, part=16)
    with pytest.raises(RequestError, match=r"arrays.grey.dtype: cached \"bool\", wanted nothing"):
        kit.create(folder, arrays=[array for array in kit.PAIRS if array.name != "grey"])
    with pytest.raises(RequestError, match="expected a multiple of chunk"):
        kit.create(folder.with_name("x"), part=10)


def test_an_empty_folder_may_become_a_cache(kit, tmp_path):
    (tmp_path / "empty").mkdir()
    assert kit.create(tmp_path / "empty").pairs.missing() == [0, 1, 2]


def test_any_zarr_opens_it_without_a_warning(kit, tmp_path):
    kit.fill(tmp_path / "cache").add_history({"seconds": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(tmp_path / "cache", mode="r")
        text = str(group.tree())
    assert all(name in text for name in ("crops", "jpeg", "pairs", "targets", "atom", "maps", "layer2", "constants", "projection"))

    def rows(path: str) -> np.ndarray:
        array = group[path]
        assert isinstance(array, zarr.Array)
        return np.asarray(array[:])

    for array in kit.PAIRS:
        assert np.array_equal(rows(f"pairs/{array.name}"), kit.numbers(array))
        assert group[f"pairs/{array.name}"].attrs["doc"] == array.doc
    for array in kit.MAPS:
        assert np.array_equal(rows(f"targets/atom/maps/{array.name}"), kit.numbers(array).astype("float16"))
    offset, length, jpeg = (rows(f"crops/{name}") for name in ("offset", "length", "jpeg"))
    crops = [
        tuple(jpeg[first : first + size].tobytes() for first, size in zip(*row, strict=True)) for row in zip(offset, length, strict=True)
    ]
    assert crops == kit.images()
    identity = group.attrs["identity"]
    assert isinstance(identity, dict) and identity["dataset"] == "demo"
    assert "doc" in group["targets/atom"].attrs


def test_inner_chunks_past_the_end_are_not_stored(kit, tmp_path):
    cache = kit.create(tmp_path / "cache", crop_bytes_bound=2**20)  # room for 8 MiB a part
    kit.write(cache, cache.pairs, 0)
    kit.write(cache, cache.pairs, 2)
    assert (tmp_path / "cache/crops/jpeg/c.0").stat().st_size == 2**20 + 8 * 16 + 4
    assert (tmp_path / "cache/pairs/ref_box/c.2.0").stat().st_size == 4 * 16 + 2 * 16 + 4
    assert (tmp_path / "cache/pairs/ref_box/c.0.0").stat().st_size == 8 * 16 + 2 * 16 + 4


def test_the_ledger_holds_nothing_of_time_or_place(kit, tmp_path):
    kit.build(tmp_path / "a")
    kit.build(tmp_path / "other" / "b")
    assert kit.tree(tmp_path / "a") == kit.tree(tmp_path / "other" / "b")
    entry = json.loads((tmp_path / "a/ledger/pairs/00002.json").read_text())
    assert set(entry) == {"unit", "part", "pairs", "fingerprint", "arrays", "seal"}
    assert entry["pairs"] == [16, 20]
    assert set(entry["arrays"]) == {f"pairs/{array.name}" for array in kit.PAIRS} | {"crops/jpeg", "crops/offset", "crops/length"}


def test_a_signal_while_zarr_is_at_work_waits_for_its_end(monkeypatch):
    create, ended = zarr.create_group, []

    def signalled(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        ended.append(create(*arguments, **options))

    monkeypatch.setattr(zarr, "create_group", signalled)
    with pytest.raises(stop.Stopped), stop.raising():
        group_text({"doc": "not written by any other test"})
    assert len(ended) == 1
