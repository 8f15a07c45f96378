"""A cache in a bucket of an S3-compatible object store, by obstore. What is read often is kept on the disk, up to a bound.

Credentials, region and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, or
the role of the machine) and go nowhere else. Requests that fail are tried again by obstore. A write is whole or not there.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from cache.address import Address
from cache.backends.place import Content
from configs.errors import RequestError, RunError

BLOCK = 1 << 20
"""Bytes that are kept as one file."""
_WHOLE = 64 << 20  # bytes up to which one request writes an object
_Result = TypeVar("_Result")
_user: int | None = None  # the process in which obstore's threads are


def _named(call: Callable[..., _Result]) -> Callable[..., _Result]:
    """The store's errors as RunError: one line, without what obstore adds for its developers."""

    @functools.wraps(call)
    def named(self: Bucket, *arguments: Any, **options: Any) -> _Result:
        _require_no_fork(self.path)
        try:
            return call(self, *arguments, **options)
        except BaseError as error:
            line = str(error).partition("\n")[0][:300]
            advice = "check the address, the AWS_* variables and the network, and run again"
            raise RunError(f"{self.path}: expected an answer from the object store, found {line}; {advice}") from None

    return named


def _require_no_fork(path: Address) -> None:
    """RunError in a fork of a process that has used obstore: its threads are not here, and a call would wait for ever."""
    global _user
    _user = _user or os.getpid()
    if _user != os.getpid():
        raise RunError(
            f"{path}: expected a process of its own to reach a bucket, found a fork of one that has reached it before;"
            " start workers by spawn, as torch's DataLoader does with multiprocessing_context='spawn'"
        )


class Bucket:
    """All below an address (see `cache.backends.place.Place`)."""

    step = 16 * BLOCK

    def __init__(self, path: Address) -> None:
        self.path = path
        http = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", "")).startswith("http://")
        options: Any = {"allow_http": http, "timeout": "120s", "connect_timeout": "10s"}
        self._store = S3Store(path.bucket, prefix=path.key or None, client_options=options, retry_config={"max_retries": 5})
        self._blocks = ReadCache()
        # bytes and tag of objects that were looked at, so that a replaced one is not read from the disk
        self._known: dict[str, tuple[int, str]] = {}

    @_named
    def get(self, key: str) -> bytes:
        return bytes(obstore.get(self._store, key).bytes())

    @_named
    def read_into(self, key: str, at: int, out: memoryview, fresh: bool = False) -> int:
        if key not in self._known and self.size(key) is None:
            raise FileNotFoundError(key)
        size, tag = self._known[key]
        first, last = at // BLOCK, -(-min(at + len(out), size) // BLOCK)
        names = [f"{self.path}/{key} {tag} {block}" for block in range(first, last)]
        wanted = [min(BLOCK, size - block * BLOCK) for block in range(first, last)]
        held = [None if fresh else self._blocks.get(name, length) for name, length in zip(names, wanted, strict=True)]
        for begin, end in _gaps(held):
            data = memoryview(obstore.get_range(self._store, key, start=(first + begin) * BLOCK, length=(end - begin) * BLOCK))
            for number in range(begin, end):
                held[number] = bytes(data[(number - begin) * BLOCK : (number - begin + 1) * BLOCK])
                self._blocks.put(names[number], held[number] or b"")
        whole = memoryview(b"".join(block or b"" for block in held))[at - first * BLOCK :][: len(out)]
        out[: len(whole)] = whole
        return len(whole)

    @_named
    def size(self, key: str) -> int | None:
        try:
            found = obstore.head(self._store, key)
        except FileNotFoundError:
            return None
        self._known[key] = int(found["size"]), str(found["e_tag"])
        return int(found["size"])

    @_named
    def put(self, key: str, content: Content) -> None:
        obstore.put(self._store, key, content, use_multipart=memoryview(content).nbytes > _WHOLE)
        self._known.pop(key, None)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="teachonce-") as folder:
            yield Path(folder)

    @_named
    def put_file(self, key: str, file: Path) -> None:
        obstore.put(self._store, key, file, use_multipart=file.stat().st_size > _WHOLE)
        self._known.pop(key, None)

    @_named
    def create(self, key: str, content: Content) -> bool:
        try:
            obstore.put(self._store, key, content, mode="create")
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    @_named
    def delete(self, keys: Iterable[str]) -> None:
        if found := list(keys):
            obstore.delete(self._store, found)

    @_named
    def names(self, folder: str) -> list[str]:
        found = obstore.list_with_delimiter(self._store, folder or None)
        return [path.rpartition("/")[2] for path in (*found["common_prefixes"], *(item["path"] for item in found["objects"]))]

    @_named
    def walk(self, folder: str = "") -> Iterator[tuple[str, int]]:
        pages = obstore.list(self._store, folder or None)
        return iter(sorted((item["path"], int(item["size"])) for page in pages for item in page))

    def create_tree(self, folder: str, files: Mapping[str, Content]) -> bool:
        keys = {f"{folder}/{key}" if folder else key: content for key, content in files.items()}
        last = f"{folder}/zarr.json" if folder else "zarr.json"
        if self.size(last) is not None:
            return False
        for key in keys.keys() - {last}:
            self.put(key, keys[key])
        return self.create(last, keys[last])

    def drop_tree(self, folder: str) -> None:
        self.delete([f"{folder}/zarr.json"])
        self.delete([key for key, _ in self.walk(folder)])

    def sweep(self, writers: Iterable[str] = ()) -> None:
        """Nothing is left by a killed writer: an upload is whole or not there."""


def _gaps(held: list[bytes | None]) -> Iterator[tuple[int, int]]:
    """Runs [begin, end) of what is missing."""
    begin = None
    for number, block in enumerate([*held, b""]):
        if block is None and begin is None:
            begin = number
        elif block is not None and begin is not None:
            yield begin, number
            begin = None


class ReadCache:
    """Blocks of objects as files of one folder, those that were used longest ago removed beyond a bound. Shared by processes.

    TEACHONCE_READ_CACHE: the folder (default: read/ below the user's cache folder); TEACHONCE_READ_CACHE_GB: the bound (default: 32).
    """

    def __init__(self) -> None:
        default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "teachonce" / "read"
        self.folder = Path(os.environ.get("TEACHONCE_READ_CACHE") or default)
        text = os.environ.get("TEACHONCE_READ_CACHE_GB", "32")
        try:
            self.most = int(float(text) * 1e9)
        except (ValueError, OverflowError):
            raise RequestError(f"TEACHONCE_READ_CACHE_GB: expected a number of gigabytes, found {text:.60}; correct it") from None
        self._added = self.most  # since the folder was last measured

    def get(self, name: str, length: int) -> bytes | None:
        """A block of so many bytes; None if it is not kept."""
        path = self._path(name)
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return content if len(content) == length else None

    def put(self, name: str, content: bytes) -> None:
        """Keeps a block, unless the disk is full."""
        try:
            path = self._path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
            temporary.write_bytes(content)  # not made durable: it can be had again
            temporary.replace(path)
            self._added += len(content)
            if self._added > self.most // 16:
                self._shrink()
        except OSError:
            return

    def _path(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()[:40]
        return self.folder / digest[:2] / digest

    def _shrink(self) -> None:
        found = []
        for path in self.folder.glob("??/*"):
            try:
                found.append((path.stat().st_mtime, path.stat().st_size, path))
            except FileNotFoundError:  # another process' removal
                continue
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.most - self.most // 16:
                break
            path.unlink(missing_ok=True)
            total -= size
        self._added = 0
