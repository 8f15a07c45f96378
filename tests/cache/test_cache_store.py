"""The contract of the store, on both backends."""

from __future__ import annotations

import concurrent.futures
import json
import pickle
import warnings

import h5py
import numpy as np
import pytest
import zarr

from cache import Array, Cache
from configs.errors import RequestError, RunError


@pytest.mark.parametrize("start, stop", [(0, 20), (0, 4), (8, 16), (3, 5), (6, 18), (19, 20), (5, 5), (20, 20)])
def test_reads_what_was_written(kit, path, start, stop):
    kit.fill(path)
    cache = Cache.open(path)
    for unit in (cache.pairs, cache.target("atom", "maps")):
        found = unit.read(start, stop)
        assert set(found) == set(unit.arrays)
        for name, array in unit.arrays.items():
            assert found[name].dtype == np.dtype(array.dtype)
            assert np.array_equal(found[name], kit.numbers(array)[start:stop].astype(array.dtype))
    refs, tests = cache.read_crops(start, stop)
    assert [(bytes(ref), bytes(test)) for ref, test in zip(refs, tests, strict=True)] == kit.images()[start:stop]
    assert all(image.dtype == np.uint8 and image.base is not None for image in refs + tests)


def test_geometry_metadata_and_sizes(kit, path):
    cache = kit.fill(path)
    assert (cache.count, cache.part, cache.chunk, cache.parts) == (20, 8, 4, 3)
    assert [cache.bounds(part) for part in range(3)] == [(0, 8), (8, 16), (16, 20)]
    assert cache.metadata == {"sequences": ["a", "b"]}
    assert cache.identity["sigmas"] == [0.1, 0.2]
    assert cache.teachers() == {"atom": kit.TEACHER}
    stored = cache.pairs.nbytes()
    assert stored["crops/jpeg"] >= sum(len(image) for pair in kit.images() for image in pair)
    assert stored["proposals"] >= 20 * 3 * 4 * 4
    with pytest.raises(RequestError, match="expected 0 to 2, found 3"):
        cache.bounds(3)


def test_names_are_asked_for(kit, path):
    cache = kit.fill(path)
    assert list(cache.pairs.read(0, 2, ["grey"])) == ["grey"]
    with pytest.raises(RequestError, match=r"found 'gray' \(nearest: 'grey'\)"):
        cache.pairs.read(0, 2, ["gray"])
    with pytest.raises(RequestError, match="expected pairs within 0-20, found 10-21"):
        cache.pairs.read(10, 21)
    with pytest.raises(RequestError, match="has no crops"):
        cache.target("atom", "maps").read_crops(0, 2)
    assert cache.target("atom", "nothing") is None
    assert cache.target("nobody", "maps") is None
    with pytest.raises(RequestError, match="expected letters"):
        cache.target("atom", "../pairs")


def test_an_unpublished_part_is_an_error_and_never_a_fill_value(kit, path):
    cache = kit.create(path)
    kit.write(cache, cache.pairs, 1)
    assert cache.pairs.missing() == [0, 2]
    assert (cache.pairs.published(0), cache.pairs.published(1), cache.pairs.complete) == (False, True, False)
    assert len(cache.pairs.read(8, 16)["grey"]) == 8
    for read in (cache.pairs.read, cache.read_crops):
        with pytest.raises(RunError, match=r"part 0 \(pairs 0-7\) to be published, found no ledger entry; write it with `make cache`"):
            read(7, 9)
        with pytest.raises(RunError, match=r"part 2 \(pairs 16-19\)"):
            read(15, 17)
    kit.write(Cache.open(path), Cache.open(path).pairs, 0)  # by another writer
    assert len(cache.pairs.read(0, 16)["grey"]) == 16
    kit.write(cache, cache.pairs, 2)
    assert cache.pairs.complete


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
def test_writing_is_checked(kit, path, change, text):
    cache = kit.create(path)
    arrays = {name: kit.numbers(array)[8:16] for name, array in cache.pairs.arrays.items()}
    change(arrays)
    with pytest.raises(RunError, match=text):
        cache.pairs.write(1, arrays, kit.images()[8:16])
    assert cache.pairs.missing() == [0, 1, 2]


def test_beyond_float16_is_an_error_that_names_the_pair(kit, path):
    unit = kit.add_maps(kit.create(path))
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
def test_crops_are_checked(kit, path, change, text):
    cache = kit.create(path)
    arrays = {name: kit.numbers(array)[8:16] for name, array in cache.pairs.arrays.items()}
    with pytest.raises(RunError, match=text):
        cache.pairs.write(1, arrays, change(kit.images()[8:16]))
    assert cache.pairs.missing() == [0, 1, 2]


def test_a_published_part_is_never_rewritten(kit, path):
    cache = kit.fill(path)
    before = kit.tree(path)
    kit.write(cache, cache.pairs, 1)
    assert kit.tree(path) == before
    arrays = {name: kit.numbers(array)[8:16] for name, array in cache.pairs.arrays.items()}
    arrays["ref_box"][2, 0] += 1
    with pytest.raises(
        RunError, match="pairs/ref_box, part 1: expected a part that is not published, found it published with other numbers"
    ):
        cache.pairs.write(1, arrays, kit.images()[8:16])
    assert kit.tree(path) == before


def test_adding_a_target_touches_nothing_that_is_there(kit, path):
    cache = kit.fill(path)
    before, entries = kit.tree(path), {unit.path: unit.entries() for unit in (cache.pairs, cache.target("atom", "maps"))}
    iou = [Array("iou", (3,), "float16", "predicted")]
    for teacher, target in (("atom", "iou"), ("drnet", "iou")):
        unit = cache.add_target(teacher, target, {"architecture": teacher, "sha256": "ab" * 32}, {"version": 1}, iou)
        assert unit.missing() == [0, 1, 2]
    if path.is_dir():
        after = kit.tree(path)
        assert {name: after[name] for name in before} == before
        assert {name.split("/")[0] for name in set(after) - set(before)} == {"targets"}
    cache = Cache.open(path)
    assert {unit.path: unit.entries() for unit in (cache.pairs, cache.target("atom", "maps"))} == entries
    assert np.array_equal(cache.pairs.read(0, 20)["ref_box"], kit.numbers(kit.PAIRS[2]))
    assert set(cache.targets()) == {("atom", "iou"), ("atom", "maps"), ("drnet", "iou")}


def test_a_teacher_or_target_of_another_identity_is_refused(kit, path):
    cache = kit.fill(path)
    assert kit.add_maps(cache).complete  # the same again is the one that is there
    with pytest.raises(RequestError, match=r"teacher atom: .* found another \(sha256: cached \"abab.*\", wanted \"ff\"\); do this"):
        kit.add_maps(cache, teacher_identity={**kit.TEACHER, "sha256": "ff"}, remedy="do this")
    with pytest.raises(RequestError, match=r"targets/atom/maps: .*\(version: cached 1, wanted 2\)"):
        kit.add_maps(cache, target_identity={"version": 2})
    with pytest.raises(RequestError, match=r"arrays.layer3.shape: cached \[2, 3, 3\], wanted \[2, 3, 4\]"):
        kit.add_maps(cache, arrays=[kit.MAPS[0], kit.MAPS[1]._replace(shape=(2, 3, 4))])
    with pytest.raises(RequestError, match=r"constants.projection.sha256: cached \"64ee.*\", wanted"):
        kit.add_maps(cache, constants={"projection": 2 * np.eye(3, dtype="float32")})
    assert kit.add_maps(cache, arrays=[array._replace(doc="other words") for array in kit.MAPS]).complete


def test_what_people_are_told_is_kept_as_first_written_and_is_no_identity(kit, path):
    cache = kit.fill(path)
    unit = cache.target("atom", "maps")
    assert unit.about == kit.ABOUT
    before, fingerprint = kit.tree(path), unit.fingerprint
    for other in (None, {"doc": "other words", "needed_by": []}):
        again = kit.add_maps(cache, about=other)
        assert again.complete and again.about == kit.ABOUT and again.fingerprint == fingerprint
        assert kit.tree(path) == before
    plain = path.with_name(f"plain{path.suffix}")
    unit = kit.add_maps(kit.create(plain), about=None)
    kit.write(Cache.open(plain), unit, 0)
    assert unit.fingerprint == fingerprint
    assert "about" not in Cache.open(plain).backend.attributes("targets/atom/maps"), "as in caches from before there was any"
    before = kit.tree(plain)
    unit = kit.add_maps(Cache.open(plain))
    assert unit.about == {} and unit.missing() == [1, 2]
    assert kit.tree(plain) == before


COARSE = Array("coarse", (2, 16, 16), "float16", "few bits, as whole features have them", True)


def coarse(kit, seed: int = 0) -> np.ndarray:
    """Numbers of 3 mantissa bits."""
    return np.ldexp(np.random.default_rng(seed).integers(8, 16, (kit.COUNT, *COARSE.shape)), -3).astype("float32")


def test_a_compressed_array_counts_what_it_takes(kit, path):
    cache = kit.create(path)
    unit = cache.add_target("atom", "features", kit.TEACHER, {"version": 1}, [COARSE, COARSE._replace(name="raw", compress=False)])
    for part in range(cache.parts):
        start, stop = cache.bounds(part)
        unit.write(part, dict.fromkeys(("coarse", "raw"), coarse(kit)[start:stop]))
    for start, stop in ((0, 20), (3, 5), (6, 18)):
        found = Cache.open(path).target("atom", "features").read(start, stop)
        assert np.array_equal(found["coarse"], coarse(kit)[start:stop].astype("float16"))
    sizes, whole = unit.nbytes(), kit.COUNT * COARSE.shape[1] ** 2 * 2 * 2
    assert sizes["raw"] >= whole and 0.1 * whole < sizes["coarse"] < 0.5 * whole
    if path.is_dir():
        on_disk = sum(item.stat().st_size for item in (path / "targets/atom/features/coarse").glob("c.*"))
    else:
        with h5py.File(path, "r", locking=False) as file:
            on_disk = file["targets/atom/features/coarse"].id.get_storage_size()
    assert sizes["coarse"] == on_disk
    cache.backend.retract(unit.path, [1])
    assert 0 < Cache.open(path).target("atom", "features").nbytes()["coarse"] < sizes["coarse"], "only parts that exist count"


def test_compressed_parts_are_the_same_bytes_in_whatever_order_they_are_written(kit, path):
    made = []
    for name, order in (("a", (0, 1, 2)), ("b", (2, 0, 1))):
        place = path.with_name(f"{name}{path.suffix}")
        unit = kit.create(place).add_target("atom", "features", kit.TEACHER, {"version": 1}, [COARSE])
        for part in order:
            start, stop = Cache.open(place).bounds(part)
            Cache.open(place).target("atom", "features").write(part, {"coarse": coarse(kit)[start:stop]})
        unit.write(1, {"coarse": coarse(kit)[8:16]})  # compared, never rewritten
        with pytest.raises(RunError, match="found it published with other numbers"):
            unit.write(1, {"coarse": coarse(kit, 1)[8:16]})
        made.append(kit.tree(place) if place.is_dir() else (unit.entries(), unit.nbytes()))
    assert made[0] == made[1]


def test_constants_come_back_and_are_read_only_through_the_unit(kit, path):
    kit.create(path)
    values = {"p": np.arange(6, dtype="float16").reshape(2, 3), "zeros": np.zeros((2, 2), "float32"), "seed": np.array([7], "int64")}
    kit.add_maps(Cache.open(path), constants=values)
    found = Cache.open(path).target("atom", "maps").constants
    assert set(found) == set(values)
    for name, value in values.items():
        assert found[name].dtype == value.dtype
        assert np.array_equal(found[name], value)


def test_creating_again_opens_and_other_arguments_are_refused(kit, path):
    kit.fill(path)
    assert kit.create(path).pairs.complete
    other = {**kit.IDENTITY, "pairs": {"seed": 4, "crop_size": 32}}
    with pytest.raises(RequestError, match=r"\(pairs.seed: cached 3, wanted 4\); run `make cache SEED=4`"):
        kit.create(path, identity=other, remedy="run `make cache SEED=4`")
    with pytest.raises(RequestError, match="count: cached 20, wanted 24"):
        kit.create(path, count=24)
    with pytest.raises(RequestError, match="part: cached 8, wanted 16"):
        kit.create(path, part=16)
    with pytest.raises(RequestError, match=r"arrays.grey.dtype: cached \"bool\", wanted nothing"):
        kit.create(path, arrays=[array for array in kit.PAIRS if array.name != "grey"])
    with pytest.raises(RequestError, match="expected a multiple of chunk"):
        kit.create(path.with_name("x"), part=10)


def test_opening_what_is_no_cache(kit, path, monkeypatch):
    with pytest.raises(RequestError, match="expected a cache, found nothing; make it with `make cache`"):
        Cache.open(path)
    for other in (path.with_name("folder"), path.with_name("file")):
        other.mkdir() if other.name == "folder" else other.write_text("x")
        (other / "x").write_text("x") if other.is_dir() else None
        with pytest.raises(RequestError, match="expected a cache, found something else"):
            Cache.open(other)
    with monkeypatch.context() as later:
        later.setattr("cache.store.LAYOUT", 2)
        kit.create(path)
    with pytest.raises(RequestError, match="expected a cache of layout version 1, found version 2; make it again with `make cache`"):
        Cache.open(path)


def test_an_empty_folder_may_become_a_cache(kit, tmp_path):
    (tmp_path / "empty").mkdir()
    assert kit.create(tmp_path / "empty").pairs.missing() == [0, 1, 2]


def test_travels_to_other_processes_and_is_read_by_threads(kit, path):
    cache = pickle.loads(pickle.dumps(kit.fill(path)))
    layer = kit.numbers(kit.MAPS[0]).astype("float16")
    compressed = kit.numbers(kit.MAPS[1]).astype("float16")

    def read(start: int) -> bool:
        found, crops = cache.target("atom", "maps").read(start, start + 3), cache.read_crops(start, start + 3)
        same = np.array_equal(found["layer2"], layer[start : start + 3]) and np.array_equal(found["layer3"], compressed[start : start + 3])
        return same and [bytes(image) for image in crops[1]] == [pair[1] for pair in kit.images()[start : start + 3]]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, list(range(17)) * 3))


def test_history_is_beside_everything_else(kit, path):
    cache = kit.fill(path)
    before = cache.pairs.entries()
    cache.add_history({"what": "pairs", "seconds": 1.5})
    cache.add_history({"what": "é"})
    assert cache.history() == [{"what": "pairs", "seconds": 1.5}, {"what": "é"}]
    assert cache.pairs.entries() == before
    if path.is_dir():
        with open(path / "ledger" / "history.jsonl", "a") as stream:
            stream.write('{"cut sho')  # killed in the middle of a line
        cache.add_history({"what": "after"})
        assert [record["what"] for record in cache.history()] == ["pairs", "é", "after"]


def test_any_zarr_opens_it_without_a_warning(kit, tmp_path):
    kit.fill(tmp_path / "cache").add_history({"seconds": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(tmp_path / "cache", mode="r")
        text = str(group.tree())
    assert all(name in text for name in ("crops", "jpeg", "pairs", "targets", "atom", "maps", "layer2", "constants", "projection"))
    for array in kit.PAIRS:
        assert np.array_equal(group[f"pairs/{array.name}"][:], kit.numbers(array))
        assert group[f"pairs/{array.name}"].attrs["doc"] == array.doc
    for array in kit.MAPS:
        assert np.array_equal(group[f"targets/atom/maps/{array.name}"][:], kit.numbers(array).astype("float16"))
    offset, length, jpeg = (group[f"crops/{name}"][:] for name in ("offset", "length", "jpeg"))
    found = [
        tuple(jpeg[first : first + size].tobytes() for first, size in zip(*row, strict=True)) for row in zip(offset, length, strict=True)
    ]
    assert found == kit.images()
    assert group.attrs["identity"]["dataset"] == "demo"
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
    assert set(entry) == {"unit", "part", "pairs", "fingerprint", "arrays"}
    assert entry["pairs"] == [16, 20]
    assert set(entry["arrays"]) == {f"pairs/{array.name}" for array in kit.PAIRS} | {"crops/jpeg", "crops/offset", "crops/length"}
