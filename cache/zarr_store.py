"""The directory backend: zarr v3, sharded. Any zarr opens it; `ledger/` beside the arrays publishes the parts.

`ledger` is an empty zarr array, so that other readers pass over the files in its folder. Temporary folders live there too.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from cache.backend import Stray, make_folders, same_or_error, sha256
from cache.layout import DOCS, Group, Stored
from cache.shard import RawReader, encode, shard_key
from configs.errors import RunError
from configs.files import fsync_folder, sha256_file, write_atomic

_TEMPORARY = ".tmp-"
_SEPARATOR = {"name": "default", "separator": "."}  # one file a shard, no folders in between


class ZarrStore:
    """One cache in a directory (see `cache.backend.Backend`)."""

    kind = "zarr"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ledger = path / "ledger"
        self._lock = threading.Lock()
        self._raw: dict[str, RawReader] = {}
        self._zarr: dict[str, Any] = {}
        self._sizes: dict[tuple[str, int], int] = {}  # of compressed shards, from the ledger

    @staticmethod
    def is_cache(path: Path) -> bool:
        """Whether a cache of this kind lies at `path`, whatever its layout version."""
        try:
            return "teachonce_cache" in json.loads((path / "zarr.json").read_bytes()).get("attributes", {})
        except (OSError, ValueError):
            return False

    @staticmethod
    def create(path: Path, groups: Sequence[Group]) -> bool:
        """Creates a cache with these groups (the root first) in one step; False if something is already at `path`."""
        make_folders(path.parent)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        try:
            for group in groups:
                _build(folder / group.path, group)
            zarr.create_array(
                str(folder / "ledger"),
                shape=(0,),
                chunks=(1,),
                dtype="u1",
                compressors=None,
                fill_value=0,
                attributes={"doc": DOCS["ledger"]},
            )
            (folder / "ledger" / "pairs").mkdir()
            return _move(folder, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

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
        try:
            return sorted(entry.name for entry in os.scandir(self.path / group) if (Path(entry.path) / "zarr.json").is_file())
        except FileNotFoundError:
            return []

    def add(self, group: Group) -> bool:
        make_folders(self._ledger / group.path)
        folder = Path(tempfile.mkdtemp(dir=self._ledger, prefix=_TEMPORARY))
        try:
            _build(folder / "group", group)
            return _move(folder / "group", self.path / group.path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def drop(self, group: str) -> None:
        # first out of sight in one step, then removed at leisure
        folder = Path(tempfile.mkdtemp(dir=self._ledger, prefix=_TEMPORARY))
        if (self.path / group).exists():
            (self.path / group).rename(folder / "group")
            fsync_folder((self.path / group).parent)
        shutil.rmtree(self._ledger / group, ignore_errors=True)
        shutil.rmtree(folder)
        with self._lock:
            self._raw.clear()
            self._zarr.clear()
            self._sizes.clear()

    # rows

    def constant(self, path: str) -> np.ndarray:
        return np.asarray(zarr.open_array(str(self.path / path), mode="r")[...])

    def read(self, stored: Stored, part: int, first: int, out: np.ndarray) -> None:
        if not stored.compress:
            reader = self._raw.get(stored.path)
            if reader is None:
                reader = self._raw.setdefault(stored.path, RawReader(self.path / stored.path, stored))
            reader.read(part, first, out)
            return
        array = self._zarr.get(stored.path)
        if array is None:
            array = self._zarr.setdefault(stored.path, zarr.open_array(str(self.path / stored.path), mode="r"))
        self._check_size(stored, part)
        begin = part * stored.part_rows + first
        try:
            out[...] = array[begin : begin + len(out)]
        except (ValueError, RuntimeError) as error:
            raise RunError(
                f"{stored.path}, part {part}: expected a sound shard, found {error}; look at it with `python -m cache verify`"
            ) from error

    def _check_size(self, stored: Stored, part: int) -> None:
        """RunError unless the shard has the bytes of its ledger entry: for a missing or empty one zarr would give fill values."""
        wanted = self._sizes.get((stored.path, part))
        if wanted is None:
            entry = self.entry(stored.path.rsplit("/", 1)[0], part) or {"arrays": {}}
            wanted = self._sizes[stored.path, part] = entry["arrays"].get(stored.path, {}).get("bytes", -1)
        shard = self.path / stored.path / shard_key(stored, part)
        found = shard.stat().st_size if shard.is_file() else -1
        if found != wanted or wanted < 0:
            what = f"found {found}" if found >= 0 else "found none"
            raise RunError(
                f"{stored.path}, part {part}: expected a shard of {wanted} bytes, {what}; look at it with `python -m cache verify`"
            )

    def publish(self, unit: str, part: int, data: Sequence[tuple[Stored, np.ndarray]], entry: Mapping[str, Any]) -> None:
        before = self.entry(unit, part)
        records = {}
        for stored, rows in data:
            folder, key = self.path / stored.path, shard_key(stored, part)
            blob = encode((folder / "zarr.json").read_bytes(), stored, part, rows)
            records[stored.path] = {"bytes": blob.nbytes, "sha256": sha256(blob)}
            if before is not None:
                same_or_error(stored.path, part, records[stored.path], before)
                continue
            _clear(folder, key)
            write_atomic(folder / key, blob)  # type: ignore[arg-type]
        if before is None:
            make_folders(self._ledger / unit)
            _clear(self._ledger / unit, f"{part:05d}.json")
            write_atomic(
                self._ledger / unit / f"{part:05d}.json", json.dumps({**entry, "arrays": records}, sort_keys=True, indent=1) + "\n"
            )

    # ledger

    def entry(self, unit: str, part: int) -> dict[str, Any] | None:
        path = self._ledger / unit / f"{part:05d}.json"
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise RunError(f"{path}: expected a ledger entry (JSON), found something else; run `python -m cache gc {self.path} --damaged`")
        return content

    def published(self, unit: str) -> set[int]:
        try:
            names = [path.name for path in (self._ledger / unit).iterdir()]
        except FileNotFoundError:
            return set()
        return {int(name[:-5]) for name in names if re.fullmatch(r"\d{5,}\.json", name)}

    def retract(self, unit: str, parts: Iterable[int]) -> None:
        for part in parts:
            (self._ledger / unit / f"{part:05d}.json").unlink(missing_ok=True)
        if (self._ledger / unit).is_dir():
            fsync_folder(self._ledger / unit)

    # checking

    def fault(self, stored: Stored, part: int, record: Mapping[str, Any]) -> str | None:
        path = self.path / stored.path / shard_key(stored, part)
        if not path.is_file():
            return "shard is missing"
        if path.stat().st_size != record["bytes"]:
            return f"shard has {path.stat().st_size} bytes instead of {record['bytes']}"
        return None if sha256_file(path) == record["sha256"] else "checksum of the shard differs"

    def stored_bytes(self, stored: Stored, part: int, record: Mapping[str, Any]) -> int:
        return int(record["bytes"])

    def metadata_fault(self, stored: Stored) -> str | None:
        held: dict[str, Buffer] = {}
        _create_array(MemoryStore(held), stored)
        wanted = held["zarr.json"].to_bytes()
        try:
            found = (self.path / stored.path / "zarr.json").read_bytes()
        except FileNotFoundError:
            return "zarr.json is missing"
        try:
            same = found == wanted or json.loads(found) == json.loads(wanted)
        except ValueError:
            same = False
        return None if same else "zarr.json differs from what the unit describes"

    def strays(self, groups: Iterable[Group]) -> Iterator[Stray]:
        known: dict[str, str] = {"zarr.json": "", "ledger/zarr.json": "", "ledger/history.jsonl": ""}
        for group in groups:
            unit = "pairs" if group.path == "crops" else group.path
            parts = self.published(unit)
            known[f"{group.path}/zarr.json".lstrip("/")] = ""
            known |= {f"ledger/{unit}/{part:05d}.json": "" for part in parts}
            for name in group.constants or {}:
                folder = self.path / group.path / "constants" / name
                known |= {str(path.relative_to(self.path)): "" for path in folder.iterdir()} if folder.is_dir() else {}
                known[f"{group.path}/constants/zarr.json"] = ""
            for stored in group.arrays:
                known[f"{stored.path}/zarr.json"] = ""
                for part in range(-(-stored.rows // stored.part_rows)):
                    known[f"{stored.path}/{shard_key(stored, part)}"] = "" if part in parts else "unpublished remains of a part"
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
            try:
                records.append(json.loads(line))
            except ValueError:
                continue  # a line cut short by a kill: it was only a record of timings
        return records

    def add_history(self, record: Mapping[str, Any]) -> None:
        # one write call, so that lines of several writers do not mix
        with open(self._ledger / "history.jsonl", "ab+", buffering=0) as stream:
            torn = stream.tell() > 0 and os.pread(stream.fileno(), 1, stream.tell() - 1) != b"\n"  # by a kill
            stream.write(("\n" if torn else "").encode() + json.dumps(dict(record), sort_keys=True).encode() + b"\n")

    def size(self, group: str = "") -> int:
        return sum(path.stat().st_size for path in (self.path / group).rglob("*") if path.is_file())


def _clear(folder: Path, name: str) -> None:
    """Removes temporary files that a killed writer of `name` has left."""
    for remains in folder.glob(f".{name}.*.tmp"):
        remains.unlink(missing_ok=True)


def _create_array(place: str | MemoryStore, stored: Stored) -> None:
    zarr.create_array(
        place,
        shape=(stored.rows, *stored.shape),
        dtype=stored.dtype,
        shards=(stored.part_rows, *stored.shape),
        chunks=(stored.chunk_rows, *stored.shape),
        compressors=ZstdCodec(level=3) if stored.compress else None,
        filters=None,
        fill_value=0,
        chunk_key_encoding=_SEPARATOR,  # type: ignore[arg-type]
        attributes={"doc": stored.doc},
    )


def _build(folder: Path, group: Group) -> None:
    """Writes a new group at `folder`."""
    zarr.create_group(str(folder), attributes=group.attributes)
    for stored in group.arrays:
        _create_array(str(folder / Path(stored.path).relative_to(group.path)), stored)
    if group.constants:
        zarr.create_group(str(folder / "constants"), attributes={"doc": "arrays of the target as a whole, the same for every pair"})
    for name, value in (group.constants or {}).items():
        array = zarr.create_array(
            str(folder / "constants" / name),
            shape=value.shape,
            dtype=value.dtype,
            chunks=value.shape,
            compressors=None,
            filters=None,
            fill_value=0,
            chunk_key_encoding=_SEPARATOR,  # type: ignore[arg-type]
            config={"write_empty_chunks": True},
        )
        array[...] = value


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
