"""Shards that are written some rows at a time have the bytes that zarr gives them, whole in memory."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from cache import Array, Cache
from cache.backends.shard import ShardWriter
from cache.inspect import cache_info, lines_of
from cache.layout import Grid, Placed
from cache.verify import verify
from configs.errors import RunError


def by_zarr(placed: Placed, rows: np.ndarray) -> bytes:
    """The first shard of a zarr array that holds the rows."""
    held: dict = {}
    zarr.create_array(
        MemoryStore(held),
        shape=placed.shape,
        dtype=placed.dtype,
        shards=(placed.grid.part, *placed.array.shape),
        chunks=(placed.grid.chunk, *placed.array.shape),
        compressors=ZstdCodec(level=3) if placed.array.compress else None,
        filters=None,
        fill_value=0,
        config={"write_empty_chunks": True},
    )[: len(rows)] = rows
    (shard,) = (value.to_bytes() for key, value in held.items() if key != "zarr.json")
    return shard


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("rows", [1, 8, 11, 16, 24])
@pytest.mark.parametrize("steps", [1, 3, 8, 100])
def test_the_bytes_are_zarrs(compress, rows, steps):
    random = np.random.default_rng(rows)
    placed = Placed("u", Array("maps", (3, 2), "float16", "", compress=compress), Grid(24, 24, 8))
    value = random.normal(size=(rows, 3, 2)).round(1).astype("<f2")
    value[:8] = 0  # a chunk of zeros is stored too
    file = io.BytesIO()
    shard = ShardWriter(placed, file)
    for first in range(0, rows, steps):
        shard.append(value[first : first + steps])
    record = shard.finish()
    assert file.getvalue() == by_zarr(placed, value)
    assert record == {"bytes": len(file.getvalue()), "sha256": hashlib.sha256(file.getvalue()).hexdigest()}


@pytest.fixture
def place(kit, tmp_path) -> tuple[Cache, Cache]:
    """Two caches of one pair set, to be written in two ways."""
    return kit.create(tmp_path / "whole"), kit.create(tmp_path / "pieces")


def test_a_part_in_pieces_is_the_part_as_a_whole(kit, place):
    whole, pieces = place
    unit, streamed = (kit.add_maps(store) for store in place)
    start, stop = whole.bounds(0)
    rows = {name: kit.numbers(array)[start:stop] for name, array in unit.arrays.items()}
    made = {"torch": "2", "batch": 4}
    unit.write(0, rows, made=made)
    with streamed.stream(0, made) as stream:
        for first in (0, 3):
            stream.append({name: value[first : 3 if first == 0 else None] for name, value in rows.items()})
        assert not streamed.published(0)
        stream.publish()
    assert kit.tree(whole.path) == kit.tree(pieces.path) and streamed.entries()[0]["made"] == made
    # the same numbers of another machine are the same part
    with streamed.stream(0, {"torch": "3"}) as stream:
        stream.append(rows)
        stream.publish()
    assert streamed.entries()[0]["made"] == made


def test_a_part_that_is_not_whole_is_not_published_and_leaves_nothing(kit, place):
    store, _ = place
    unit = kit.add_maps(store)
    rows = {name: kit.numbers(array)[:3] for name, array in unit.arrays.items()}
    before = kit.tree(store.path)
    with pytest.raises(RunError, match="found them up to 2; append the others"), unit.stream(0) as stream:
        stream.append(rows)
        stream.publish()
    with pytest.raises(RunError, match="found 3 from 6 on; pass each pair once"), unit.stream(0) as stream:
        for _ in range(3):
            stream.append(rows)
    bad = {name: np.where(np.arange(3)[(...,) + (None,) * (value.ndim - 1)] == 1, np.inf, value) for name, value in rows.items()}
    with pytest.raises(RunError, match="pair 4: expected finite numbers"), unit.stream(0) as stream:
        stream.append(rows)
        stream.append(bad)
    assert kit.tree(store.path) == before


def test_info_shows_what_parts_were_made_with(kit, place):
    store, _ = place
    unit = kit.add_maps(store)
    for part, made in enumerate(({"torch": "1"}, {"torch": "2"}, {"torch": "1"})):
        start, stop = store.bounds(part)
        unit.write(part, {name: kit.numbers(array)[start:stop] for name, array in unit.arrays.items()}, made=made)
    kit.write(store, store.pairs, 0)
    info = lines_of(cache_info(store))
    assert "  made with torch 1: parts 0, 2" in info and "  made with torch 2: parts 1" in info
    assert "  made with what is not recorded: parts 0" in info
    assert verify(store) and not [fault for fault in verify(store) if "unfinished" not in fault.what]
