"""A cache in a bucket, on a server of this machine: the same bytes as on a disk, the same claims, the same faults found."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cache import Cache, find
from cache.__main__ import main
from cache.address import Address, location
from cache.backends import open_place
from cache.claims import Claims, claimed
from cache.export import export
from cache.gc import drop_damaged, drop_target
from cache.locate import caches_below
from cache.owner import Held
from cache.verify import verify
from configs.cli import run
from configs.errors import RequestError, RunError


def objects(path: Address) -> dict[str, bytes]:
    """Every object below an address."""
    place = open_place(path)
    return {key: place.get(key) for key, _ in place.walk()}


def test_an_address_is_used_like_a_path():
    place = location("s3://bucket-1/a//b/")
    assert (str(place), place) == ("s3://bucket-1/a/b", Address("bucket-1", "a/b"))
    assert str(place / "c") == "s3://bucket-1/a/b/c" and (place / "c").name == "c" and (place / "c").parent == place
    assert str(location("s3://bucket-1")) == "s3://bucket-1" and location("s3x") == Path("s3x")
    for wrong in ("s3:/bucket", "s3://", "s3://bucket/../x", "s3://b c/x"):
        with pytest.raises(RequestError, match="expected s3://BUCKET/PREFIX"):
            location(wrong)


def test_it_holds_the_bytes_of_one_on_a_disk_and_reads_back(kit, bucket, tmp_path):
    disk, cache = kit.build(tmp_path / "disk"), kit.build(bucket / "train")
    disk.add_history({"seconds": 1})
    cache.add_history({"seconds": 1})
    assert objects(bucket / "train") == kit.tree(tmp_path / "disk")
    again = Cache.open(str(bucket / "train")).check_before_use()
    for start, stop in ((0, 20), (3, 5), (6, 18), (5, 5)):
        for unit in (again.pairs, again.target("atom", "maps")):
            for name, rows in unit.read(start, stop).items():
                assert np.array_equal(rows, kit.numbers(unit.arrays[name])[start:stop].astype(rows.dtype))
        refs, tests = again.read_crops(start, stop)
        assert [(bytes(ref), bytes(test)) for ref, test in zip(refs, tests, strict=True)] == kit.images()[start:stop]
    assert np.array_equal(again.target("atom", "maps").constants["projection"], np.eye(3))
    assert verify(again, deep=True) == []
    assert list(caches_below(bucket)) == [bucket / "train"] and find(str(bucket), kit.IDENTITY).path == bucket / "train"
    for action in drop_target(again, "atom/maps"):
        action.apply()
    assert Cache.open(bucket / "train").targets() == {} and not any("targets/atom/maps" in key for key in objects(bucket / "train"))


def test_parts_are_claimed_published_once_and_compared(kit, bucket):
    cache, other = kit.create(bucket / "train"), Cache.create(bucket / "train", kit.SPEC)
    place = open_place(bucket / "train")
    place.put("ledger/claims/00001.0", Held("0123456789ab-1-1", 0, 60).text())
    made: list[int] = []

    def work(store: Cache) -> None:
        with Claims(store) as claims:
            for part in claimed(claims, [store.pairs], store.pairs.missing):
                made.append(part)
                kit.write(store, store.pairs, part)
                claims.give_back(part)
            claims.clear()

    threads = [threading.Thread(target=work, args=(store,)) for store in (cache, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(made) == {0, 1, 2} and len(made) <= 4 and verify(cache) == []
    before = objects(bucket / "train")
    kit.write(other, other.pairs, 1)
    arrays = {name: kit.numbers(array)[8:16] for name, array in cache.pairs.arrays.items()}
    arrays["ref_box"][0, 0] += 1
    with pytest.raises(RunError, match=r"pairs/ref_box, part 1: expected a part that is not published, .* two writers differ"):
        cache.pairs.write(1, arrays, kit.images()[8:16])
    assert objects(bucket / "train") == before


def test_damage_is_found_and_mended(kit, bucket):
    kit.put(kit.fill(Path(os.environ["TEACHONCE_READ_CACHE"]).with_name("made")), bucket / "train")
    whole, place = objects(bucket / "train"), open_place(bucket / "train")
    Cache.open(bucket / "train").check_before_use().pairs.read(0, 20)  # its blocks lie on the disk now
    for key in ("pairs/ref_box/c.1.0", "crops/jpeg/c.2", "ledger/pairs/00000.json", "pairs/grey/zarr.json"):
        place.put(key, whole[key][:-3] + b"???")
    cache = Cache.open(bucket / "train").check_before_use()
    assert {fault.where for fault in verify(cache)} == {"pairs/ref_box", "crops/jpeg", "ledger/pairs", "pairs/grey"}
    with pytest.raises(RunError, match="pairs/ref_box, part 1: expected the bytes of its checksum"):
        cache.pairs.read(8, 9)
    for action in drop_damaged(cache):
        action.apply()
    again = Cache.open(bucket / "train")
    for part in again.pairs.missing():
        kit.write(again, again.pairs, part)
    assert objects(bucket / "train") == whole


def test_what_is_read_is_kept_on_the_disk_up_to_a_bound_and_mended_there(kit, bucket, tmp_path, monkeypatch):
    kit.put(kit.fill(tmp_path / "made"), bucket / "train")
    cache = Cache.open(bucket / "train").check_before_use()
    cache.pairs.read(0, 20)
    kept = sorted(path for path in (tmp_path / "read").rglob("*") if path.is_file())
    assert len(kept) == 3 * len(cache.pairs.placed) + 3, "a second block of each jpeg"
    for path in kept:
        path.write_bytes(bytes(path.stat().st_size))
    again = Cache.open(bucket / "train").check_before_use()
    assert np.array_equal(again.pairs.read(0, 20)["ref_box"], kit.numbers(kit.PAIRS[2]).astype("float32"))
    monkeypatch.setenv("TEACHONCE_READ_CACHE", str(tmp_path / "small"))
    monkeypatch.setenv("TEACHONCE_READ_CACHE_GB", "0.002")
    Cache.open(bucket / "train").check_before_use().pairs.read(0, 20)
    assert 0 < sum(path.stat().st_size for path in (tmp_path / "small").rglob("*") if path.is_file()) <= 2e6


def test_copies_go_both_ways_and_the_command_line_takes_an_address(kit, bucket, tmp_path, capsys):
    kit.fill(tmp_path / "made")
    assert run(main, ["export", str(tmp_path / "made"), str(bucket / "copy")]) == 0
    assert run(main, ["verify", str(bucket / "copy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.partition("\n")[2])["path"] == str(bucket / "copy")
    assert run(main, ["ls", str(bucket)]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["copy", "20", "3/3"]
    assert run(main, ["info", "copy", "--cache-dir", str(bucket)]) == 0
    told = capsys.readouterr()
    assert "secret-of-test" not in told.out + told.err
    export(Cache.open(bucket / "copy"), tmp_path / "back")
    assert kit.tree(tmp_path / "back") == kit.tree(tmp_path / "made")
    assert run(main, ["info", str(bucket / "nothing")]) == 2
    assert "expected a cache, found nothing there" in capsys.readouterr().err


def test_a_fork_that_would_wait_for_ever_is_refused_and_a_process_of_its_own_reads(kit, bucket, tmp_path):
    kit.put(kit.fill(tmp_path / "made"), bucket / "train")
    cache = Cache.open(bucket / "train")
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        with os.fdopen(writing, "w") as said:
            for read in (lambda: cache.pairs.read(0, 4), lambda: Cache.open(bucket / "train")):
                try:
                    read()
                except RunError as error:
                    said.write(f"{error}\n")
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        lines = said.read().splitlines()
    assert os.waitpid(child, 0)[1] == 0 and len(lines) == 2
    assert all(f"{bucket}/train: expected a process of its own to reach a bucket" in line and "by spawn" in line for line in lines)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        rows = pool.submit(cache.pairs.read, 3, 9, ("ref_box",)).result(60)
    assert np.array_equal(rows["ref_box"], kit.numbers(kit.PAIRS[2])[3:9])


def test_a_store_that_does_not_answer_is_one_line_without_the_credentials(bucket, monkeypatch, capsys):
    assert run(main, ["info", f"s3://{bucket.bucket}-not-there/x"]) != 0
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "secret-of-test" not in told


def test_a_cache_that_another_is_still_creating_is_created_too(kit, bucket):
    open_place(bucket / "train").put("pairs/ref_box/zarr.json", b"{}")
    assert kit.create(bucket / "train").pairs.missing() == [0, 1, 2]
