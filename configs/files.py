"""Writing files so that a reader sees the old content or the new, and never half of it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from configs.errors import RequestError
from configs.yaml_text import parse_yaml


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[IO[bytes]]:
    """Opens a temporary file beside `path`; on a clean exit: flush, fsync, rename over `path`, fsync of the folder.

    On an exception the temporary file is removed and `path` is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    try:
        with durable_writer(temporary) as stream:
            yield stream
        temporary.replace(path)
        fsync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def durable_writer(path: Path) -> Iterator[IO[bytes]]:
    """Opens a new file (FileExistsError); on a clean exit it is durable, its name aside. The umask says who may read it."""
    try:
        with open(path, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        # a write that fails for want of room names no file
        if error.filename is None:
            error.filename = str(path.parent)
        raise


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replaces `path` by `content` in one step (see `atomic_writer`)."""
    with atomic_writer(path) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def sweep(folder: Path) -> None:
    """Removes what killed writers have left of the files in a folder; nobody else may be writing there."""
    for remains in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.[0-9a-f]{16}\.tmp", remains.name):
            remains.unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    """Makes a rename inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, as hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """SHA-256 (hex) of the value's one text as JSON: sorted keys, no spaces, no NaN."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def is_file(path: Path | str) -> bool:
    """Whether a file lies at a path; False where no file can have such a name."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def require_regular(path: Path) -> os.stat_result:
    """The status of a regular file. OSError for anything else: a pipe or a device could block for ever, or never end."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a folder", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "a pipe or a device", str(path))
    return status


def read_regular(path: Path, most: int = 2**40) -> bytes:
    """The content of a regular file (see `require_regular`) of at most `most` bytes. OSError; ValueError for a path with a NUL."""
    if (size := require_regular(path).st_size) > most:
        raise OSError(errno.EFBIG, f"{size:,} bytes, of at most {most:,}", str(path))
    return path.read_bytes()


def read_yaml(path: Path, example: str = "configs/settings/atom_cfkd.yaml") -> dict[str, Any]:
    """A file that holds a mapping. RequestError: no file, no YAML, or no mapping (told to look at the example)."""
    try:
        tree = parse_yaml(read_regular(path))
    except FileNotFoundError as error:
        raise RequestError(f"expected a YAML file, found none at {path}; check the name") from error
    except OSError as error:
        raise RequestError(f"expected a YAML file, found {error.strerror} at {path}; name another") from error
    except ValueError as error:
        raise RequestError(f"{path}: expected YAML, found {error}; mend the file") from error
    if not isinstance(tree, dict):
        raise RequestError(f"{path}: expected a mapping of keys, found {type(tree).__name__}; see {example}")
    return tree
