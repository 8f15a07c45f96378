"""The backend that is written: a zarr v3 tree, sharded, on a disk or in a bucket. `ledger/` beside the arrays publishes the parts.

`ledger` is an empty zarr array, so that other readers pass over the files in its folder: entries, history, claims (cache/claims.py)
and what is being written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cache.backends.base import MADE, OtherNumbers, Part, Stray, TakenOver, json_of, ledger_entry
from cache.backends.description import (
    CONSTANTS,
    OLD_LEDGER,
    array_text,
    chunk_of,
    constant_text,
    files_of,
    group_text,
    key_of,
    ledger_array,
)
from cache.backends.place import SCRATCH, Place
from cache.backends.shard import ShardReader, ShardWriter, shard_key
from cache.layout import Group, Placed, history_record, history_text, sealed, unsealed
from cache.owner import CLAIMS, Held
from configs.errors import RunError


class ZarrTree:
    """One cache as a zarr tree (see `cache.backends.base.Writer`)."""

    kind = "zarr"
    checks = False
    finish = "write it with `make cache` (finished parts are kept)"

    def __init__(self, place: Place) -> None:
        self.place, self.path, self.remote = place, place.path, not isinstance(place.path, Path)
        self.mend = f"run `python -m cache verify {place.path} --repair`"
        self._readers: dict[str, ShardReader] = {}

    @staticmethod
    def create(place: Place, groups: Sequence[Group]) -> bool:
        """Creates a cache with these groups (the root first) in one step; False if something is already there."""
        files = {key: content for group in groups for key, content in files_of(group).items()}
        return place.create_tree("", files | {"ledger/zarr.json": ledger_array()})

    # groups

    def described(self, group: str) -> dict[str, Any]:
        if (content := self._found(key_of(group, "zarr.json"))) is None:
            raise KeyError(group)
        attributes = json_of(content).get("attributes")
        if not isinstance(attributes, dict):
            where = f"{self.path}/{key_of(group, 'zarr.json')}"
            raise RunError(f"{where}: expected the JSON of a zarr group, found something else; restore it from a copy")
        return attributes

    def attributes(self, group: str) -> dict[str, Any]:
        attributes = self.described(group)
        if unsealed(attributes):
            raise RunError(f"{self.path}: {group or '/'}: attributes differ from their seal; look at it with `python -m cache verify`")
        return attributes

    def children(self, group: str) -> list[str]:
        return sorted(name for name in self.place.names(group) if self.place.size(f"{group}/{name}/zarr.json") is not None)

    def add(self, group: Group) -> bool:
        files = {key.removeprefix(f"{group.path}/"): content for key, content in files_of(group).items()}
        return self.place.create_tree(group.path, files)

    def restore(self, group: Group) -> list[str]:
        with contextlib.suppress(KeyError, RunError):
            group = replace(group, attributes=self.attributes(group.path))
        wanted = files_of(group)
        if not group.path and self._ledger_fault():
            wanted["ledger/zarr.json"] = ledger_array()
        lost = [key for key, found in zip(wanted, self._all_found(list(wanted)), strict=True) if found != wanted[key]]
        for key in lost:
            self.place.put(key, wanted[key])
        return lost

    def _all_found(self, keys: Sequence[str]) -> list[bytes | None]:
        if not self.remote:
            return [self._found(key) for key in keys]
        with ThreadPoolExecutor(16) as pool:  # each takes a request
            return list(pool.map(self._found, keys))

    def _found(self, key: str) -> bytes | None:
        try:
            return self.place.get(key)
        except OSError:  # a folder, a pipe, a bad sector: what cannot be read is not there
            return None

    def group_bytes(self, group: str) -> int:
        return sum(size for _, size in self.place.walk(group))

    def drop(self, group: str) -> None:
        self.place.drop_tree(group)
        self.place.drop_tree(f"ledger/{group}")
        self._readers.clear()

    # rows

    def constant(self, path: str) -> np.ndarray:
        try:
            # a constant is one plain chunk
            metadata = json_of(self.place.get(f"{path}/zarr.json"))
            shape, dtype = tuple(map(int, metadata["shape"])), np.dtype(metadata["data_type"]).newbyteorder("<")
            return np.frombuffer(self.place.get(f"{path}/{chunk_of(shape)}"), dtype).reshape(shape).copy()
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise RunError(
                f"{self.path}/{path}: expected a small array, found {error}; drop its target with `python -m cache gc`"
            ) from None

    def read(self, placed: Placed, part: int, first: int, out: np.ndarray, record: Mapping[str, Any]) -> None:
        if (reader := self._readers.get(placed.path)) is None:
            reader = self._readers.setdefault(placed.path, ShardReader(self.place, placed))
        reader.read(part, first, out, record)

    def publish(self, part: Part) -> None:
        for again in (True, False):
            try:
                with self.begin(part) as writer:
                    for placed, rows in part.data:
                        writer.append(placed.path, rows)
                    writer.publish()
                return
            except (FileNotFoundError, TakenOver):
                if not again:
                    raise

    @contextlib.contextmanager
    def begin(self, part: Part) -> Iterator[TreePart]:
        with self.place.scratch() as folder, contextlib.ExitStack() as files:
            yield TreePart(self, part, folder, files)

    def shard_fault(self, key: str, record: Mapping[str, Any], fresh: bool = True) -> str | None:
        """What is wrong with a shard, measured against its record in the ledger; None if nothing."""
        size = self.place.size(key)
        if size is None:
            return "shard is missing"
        if size != record["bytes"]:
            return f"shard has {size} bytes instead of {record['bytes']}"
        digest, block = hashlib.sha256(), memoryview(bytearray(min(self.place.step, max(1, size))))
        try:
            for at in range(0, size, self.place.step):
                digest.update(block[: self.place.read_into(key, at, block, fresh)])
        except OSError as error:
            return f"shard cannot be read ({error.strerror})"
        return None if digest.hexdigest() == record["sha256"] else "checksum of the shard differs"

    # ledger

    def entry(self, unit: str, part: int) -> dict[str, Any] | None:
        key = _entry_key(unit, part)
        if (text := self._found(key)) is None:
            if self.remote or self.place.size(key) is None:
                return None
            found = "a folder" if Path(str(self.path), key).is_dir() else "what cannot be read"
            raise RunError(f"{self.path}/{key}: expected a ledger entry (JSON), found {found}; remove it and run `make cache`")
        return ledger_entry(text, entry_text, f"{self.path}/{key}", self.mend)

    def published(self, unit: str) -> set[int]:
        return {int(name[:-5]) for name in self.place.names(f"ledger/{unit}") if re.fullmatch(r"[0-9]{5,18}\.json", name)}

    def retract(self, unit: str, parts: Iterable[int]) -> None:
        self.place.delete(_entry_key(unit, part) for part in parts)

    # checking

    def fault(self, placed: Placed, part: int, record: Mapping[str, Any], fresh: bool = True) -> str | None:
        wrong = self.shard_fault(shard_key(placed, part), record, fresh)
        # a copy nearby may be damaged where the shard is not, and is then written again
        return self.shard_fault(shard_key(placed, part), record) if wrong and not fresh else wrong

    def stored_bytes(self, placed: Placed, part: int, record: Mapping[str, Any]) -> int:
        return int(record["bytes"])

    def metadata_fault(self, placed: Placed) -> str | None:
        return self._json_fault(f"{placed.path}/zarr.json", json.loads(array_text(placed)))

    def group_faults(self, group: str, attributes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if wrong := self._json_fault(key_of(group, "zarr.json"), json.loads(group_text(attributes))):
            yield group or "/", wrong
        if not group and (wrong := self._ledger_fault()):
            yield "ledger", wrong
        constants = attributes.get("constants", {})
        wanted = {f"{group}/constants": group_text(CONSTANTS)} if constants else {}
        wanted |= {f"{group}/constants/{name}": constant_text(told["shape"], told["dtype"]) for name, told in constants.items()}
        for path, text in wanted.items():
            if wrong := self._json_fault(f"{path}/zarr.json", json.loads(text)):
                yield path, wrong

    def _ledger_fault(self) -> str | None:
        known = [json.loads(ledger_array()), json.loads(ledger_array(OLD_LEDGER))]
        faults = [self._json_fault("ledger/zarr.json", wanted) for wanted in known]
        return None if None in faults else faults[0]

    def _json_fault(self, key: str, wanted: Any) -> str | None:
        if (text := self._found(key)) is None:
            return "zarr.json is missing"
        # written as zarr writes JSON: not a byte may differ
        same = json_of(text) == wanted and json.dumps(json_of(text), indent=2).encode() == text
        return None if same else "zarr.json differs from what the unit describes"

    def file_fault(self) -> str | None:
        return None  # every file is described

    def strays(self, groups: Iterable[Group]) -> Iterator[Stray]:
        known = {"ledger/zarr.json", "ledger/history.jsonl"}
        arrays: dict[str, Placed] = {}
        for group in groups:
            parts = self.published(group.path)
            known |= {f"{path}/zarr.json".lstrip("/") for path in group.paths()}
            known |= {_entry_key(group.path, part) for part in parts}
            for name, described in group.attributes.get("constants", {}).items():
                known.add(f"{group.path}/constants/{name}/{chunk_of(described.get('shape', ()))}")
            arrays |= {placed.path: placed for placed in group.arrays}
            known |= {shard_key(placed, part) for placed in group.arrays for part in parts}
        for key, size in self.place.walk():
            if key in known or _HISTORY.fullmatch(key) or (key.startswith(f"{CLAIMS}/") and self._holds(key)):
                continue
            temporary = key.endswith(".tmp") or key.startswith((f"ledger/{SCRATCH}", f"{CLAIMS}/"))
            what = "unpublished remains of a part" if _is_shard(key, arrays) else "foreign file"
            yield Stray("remains of an interrupted write" if temporary else what, key, size)

    def _holds(self, claim: str) -> bool:
        """Whether somebody is at work there; nothing is wrong with that."""
        held = Held.parsed(self._found(claim) or b"")
        return held is not None and not held.looks_over

    def sweep(self, strays: Iterable[Stray]) -> None:
        found = list(strays)
        self.place.sweep({stray.path.split("/")[1][len(SCRATCH) :].partition(".")[0] for stray in found if f"/{SCRATCH}" in stray.path})
        self.place.delete(stray.path for stray in found)

    # the record of work

    def history(self) -> list[dict[str, Any]]:
        return [record for _, record in self.history_files() if record is not None]

    def history_files(self) -> Iterator[tuple[str, dict[str, Any] | None]]:
        if self.place.size(_OLD_HISTORY) is not None:  # of caches from before each record had a file and a checksum
            for number, line in enumerate(self.place.get(_OLD_HISTORY).split(b"\n")[:-1]):
                yield f"{_OLD_HISTORY}:{number + 1}", json_of(line) or None
        for key in sorted(f"ledger/history/{name}" for name in self.place.names("ledger/history")):
            if _HISTORY.fullmatch(key):
                yield key, history_record(self._found(key) or b"")

    def drop_records(self, where: Iterable[str]) -> None:
        # a line of the old form is part of a file that is never changed
        self.place.delete(key for key in where if _HISTORY.fullmatch(key))

    def add_history(self, record: Mapping[str, Any]) -> None:
        number = len(self.place.names("ledger/history"))
        while not self.place.create(f"ledger/history/{number:08d}.json", history_text(record)):
            number += 1

    def size(self) -> int:
        return sum(size for _, size in self.place.walk())


def _is_shard(key: str, arrays: Mapping[str, Placed]) -> bool:
    """Whether a part of one of these arrays would lie there."""
    path, _, chunk = key.rpartition("/")
    placed, number = arrays.get(path), re.fullmatch(r"c\.([0-9]{1,18})(\.0)*", chunk)
    if placed is None or number is None or int(number[1]) >= placed.grid.parts:
        return False
    return key == shard_key(placed, int(number[1]))


class TreePart:
    """One part that is being written: a local file for every shard, see `cache.backends.base.PartWriter`."""

    def __init__(self, tree: ZarrTree, part: Part, folder: Path, files: contextlib.ExitStack) -> None:
        """part: without rows; files: closes what is opened."""
        self._tree, self._part = tree, part
        self._paths = {placed.path: folder / f"{number}.shard" for number, (placed, _) in enumerate(part.data)}
        self._files = {path: files.enter_context(open(file, "xb")) for path, file in self._paths.items()}  # noqa: SIM115 - kept open
        self._shards = {placed.path: ShardWriter(placed, self._files[placed.path]) for placed, _ in part.data}

    def append(self, path: str, rows: np.ndarray) -> None:
        self._shards[path].append(rows)

    def publish(self) -> None:
        tree, (unit, number, _, facts) = self._tree, self._part
        records = {path: shard.finish() for path, shard in self._shards.items()}
        key, entry = _entry_key(unit, number), {**facts, "arrays": records}
        self._require_same(entry)
        for path, shard in self._shards.items():
            self._files[path].flush()
            os.fsync(self._files[path].fileno())
            self._files[path].close()
            # where another has written the very same, it is left alone
            if tree.shard_fault(shard_key(shard.placed, number), records[path]):
                self._move(path, shard_key(shard.placed, number))
        if not tree.place.create(key, entry_text(sealed(entry))):
            try:
                self._require_same(entry)
            except OtherNumbers:
                tree.retract(unit, [number])  # published meanwhile, of shards that are now ours
                raise

    def _move(self, path: str, key: str) -> None:
        """TakenOver: the file has been swept, because our time seemed over."""
        try:
            self._tree.place.put_file(key, self._paths[path])
        except FileNotFoundError:
            raise TakenOver(
                f"{path}, part {self._part.number}: expected the file that was being written, found it removed: another worker has taken"
                " this part over; run the same command again"
            ) from None

    def _require_same(self, entry: Mapping[str, Any]) -> None:
        """OtherNumbers where the part is published and its entry is not this one, whatever it was made with."""
        tree, (unit, number, _, _), records = self._tree, self._part, entry["arrays"]
        try:
            published = tree.entry(unit, number)
        except RunError:
            published = {"arrays": {}}
        if published is None or {**published, MADE: None} == {**entry, MADE: None}:
            return
        other = next((path for path in records if published["arrays"].get(path) != records[path]), unit)
        stored = not any(tree.shard_fault(shard_key(shard.placed, number), records[path]) for path, shard in self._shards.items())
        raise OtherNumbers(
            f"{other}, part {number}: expected a part that is not published, found it published with other numbers: two writers"
            " differ (other frames, device or versions); look with `python -m cache verify`, or drop them with `python -m cache gc`",
            stored,
        )


_OLD_HISTORY = "ledger/history.jsonl"
_HISTORY = re.compile(r"ledger/history/[0-9]{8}\.json")


def entry_text(entry: Mapping[str, Any]) -> bytes:
    """A ledger entry as it is stored."""
    return (json.dumps(entry, sort_keys=True, indent=1) + "\n").encode()


def _entry_key(unit: str, part: int) -> str:
    return f"ledger/{unit}/{part:05d}.json"
