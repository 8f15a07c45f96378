"""The contract of whatever reads a cache: a zarr directory and an HDF5 copy."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import operator
import pickle
from dataclasses import replace

import h5py
import numpy as np
import pytest

from cache import Cache
from configs.errors import RequestError, RunError


@pytest.mark.parametrize("start, stop", [(0, 20), (0, 4), (8, 16), (3, 5), (6, 18), (19, 20), (5, 5), (20, 20)])
def test_reads_what_was_written(kit, path, start, stop):
    kit.fill(path)
    cache = Cache.open(path)
    for unit in (cache.pairs, cache.target("atom", "maps")):
        rows = unit.read(start, stop)
        assert set(rows) == set(unit.arrays)
        for name, array in unit.arrays.items():
            assert rows[name].dtype == np.dtype(array.dtype)
            assert np.array_equal(rows[name], kit.numbers(array)[start:stop].astype(array.dtype))
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
    made = kit.create(path.with_name("made"))
    kit.write(made, made.pairs, 1)
    cache = kit.put(made, path)
    assert cache.pairs.missing() == [0, 2]
    assert (cache.pairs.published(0), cache.pairs.published(1), cache.pairs.complete) == (False, True, False)
    assert len(cache.pairs.read(8, 16)["grey"]) == 8
    finish = "write it with `make cache`" if path.is_dir() else "remove this copy and export its zarr cache again"
    for read in (cache.pairs.read, cache.read_crops):
        with pytest.raises(RunError, match=r"part 0 \(pairs 0-7\) to be published, found no ledger entry; " + finish):
            read(7, 9)
        with pytest.raises(RunError, match=r"part 2 \(pairs 16-19\)"):
            read(15, 17)


@pytest.mark.parametrize("parts", [(0, 1, 2), (0, 2)], ids=["whole", "unfinished"])
def test_a_compressed_array_counts_what_it_takes(kit, path, parts):
    made = kit.create(path.with_name("made"))
    unit = made.add_target("atom", kit.TEACHER, kit.features(kit.COARSE, replace(kit.COARSE, name="raw", compress=False)))
    for part in parts:
        start, stop = made.bounds(part)
        unit.write(part, dict.fromkeys(("coarse", "raw"), kit.coarse()[start:stop]))
    unit = kit.put(made, path).target("atom", "features")
    for start, stop in [made.bounds(part) for part in parts] + [(3, 5)]:
        assert np.array_equal(unit.read(start, stop)["coarse"], kit.coarse()[start:stop].astype("float16"))
    sizes = unit.nbytes()
    whole = sum(stop - start for start, stop in map(made.bounds, parts)) * kit.COARSE.row_bytes
    assert sizes["raw"] >= whole and 0.1 * whole < sizes["coarse"] < 0.5 * whole
    if path.is_dir():
        on_disk = sum(item.stat().st_size for item in (path / "targets/atom/features/coarse").glob("c.*"))
    else:
        with h5py.File(path, "r", locking=False) as file:
            on_disk = file["targets/atom/features/coarse"].id.get_storage_size()
    assert sizes["coarse"] == on_disk


def test_constants_come_back_and_are_read_only_through_the_unit(kit, path):
    made = kit.create(path.with_name("made"))
    values = {"p": np.arange(6, dtype="float16").reshape(2, 3), "zeros": np.zeros((2, 2), "float32"), "seed": np.array([7], "int64")}
    kit.add_maps(made, constants=values)
    constants = kit.put(made, path).target("atom", "maps").constants
    assert set(constants) == set(values)
    for name, value in values.items():
        assert constants[name].dtype == value.dtype
        assert np.array_equal(constants[name], value)


def test_opening_what_is_no_cache(path):
    with pytest.raises(RequestError, match="expected a cache, found nothing; make it with `make cache`"):
        Cache.open(path)
    for other in (path.with_name("folder"), path.with_name("file")):
        other.mkdir() if other.name == "folder" else other.write_text("x")
        (other / "x").write_text("x") if other.is_dir() else None
        with pytest.raises(RequestError, match="expected a cache, found something else"):
            Cache.open(other)


@pytest.mark.parametrize(
    "identity, command",
    [
        ({"dataset": "got10k", "split": "train", "count": 20}, "make cache DATASET=got10k SPLIT=train PAIRS=20"),
        ({"dataset": "got10k", "split": "val", "pairs": {"seed": 3}}, "make cache DATASET=got10k SPLIT=val VAL_PAIRS=20"),
        ({"dataset": "got10k"}, "make cache"),
        ({"split": "train"}, "make cache"),
    ],
)
def test_another_layout_is_refused_with_the_command_that_makes_the_cache_again(old, path, identity, command):
    for layout in (1, 3):
        old(path, layout, identity=identity)
        with pytest.raises(RequestError) as refused:
            Cache.open(path)
        expected = f"expected a cache of layout version 2, found version {layout}; make it again with `{command}` and remove this one"
        assert str(refused.value) == f"{path}: {expected}"
        path.unlink() if path.is_file() else path.rename(path.with_name(f"layout{layout}"))


def reader(kit, cache):
    """A function that reads from pair `start` on and says whether everything is as it was written."""
    layer = kit.numbers(kit.MAPS[0]).astype("float16")
    compressed = kit.numbers(kit.MAPS[1]).astype("float16")

    def read(start: int) -> bool:
        maps, crops = cache.target("atom", "maps").read(start, start + 3), cache.read_crops(start, start + 3)
        same = np.array_equal(maps["layer2"], layer[start : start + 3]) and np.array_equal(maps["layer3"], compressed[start : start + 3])
        return same and [bytes(image) for image in crops[1]] == [pair[1] for pair in kit.images()[start : start + 3]]

    return read


def test_is_read_by_threads(kit, path):
    read = reader(kit, pickle.loads(pickle.dumps(kit.fill(path))))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, list(range(17)) * 3))


def test_travels_to_new_processes(kit, path):
    cache, images = kit.fill(path), kit.images()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        crops = pool.map(operator.methodcaller("read_crops", 3, 18), [cache] * 4)
    assert [[bytes(ref) for ref in refs] for refs, _ in crops] == [[pair[0] for pair in images[3:18]]] * 4


def test_forked_processes_go_on_reading_what_is_open_while_threads_read_it(kit, path):
    read = reader(kit, kit.fill(path))

    def work() -> None:
        assert all(read(start) for start in [*range(17)] * 2)

    work()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        threads = [pool.submit(work) for _ in range(2)]
        children = [multiprocessing.get_context("fork").Process(target=work) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join(30)
        assert [child.exitcode for child in children] == [0, 0]
        assert [thread.result() for thread in threads] == [None, None]


def test_history_is_beside_everything_else(kit, path):
    made = kit.fill(path.with_name("made"))
    before = made.pairs.entries()
    made.add_history({"what": "pairs", "seconds": 1.5})
    made.add_history({"what": "é"})
    with open(made.path / "ledger" / "history.jsonl", "a") as stream:
        stream.write('{"cut sho')  # killed in the middle of a line
    made.add_history({"what": "after"})
    assert made.pairs.entries() == before
    assert kit.put(made, path).history() == [{"what": "pairs", "seconds": 1.5}, {"what": "é"}, {"what": "after"}]
