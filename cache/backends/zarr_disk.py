"""The directory backend: zarr v3, sharded. Any zarr opens it; `ledger/` beside the arrays publishes the parts.

`ledger` is an empty zarr array, so that other readers pass over the files in its folder. Temporary folders live there too.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.buffer import Buffer
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from cache.backends.base import LOOK, Part, Stray, bytes_below, ledger_entry, make_folders, remains_of
from cache.backends.shard import RawReader, encode, shard_key
from cache.layout import DOCS, Group, Placed, sha256
from configs.errors import RunError
from configs.files import fsync_folder, sha256_file, write_atomic

_TEMPORARY = ".tmp-"
_PLAIN: dict[str, Any] = {
    "filters": None,
    "fill_value": 0,
    "chunk_key_encoding": {"name": "default", "separator": "."},  # one file a shard, no folders in between
}


class ZarrDisk:
    """One cache in a directory (see `cache.backends.base.Writer`)."""

    kind = "zarr"
    finish = "write it with `make cache` (finished parts are kept)"

    def __init__(self, path: Path) -> None:
        self.path, self.mend = path, f"run `python -m cache gc {path} --damaged` and then `make cache`"
        self._ledger = path / "ledger"
        self._readers: dict[str, Any] = {}  # of arrays: by zarr where they are compressed, else raw
        self._sizes: dict[tuple[str, int], int] = {}  # of compressed shards, from the ledger

    @staticmethod
    def create(path: Path, groups: Sequence[Group]) -> bool:
        """Creates a cache with these groups (the root first) in one step; False if something is already at `path`."""
        make_folders(path.parent)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp") as temporary:
            folder = Path(temporary)
            for group in groups:
                _build(folder / group.path, group)
            doc: dict[str, Any] = {"doc": DOCS["ledger"]}
            zarr.create_array(str(folder / "ledger"), shape=(0,), chunks=(1,), dtype="u1", compressors=None, fill_value=0, attributes=doc)
            (folder / "ledger" / "pairs").mkdir()
            return _move(folder, path)

    # groups

    def attributes(self, group: str) -> dict[str, Any]:
        try:
            content = json.loads((self.path / group / "zarr.json").read_bytes())
        except FileNotFoundError:
            raise KeyError(group) from None
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.path / group / 'zarr.json'}: expected the JSON of a zarr group, found {error}; restore it from a copy"
            ) from None
        return dict(content.get("attributes", {}))

    def children(self, group: str) -> list[str]:
        return sorted(name for name in _names(self.path / group) if (self.path / group / name / "zarr.json").is_file())

    def add(self, group: Group) -> bool:
        make_folders(self._ledger / group.path)
        with tempfile.TemporaryDirectory(dir=self._ledger, prefix=_TEMPORARY) as temporary:
            _build(Path(temporary, "group"), group)
            return _move(Path(temporary, "group"), self.path / group.path)

    def group_bytes(self, group: str) -> int:
        return bytes_below(self.path / group)

    def drop(self, group: str) -> None:
        # first out of sight in one step, then removed at leisure
        with tempfile.TemporaryDirectory(dir=self._ledger, prefix=_TEMPORARY) as temporary:
            if (self.path / group).exists():
                (self.path / group).rename(Path(temporary, "group"))
                fsync_folder((self.path / group).parent)
            shutil.rmtree(self._ledger / group, ignore_errors=True)
        self._readers.clear()
        self._sizes.clear()

    # rows

    def constant(self, path: str) -> np.ndarray:
        return np.asarray(zarr.open_array(str(self.path / path), mode="r")[...])

    def read(self, placed: Placed, part: int, first: int, out: np.ndarray) -> None:
        reader, folder = self._readers.get(placed.path), self.path / placed.path
        if reader is None:
            made = zarr.open_array(str(folder), mode="r") if placed.array.compress else RawReader(folder, placed)
            reader = self._readers.setdefault(placed.path, made)
        if not placed.array.compress:
            reader.read(part, first, out)
            return
        self._check_size(placed, part)
        begin = part * placed.grid.part + first
        try:
            out[...] = reader[begin : begin + len(out)]
        except (ValueError, RuntimeError) as error:
            raise RunError(f"{placed.path}, part {part}: expected a sound shard, found {error}; {LOOK}") from error

    def _check_size(self, placed: Placed, part: int) -> None:
        """RunError unless the shard has the bytes of its ledger entry: for a missing or empty one zarr would give fill values."""
        wanted = self._sizes.get((placed.path, part))
        if wanted is None:
            entry = self.entry(placed.group, part) or {"arrays": {}}
            wanted = self._sizes[placed.path, part] = entry["arrays"].get(placed.path, {}).get("bytes", -1)
        shard = self.path / placed.path / shard_key(placed, part)
        size = shard.stat().st_size if shard.is_file() else -1
        if size != wanted or size < 0:
            found = size if size >= 0 else "none"
            raise RunError(f"{placed.path}, part {part}: expected a shard of {wanted} bytes, found {found}; {LOOK}")

    def publish(self, part: Part) -> None:
        before, number = self.entry(part.unit, part.number), part.number
        records = {}
        for placed, rows in part.data:
            folder, key = self.path / placed.path, shard_key(placed, number)
            blob = encode((folder / "zarr.json").read_bytes(), placed, number, rows)
            record = records[placed.path] = {"bytes": blob.nbytes, "sha256": sha256(blob)}
            if before is None:
                _replace(folder / key, blob)
            elif record != before["arrays"].get(placed.path):
                raise RunError(
                    f"{placed.path}, part {number}: expected a part that is not published, found it published with other numbers;"
                    " run one writer at a time, or drop the old numbers with `python -m cache gc`"
                )
        if before is None:
            make_folders(self._ledger / part.unit)
            entry = json.dumps({**part.entry, "arrays": records}, sort_keys=True, indent=1) + "\n"
            _replace(self._ledger / part.unit / f"{number:05d}.json", entry)

    # ledger

    def entry(self, unit: str, part: int) -> dict[str, Any] | None:
        path = self._ledger / unit / f"{part:05d}.json"
        try:
            return ledger_entry(path.read_bytes(), str(path), self.mend)
        except FileNotFoundError:
            return None

    def published(self, unit: str) -> set[int]:
        return {int(name[:-5]) for name in _names(self._ledger / unit) if re.fullmatch(r"\d{5,}\.json", name)}

    def retract(self, unit: str, parts: Iterable[int]) -> None:
        for part in parts:
            (self._ledger / unit / f"{part:05d}.json").unlink(missing_ok=True)
        if (self._ledger / unit).is_dir():
            fsync_folder(self._ledger / unit)

    # checking

    def fault(self, placed: Placed, part: int, record: Mapping[str, Any]) -> str | None:
        path = self.path / placed.path / shard_key(placed, part)
        if not path.is_file():
            return "shard is missing"
        if path.stat().st_size != record["bytes"]:
            return f"shard has {path.stat().st_size} bytes instead of {record['bytes']}"
        return None if sha256_file(path) == record["sha256"] else "checksum of the shard differs"

    def stored_bytes(self, placed: Placed, part: int, record: Mapping[str, Any]) -> int:
        return int(record["bytes"])

    def metadata_fault(self, placed: Placed) -> str | None:
        held: dict[str, Buffer] = {}
        _create_array(MemoryStore(held), placed)
        try:
            same = json.loads((self.path / placed.path / "zarr.json").read_bytes()) == json.loads(held["zarr.json"].to_bytes())
        except FileNotFoundError:
            return "zarr.json is missing"
        except ValueError:
            same = False
        return None if same else "zarr.json differs from what the unit describes"

    def strays(self, groups: Iterable[Group]) -> Iterator[Stray]:
        known = {"ledger/zarr.json": "", "ledger/history.jsonl": ""}
        for group in groups:
            parts = self.published(group.path)
            known |= {f"{path}/zarr.json".lstrip("/"): "" for path in group.paths()}
            known |= {f"ledger/{group.path}/{part:05d}.json": "" for part in parts}
            for name, described in group.attributes.get("constants", {}).items():
                known[f"{group.path}/constants/{name}/c{'.0' * len(described.get('shape', ()))}"] = ""
            for placed in group.arrays:
                for part in range(placed.grid.parts):
                    known[f"{placed.path}/{shard_key(placed, part)}"] = "" if part in parts else "unpublished remains of a part"
        for path in sorted(self.path.rglob("*")):
            name = str(path.relative_to(self.path))
            if path.is_file() and (what := known.get(name, "foreign file")):
                temporary = path.name.endswith(".tmp") or name.startswith(f"ledger/{_TEMPORARY}")
                yield Stray("remains of an interrupted write" if temporary else what, name, path.stat().st_size)

    def sweep(self, strays: Iterable[Stray]) -> None:
        for stray in strays:
            (self.path / stray.path).unlink(missing_ok=True)
        for folder in self._ledger.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(folder, ignore_errors=True)

    # the record of work

    def history(self) -> list[dict[str, Any]]:
        try:
            lines = (self._ledger / "history.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        records = []
        for line in lines:
            with contextlib.suppress(ValueError):  # a line cut short by a kill: it was only a record of timings
                records.append(json.loads(line))
        return records

    def add_history(self, record: Mapping[str, Any]) -> None:
        # one write call, so that lines of several writers do not mix
        with open(self._ledger / "history.jsonl", "ab+", buffering=0) as stream:
            torn = stream.tell() > 0 and os.pread(stream.fileno(), 1, stream.tell() - 1) != b"\n"  # by a kill
            stream.write(("\n" if torn else "").encode() + json.dumps(dict(record), sort_keys=True).encode() + b"\n")

    def size(self) -> int:
        return bytes_below(self.path)


def _names(folder: Path) -> list[str]:
    """What lies in a folder; nothing if there is none."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _replace(path: Path, content: str | memoryview) -> None:
    """Writes a file in one step; removes what a killed writer of it has left."""
    for remains in remains_of(path):
        remains.unlink(missing_ok=True)
    write_atomic(path, content)  # type: ignore[arg-type]


def _create_array(place: str | MemoryStore, placed: Placed) -> None:
    zarr.create_array(
        place,
        shape=placed.shape,
        dtype=placed.dtype,
        shards=(placed.grid.part, *placed.array.shape),
        chunks=(placed.grid.chunk, *placed.array.shape),
        compressors=ZstdCodec(level=3) if placed.array.compress else None,
        attributes={"doc": placed.array.doc},
        **_PLAIN,
    )


def _build(folder: Path, group: Group) -> None:
    """Writes a new group at `folder`."""
    zarr.create_group(str(folder), attributes=group.attributes)
    for placed in group.arrays:
        _create_array(str(folder / placed.array.name), placed)
    if group.constants:
        zarr.create_group(str(folder / "constants"), attributes={"doc": "arrays of the target as a whole, the same for every pair"})
    for name, value in group.constants.items():
        place = str(folder / "constants" / name)
        zarr.create_array(place, data=value, chunks=value.shape, compressors=None, config={"write_empty_chunks": True}, **_PLAIN)


def _move(folder: Path, path: Path) -> bool:
    """Makes everything in `folder` durable and gives it its name; False if the name is taken."""
    folder.chmod(0o755)
    for place, _, names in os.walk(folder):
        for name in names:
            with open(Path(place) / name, "rb") as stream:
                os.fsync(stream.fileno())
        fsync_folder(Path(place))
    try:
        folder.rename(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    fsync_folder(path.parent)
    return True
