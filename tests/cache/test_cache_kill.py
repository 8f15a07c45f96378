"""Killed or failing anywhere, a part is published or it is not, and writing it again gives the very same bytes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cache.backends.place
import cache.backends.shard
from cache import Cache
from cache.backends.base import TakenOver
from cache.claims import Claims
from cache.gc import drop_target, drop_unfinished
from cache.owner import owner
from cache.verify import verify

# A child process is killed at its n-th call that changes a file, for n = 0, 1, ... until one lives; each has a copy of its own.
KILLER = """
import os, shutil, signal, sys
from pathlib import Path
import numpy as np
from cache import Cache
from cache.gc import drop_target

source, out, work = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
step = int(sys.argv[4])
data = np.load(source.parent / "part.npz")
crops = [tuple(bytes.fromhex(text) for text in line.split()) for line in (source.parent / "crops.txt").read_text().splitlines()]

def work_on(path):
    cache = Cache.open(path)
    if work == "write":
        cache.pairs.write(1, {name: data[name] for name in cache.pairs.arrays}, crops)
    elif work == "write maps":
        unit = cache.target("atom", "maps")
        unit.write(1, {name: data[name] for name in unit.arrays})
    else:
        for action in drop_target(cache, "atom/maps"):
            action.apply()

def armed(name, calls, at):
    real = getattr(os, name)
    def call(*arguments, **options):
        calls[0] += 1
        if calls[0] > at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    setattr(os, name, call)

for turn in range(0, 400, step):
    path = out / f"{turn:03d}" / source.name
    path.parent.mkdir(parents=True)
    shutil.copytree(source, path)
    child = os.fork()
    if child == 0:
        calls = [0]
        for name in ("replace", "rename", "link", "fsync", "unlink", "rmdir", "mkdir"):
            armed(name, calls, turn)
        work_on(path)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
else:
    sys.exit("never lived")
"""


def killed(kit, source: Path, work: str, step: int) -> list[Path]:
    """Copies of `source`, each after a kill at another point of the same work; the last one lived."""
    store = Cache.open(source)
    arrays = {name: array for unit in (store.pairs, *store.targets().values()) for name, array in unit.arrays.items()}
    np.savez(source.parent / "part.npz", **{name: kit.numbers(array)[8:16] for name, array in arrays.items()})
    (source.parent / "crops.txt").write_text("\n".join(" ".join(image.hex() for image in pair) for pair in kit.images()[8:16]))
    out = source.parent / "killed"
    root = Path(cache.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", KILLER, source, out, work, str(step)], check=True, env=environment, timeout=60)
    return sorted(out.glob(f"*/{source.name}"))


def test_a_killed_write_leaves_a_part_or_none(kit, folder):
    store = kit.create(folder)
    kit.write(store, store.pairs, 0)
    before = store.pairs.entries()[0]
    places = killed(kit, folder, "write", 2)
    assert len(places) > 5
    states = set()
    reference = None
    for place in reversed(places):
        again = Cache.open(place)
        states.add(again.pairs.published(1))
        assert again.pairs.entries()[0] == before
        faults = verify(again)
        assert all("unfinished" in fault.what or "remains" in fault.what for fault in faults), faults
        with Claims(again):  # sweeps what the dead have left
            kit.write(again, again.pairs, 1)
        content = kit.tree(place)
        reference = content if reference is None else reference
        assert content == reference
        assert [fault.what for fault in verify(Cache.open(place))] == ["unfinished, 1 of 3 parts are not published (2)"]
        assert os.listdir(place.parent) == [place.name]
    assert states == {True, False}


def test_a_killed_write_of_compressed_arrays_is_made_good_to_the_byte(kit, folder):
    store = kit.create(folder)
    kit.add_maps(store)
    places = killed(kit, folder, "write maps", 2)
    assert len(places) > 3
    states, contents = set(), []
    for place in places:
        unit = Cache.open(place).target("atom", "maps")
        states.add(unit.published(1))
        with Claims(Cache.open(place)):
            kit.write(Cache.open(place), unit, 1)
        contents.append(kit.tree(place))
        assert np.array_equal(unit.read(8, 16)["layer3"], kit.numbers(kit.MAPS[1])[8:16].astype("float16"))
    assert states == {True, False}
    assert all(content == contents[-1] for content in contents)


def test_a_killed_drop_leaves_a_target_or_none(kit, folder):
    kit.fill(folder)
    places = killed(kit, folder, "drop", 2)
    assert len(places) > 3
    states = set()
    for place in places:
        again = Cache.open(place)
        unit = again.target("atom", "maps")
        states.add(None if unit is None else len(unit.missing()))
        assert again.pairs.complete
        for fault in verify(again):
            assert "unfinished" in fault.what or "remains" in fault.what, fault
        if unit is not None:
            for part in range(3):
                if unit.published(part):
                    assert len(unit.read(*again.bounds(part))["layer2"])
            for action in drop_target(again, "atom/maps"):
                action.apply()
        for action in drop_unfinished(again):
            action.apply()
        assert verify(again) == []
        unit = kit.add_maps(again)
        kit.write(again, unit, 0)
        assert unit.missing() == [1, 2]
    assert None in states
    assert 3 in states


@pytest.mark.parametrize(("writes", "nth", "left"), [("shards", 0, 0), ("shards", 1, 0), ("shards", 9, 0), ("entry", 0, 9)])
def test_a_full_disk_leaves_the_part_unpublished(kit, tmp_path, monkeypatch, writes, nth, left):
    path = tmp_path / "cache"
    store = kit.create(path)
    kit.write(store, store.pairs, 0)
    owner, name = (cache.backends.shard.ShardWriter, "_put") if writes == "shards" else (cache.backends.place, "_write")
    real, calls = getattr(owner, name), []

    def full(place, content):
        calls.append(place)
        if len(calls) > nth:
            raise OSError(errno.ENOSPC, "No space left on device", str(place))
        real(place, content)

    with monkeypatch.context() as at, pytest.raises(OSError, match="No space left"):
        at.setattr(owner, name, full)
        kit.write(store, store.pairs, 1)
    assert not store.pairs.published(1)
    remains = [fault for fault in verify(store) if "remains" in fault.what]
    assert len(remains) == left, "shards without an entry; what was being written is gone"
    kit.write(store, store.pairs, 1)
    kit.write(store, store.pairs, 2)
    assert verify(store) == []
    whole = kit.create(tmp_path / "whole")
    for part in range(3):
        kit.write(whole, whole.pairs, part)
    assert kit.tree(path) == kit.tree(tmp_path / "whole")


def test_remains_of_another_content_do_not_shine_through(kit, tmp_path):
    path = tmp_path / "cache"
    store = kit.create(path)
    for part in range(3):
        kit.write(store, store.pairs, part)
    whole = kit.tree(path)
    (path / "ledger/pairs/00001.json").unlink()
    longer = (path / "crops/jpeg/c.0").read_bytes()
    (path / "crops/jpeg/c.1").write_bytes(longer * 2)
    (path / "pairs/ref_box/c.1.0").write_bytes(b"half")
    again = Cache.open(path)
    assert again.pairs.missing() == [1]
    kit.write(again, again.pairs, 1)
    assert kit.tree(path) == whole


def test_a_killed_creation_leaves_nothing_that_counts(kit, folder, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as at, pytest.raises(KeyboardInterrupt):
        at.setattr(cache.backends.place, "_move", stop)
        kit.create(folder)
    assert os.listdir(folder.parent) == []
    store = kit.create(folder)
    with monkeypatch.context() as at, pytest.raises(KeyboardInterrupt):
        at.setattr(cache.backends.place, "_move", stop)
        kit.add_maps(store)
    assert Cache.open(folder).targets() == {}
    kit.add_maps(store)
    assert set(Cache.open(folder).targets()) == {("atom", "maps")}


def test_what_the_dead_were_writing_is_swept_and_what_the_living_write_is_not(kit, folder):
    store = kit.create(folder)
    machine = owner().split("-")[0]
    dead, alive, far = f"{machine}-999999999-1", owner(), "0123456789ab-1-1"
    kept, swept = [f"ledger/.tmp-{alive}.1", f"ledger/.tmp-{far}.1"], [f"ledger/.tmp-{dead}.1", f"ledger/.tmp-{far}.2"]
    beside = folder.with_name(f".{folder.name}.{dead}.1234.tmp")
    for place in (beside, *(folder / name for name in (*kept, *swept))):
        (place / "tree").mkdir(parents=True)
        (place / "file").write_text("x")
    for path in (folder / swept[1], *(folder / swept[1]).iterdir()):
        os.utime(path, (0, 0))
    with Claims(store):
        assert all((folder / name).exists() for name in kept)
        assert not any((folder / name).exists() for name in swept) and not beside.exists()
    for action in drop_unfinished(store):
        action.apply()
    assert not (folder / kept[1]).exists(), "by whoever asks for it"


def test_a_writer_that_slept_too_long_loses_nothing(kit, folder, monkeypatch):
    store = kit.create(folder)
    kit.add_maps(store)
    slow, quick = (kit.add_maps(Cache.open(folder)) for _ in range(2))
    rows = {name: kit.numbers(array)[:8] for name, array in slow.arrays.items()}
    with slow.stream(0) as first, slow.stream(1) as second:
        first.append(rows)
        second.append(rows)
        store.backend.place.sweep([owner()])  # by whoever has taken its parts over
        with pytest.raises(TakenOver, match=r"maps/layer2, part 0: expected the file that was being written, found it removed"):
            first.publish()
        quick.write(1, rows)
        second.publish()  # what is there already is the same
    assert quick.missing() == [0, 2]
    kit.write(store, quick, 0)
    assert [fault.what for fault in verify(Cache.open(folder)) if "unfinished" not in fault.what] == []


def test_an_old_scratch_is_judged_by_the_clock_of_the_file_system(kit, folder, monkeypatch):
    store = kit.create(folder)
    place = folder / "ledger/.tmp-0123456789ab-1-1.1"
    place.mkdir()
    monkeypatch.setattr("time.time", lambda: 4e9)
    with Claims(store):
        assert place.exists()


def test_a_ledger_entry_is_one_json_object(kit, tmp_path):
    kit.fill(tmp_path / "cache")
    for entry in (tmp_path / "cache/ledger").rglob("0*.json"):
        assert isinstance(json.loads(entry.read_text()), dict)
