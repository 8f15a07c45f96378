"""Several processes create one cache, add one target and write different parts, all at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cache
from cache import Cache
from cache.backends.base import OtherNumbers
from cache.backends.place import Disk
from cache.layout import history_record
from cache.verify import verify

# Each process waits for the same file, then creates, adds and writes the parts that are its own.
WORKER = """
import importlib.util, os, sys, time
from pathlib import Path

spec = importlib.util.spec_from_file_location("kit", sys.argv[1])
kit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)
path, mine, go = Path(sys.argv[2]), [int(part) for part in sys.argv[3].split(",")], Path(sys.argv[4])
os.fsync = lambda handle: None
kit.images()
Path(f"{go}.{sys.argv[3]}").touch()
while not go.exists():
    time.sleep(0.001)
cache = kit.create(path)
unit = kit.add_maps(cache)
other = kit.add_maps(cache, teacher="other", name="iou", constants={}, teacher_identity={"architecture": "other"})
for part in mine:
    kit.write(cache, cache.pairs, part)
    kit.write(cache, unit, part)
    kit.write(cache, other, part)
    cache.add_history({"part": part})
assert len(cache.pairs.read(*cache.bounds(mine[0]))["grey"])
"""


def together(path: Path, shares: list[str]) -> None:
    """One process a share, all let go at the same moment."""
    go = path.parent / f"go-{path.name}"
    environment = {**os.environ, "PYTHONPATH": str(Path(cache.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, str(Path(__file__).with_name("conftest.py")), str(path)]
    workers = [subprocess.Popen([*command, share, str(go)], env=environment) for share in shares]
    while not all(Path(f"{go}.{share}").exists() for share in shares):
        assert all(worker.poll() is None for worker in workers)
    go.touch()
    assert [worker.wait(60) for worker in workers] == [0] * len(shares)


def test_the_order_of_writers_leaves_no_trace(kit, folder):
    alone = folder.with_name("alone")
    single = kit.build(alone)
    other = kit.add_maps(single, teacher="other", name="iou", constants={}, teacher_identity={"architecture": "other"})
    for part in range(3):
        kit.write(single, other, part)
    together(folder, ["2,0", "1"])
    many = Cache.open(folder)
    assert verify(many) == []
    assert sorted(record["part"] for record in many.history()) == [0, 1, 2]
    assert many.pairs.entries() == single.pairs.entries()
    for name, unit in single.targets().items():
        assert many.targets()[name].entries() == unit.entries()
    left, right = kit.tree(alone), kit.tree(folder)
    records = [right.pop(f"ledger/history/{number:08d}.json") for number in range(3)]
    assert all(history_record(text) for text in records)
    assert left == right
    assert sorted(place.name for place in folder.parent.iterdir() if not place.name.startswith("go-")) == ["alone", "cache"]


def test_a_reader_sees_parts_as_others_publish_them(kit, folder):
    kit.create(folder)
    reader, writer = Cache.open(folder), Cache.open(folder)
    assert reader.targets() == {}
    for part in range(3):
        kit.write(writer, writer.pairs, part)
        assert reader.pairs.missing() == list(range(part + 1, 3))
        first, last = reader.bounds(part)
        assert [bytes(image) for image in reader.read_crops(first, last)[0]] == [pair[0] for pair in kit.images()[first:last]]
    kit.add_maps(writer)
    assert set(reader.targets()) == {("atom", "maps")}


def test_a_writer_of_other_numbers_that_comes_too_late_leaves_no_part_with_wrong_shards(kit, folder, monkeypatch):
    ours, theirs = kit.create(folder), Cache.open(folder)
    arrays = {name: kit.numbers(array)[8:16] for name, array in ours.pairs.arrays.items()}
    create = Disk.create

    def late(place, key, content):
        monkeypatch.setattr(Disk, "create", create)
        kit.write(theirs, theirs.pairs, 1)  # while our shards already lie in their place
        for path, shard in stored.items():
            path.write_bytes(shard)
        return create(place, key, content)

    arrays["ref_box"][0, 0] += 1
    other = kit.create(folder.with_name("other"))
    other.pairs.write(1, arrays, kit.images()[8:16])
    stored = {folder / "pairs/ref_box/c.1.0": (folder.with_name("other") / "pairs/ref_box/c.1.0").read_bytes()}
    monkeypatch.setattr(Disk, "create", late)
    with pytest.raises(OtherNumbers, match=r"pairs/ref_box, part 1: expected a part that is not published, .* two writers differ"):
        ours.pairs.write(1, arrays, kit.images()[8:16])
    assert ours.pairs.missing() == [0, 1, 2] and Cache.open(folder).pairs.missing() == [0, 1, 2]
    kit.write(theirs, theirs.pairs, 1)
    assert np.array_equal(
        Cache.open(folder).check_before_use().pairs.read(8, 16)["ref_box"], kit.numbers(ours.pairs.arrays["ref_box"])[8:16]
    )


def test_what_is_published_again_mends_its_damaged_shards(kit, folder):
    cache = kit.build(folder)
    whole = kit.tree(folder)
    (folder / "pairs/ref_box/c.1.0").write_bytes(b"x")
    (folder / "pairs/grey/c.1").unlink()
    kit.write(cache, cache.pairs, 1)
    assert kit.tree(folder) == whole
