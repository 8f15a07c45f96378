"""The descriptions of a zarr tree as bytes: what zarr-python writes for these groups and arrays, made in memory.

zarr takes milliseconds, and commands ask for the same descriptions again and again, hence each is made once a process. Its import takes
half a second, and whoever only reads needs none of it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cache.backends.shard import COMPRESSION
from cache.layout import DOCS, Group, Placed, sealed
from configs.stop import Deferred

_PLAIN: dict[str, Any] = {
    "filters": None,
    "fill_value": 0,
    "chunk_key_encoding": {"name": "default", "separator": "."},  # one file a shard, no folders in between
}
CONSTANTS = {"doc": "arrays of the target as a whole, the same for every pair"}
"""Attributes of the group of a target's constants."""
OLD_LEDGER = (
    "No numbers here: the files <unit>/<part>.json beside this one publish the parts, with the SHA-256 of every shard;"
    " history.jsonl records the work."
)
"""What ledgers of before say of themselves."""


def key_of(group: str, name: str) -> str:
    """Of a file in a group, within the cache."""
    return f"{group}/{name}" if group else name


def chunk_of(shape: Sequence[int]) -> str:
    """Name of the only chunk of a constant."""
    return "c" + ".0" * len(shape)


def _written(kind: str, **described: Any) -> bytes:
    """The zarr.json of a group or an array."""
    held: dict[str, Any] = {}
    with Deferred() as asked:  # a signal while zarr starts its thread would end in its traceback
        import zarr
        from zarr.storage import MemoryStore

        getattr(zarr, f"create_{kind}")(MemoryStore(held), **described)
    asked.obey()
    return bytes(held["zarr.json"].to_bytes())


def group_text(attributes: Mapping[str, Any]) -> bytes:
    """The zarr.json of a group."""
    return _group_of(json.dumps(attributes))


@functools.lru_cache(1024)
def _group_of(attributes: str) -> bytes:
    return _written("group", attributes=json.loads(attributes))


@functools.lru_cache(1024)
def array_text(placed: Placed) -> bytes:
    """The zarr.json of an array in parts."""
    from zarr.codecs import ZstdCodec

    return _written(
        "array",
        shape=placed.shape,
        dtype=placed.dtype,
        shards=(placed.grid.part, *placed.array.shape),
        chunks=(placed.grid.chunk, *placed.array.shape),
        compressors=ZstdCodec(level=COMPRESSION) if placed.array.compress else None,
        attributes={"doc": placed.array.doc},
        **_PLAIN,
    )


def constant_text(shape: Sequence[int], dtype: str) -> bytes:
    """The zarr.json of a constant."""
    return _constant_of(tuple(shape), dtype)


@functools.lru_cache(1024)
def _constant_of(shape: tuple[int, ...], dtype: str) -> bytes:
    return _written("array", shape=shape, chunks=shape, dtype=dtype, compressors=None, **_PLAIN)


@functools.cache
def ledger_array(doc: str | None = None) -> bytes:
    """The zarr.json of the ledger; doc: what one of before says of itself, without a seal."""
    told: dict[str, Any] = sealed({"doc": DOCS["ledger"]}) if doc is None else {"doc": doc}
    return _written("array", shape=(0,), chunks=(1,), dtype="u1", compressors=None, fill_value=0, attributes=told)


def files_of(group: Group) -> dict[str, bytes]:
    """A new group as files, by key; its own description last."""
    files = {f"{placed.path}/zarr.json": array_text(placed) for placed in group.arrays}
    described = group.attributes.get("constants", {})
    if described:
        files[f"{group.path}/constants/zarr.json"] = group_text(CONSTANTS)
    for name, told in described.items():
        files[f"{group.path}/constants/{name}/zarr.json"] = constant_text(told["shape"], told["dtype"])
    for name, value in group.constants.items():
        files[f"{group.path}/constants/{name}/{chunk_of(value.shape)}"] = value.astype(value.dtype.newbyteorder("<")).tobytes()
    return files | {key_of(group.path, "zarr.json"): group_text(group.attributes)}
