"""Where the files of a zarr cache lie: the few operations that the store needs, and a folder of a disk that has them.

Keys are paths within the cache, with slashes. Whatever is written is there whole or not at all, and durable once the call returns.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from cache.owner import is_dead, owner
from configs.files import durable_writer, fsync_folder, read_regular

Content = bytes | memoryview

SCRATCH = ".tmp-"
"""Begins the names of folders below ledger/ that hold what is being written, one a process."""
ABANDONED_S = 3600.0
"""Seconds after which the scratch of a process of another machine counts as left behind."""


class Place(Protocol):
    """Files below one root. FileNotFoundError for a key that is not there, unless said otherwise."""

    path: Any
    """of the root: a Path, or an Address in a bucket; for messages and for opening it again"""

    step: int
    """bytes that are best read at once, where a whole file is read"""

    def get(self, key: str) -> bytes:
        """The whole content."""

    def read_into(self, key: str, at: int, out: memoryview, fresh: bool = False) -> int:
        """Fills `out` with the bytes from `at` on; how many there were. `fresh`: from where they lie, and from no copy that is nearer."""

    def size(self, key: str) -> int | None:
        """Bytes, 0 for what cannot be read; None if there is none."""

    def put(self, key: str, content: Content) -> None:
        """Writes, or replaces what is there."""

    def scratch(self) -> contextlib.AbstractContextManager[Path]:
        """A local folder for what is being written, gone in the end."""

    def put_file(self, key: str, file: Path) -> None:
        """As `put` the content of a durable file of the scratch, which goes there."""

    def create(self, key: str, content: Content) -> bool:
        """Writes unless something is there (False): of several that try at once, one does."""

    def delete(self, keys: Iterable[str]) -> None:
        """Removes; a key that is not there is no error."""

    def names(self, folder: str) -> list[str]:
        """Files and folders in a folder, in any order; none if there is no folder."""

    def walk(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """(key, bytes) of every file below a folder, sorted."""

    def create_tree(self, folder: str, files: Mapping[str, Content]) -> bool:
        """Makes a folder with these files, `zarr.json` in it among them; False if there is one. Nobody sees it without all of them."""

    def drop_tree(self, folder: str) -> None:
        """Removes a folder with all below it, `zarr.json` first: nobody sees it with a part of them."""

    def sweep(self, writers: Iterable[str] = ()) -> None:
        """Removes what dead writers were writing, and these (see `owner`): their time is over."""


class Disk:
    """A folder. A file is written in the scratch folder of this process, made durable and moved into its place."""

    step = 1 << 18

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, key: str) -> bytes:
        return read_regular(self.path / key)

    def read_into(self, key: str, at: int, out: memoryview, fresh: bool = False) -> int:
        handle, done = os.open(self.path / key, os.O_RDONLY), 0
        try:
            while done < len(out) and (got := os.preadv(handle, [out[done:]], at + done)):
                done += got
        finally:
            os.close(handle)
        return done

    def size(self, key: str) -> int | None:
        try:
            return (self.path / key).stat().st_size
        except OSError:  # a link to itself or to nothing is there
            return 0 if os.path.lexists(self.path / key) else None

    def put(self, key: str, content: Content) -> None:
        def move(temporary: Path) -> bool:
            _clear(self.path / key)
            temporary.replace(self.path / key)
            return True

        self._written(key, content, move)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        folder = self._scratch()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def put_file(self, key: str, file: Path) -> None:
        make_folders((self.path / key).parent)
        _clear(self.path / key)
        file.replace(self.path / key)
        fsync_folder((self.path / key).parent)

    def create(self, key: str, content: Content) -> bool:
        path = self.path / key

        def move(temporary: Path) -> bool:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError:  # no links here: the name is taken first, empty for a moment
                try:
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
                except FileExistsError:
                    return False
                temporary.replace(path)
            return True

        return not path.exists() and self._written(key, content, move)

    def delete(self, keys: Iterable[str]) -> None:
        folders = set()
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                _clear(self.path / key)
                (self.path / key).unlink()
                folders.add((self.path / key).parent)
        for folder in folders:
            fsync_folder(folder)

    def names(self, folder: str) -> list[str]:
        try:
            return os.listdir(self.path / folder)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def walk(self, folder: str = "") -> Iterator[tuple[str, int]]:
        for path in sorted((self.path / folder).rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # a writer's, gone meanwhile
                if path.is_file() or path.is_symlink():
                    yield path.relative_to(self.path).as_posix(), path.stat(follow_symlinks=False).st_size

    def create_tree(self, folder: str, files: Mapping[str, Content]) -> bool:
        path = self.path / folder
        if (path / "zarr.json").exists():
            return False
        # the root has no scratch folder before it is there
        built = self._scratch() / "tree" if folder else path.with_name(f".{path.name}.{owner()}.{secrets.token_hex(4)}.tmp")
        make_folders(path.parent)
        try:
            for key, content in files.items():
                make_folders((built / key).parent)
                _write(built / key, content)
            fsync_tree(built)
            return _move(built, path)
        finally:
            shutil.rmtree(built.parent if folder else built, ignore_errors=True)

    def drop_tree(self, folder: str) -> None:
        # first out of sight in one step, then removed at leisure
        scratch = self._scratch()
        with contextlib.suppress(FileNotFoundError):
            (self.path / folder).rename(scratch / "dropped")
            fsync_folder((self.path / folder).parent)
        shutil.rmtree(scratch, ignore_errors=True)

    def sweep(self, writers: Iterable[str] = ()) -> None:
        # the names of folders beside the cache: of those who were creating it
        beside = ((folder, folder.name[len(self.path.name) + 2 :]) for folder in self.path.parent.glob(f".{self.path.name}.*.tmp"))
        inside = ((self.path / "ledger" / name, name[len(SCRATCH) :]) for name in self.names("ledger") if name.startswith(SCRATCH))
        over = set(writers)
        for folder, name in (*beside, *inside):
            writer = name.partition(".")[0]
            if writer in over or is_dead(writer) or (writer != owner() and self._untouched(folder)):
                shutil.rmtree(folder, ignore_errors=True)

    def _untouched(self, folder: Path) -> bool:
        """Whether nothing in a folder has changed for a long time, by the clock of the file system."""
        try:
            last = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
            with self.scratch() as now:
                return now.stat().st_mtime - last > ABANDONED_S
        except FileNotFoundError:
            return False

    def _scratch(self) -> Path:
        """A new folder of this process."""
        folder = self.path / "ledger" / f"{SCRATCH}{owner()}.{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        return folder

    def _written(self, key: str, content: Content, move: Callable[[Path], bool]) -> bool:
        """Lets `move` give a durable file of that content its name; once more where the file was swept because our time seemed over."""
        for left in (2, 1, 0):
            make_folders((self.path / key).parent)
            scratch = self._scratch()
            try:
                _write(scratch / "file", content)
                moved = move(scratch / "file")
                fsync_folder((self.path / key).parent)
                return moved
            except FileNotFoundError:
                if not left:
                    raise
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        raise AssertionError


def _clear(path: Path) -> None:
    """Removes a folder that lies where a file belongs."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)


def _write(path: Path, content: Content) -> None:
    with durable_writer(path) as stream:
        stream.write(content)


def fsync_tree(folder: Path) -> None:
    """Makes the names of all files below a folder durable."""
    for place, _, _ in os.walk(folder):
        fsync_folder(Path(place))


def _move(folder: Path, path: Path) -> bool:
    """Gives a folder its name; False if the name is taken."""
    try:
        folder.rename(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    fsync_folder(path.parent)
    return True


def make_folders(folder: Path) -> None:
    """mkdir -p whose every step is durable."""
    if not folder.is_dir():
        make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)
