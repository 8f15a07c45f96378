"""Damage anywhere in a cache and in a checkpoint: found, never read as numbers, and mended.

Most of it is a byte that differs or a file that is cut short; else a file is longer, or something else lies in its place.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from bench.torture.caches import COUNT, create, lacking, tree, write
from cache import Cache
from cache.gc import drop_damaged
from cache.verify import verify_path
from configs.errors import TeachOnceError

Counts = dict[str, int]
NO_FILE: dict[str, Callable[[Path], object]] = {
    "folder": lambda path: (path / "in it").mkdir(parents=True),
    "pipe": os.mkfifo,
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "device": lambda path: path.symlink_to("/dev/zero"),
}
"""What may lie in the place of a file."""


def damage_cache(folder: Path, tries: int, seed: int) -> Counts:
    """Damages a cache `tries` times, one byte or one length at a time, and mends it.

    missed: no fault found by verify; read: read as numbers although they differ; foreign: exceptions that are not the project's own;
    unmended: other bytes after gc --damaged and writing again.
    """
    rng, counts = random.Random(seed), dict.fromkeys(("missed", "read", "foreign", "unmended"), 0)
    path = folder / "damaged"
    for part in range(create(path).parts):
        write(create(path), part)
    create(path).add_history({"seconds": 1})
    whole, rows = tree(path), _rows(Cache.open(path))
    numbers = {key: text for key, text in whole.items() if "/history/" not in key}
    for _ in range(tries):
        name = rng.choice(sorted(whole))
        spoil(path / name, rng)
        try:
            counts["missed"] += not verify_path(path)
            counts["read"] += _reads_other(path, rows)
            _mend(path)
            counts["unmended"] += {key: text for key, text in tree(path).items() if "/history/" not in key} != numbers
        except Exception as error:
            counts["foreign"] += 1
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        _put_back(path, whole)
    return {"tried": tries, **counts}


def _put_back(path: Path, whole: dict[str, bytes]) -> None:
    for key in tree(path).keys() - whole.keys():
        (path / key).unlink()
    for key, content in whole.items():
        file = path / key
        if file.is_symlink() or not file.is_file() or file.read_bytes() != content:
            shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


def spoil(path: Path, rng: random.Random, what: str = "") -> None:
    """Damages a file; what: of NO_FILE, or else by chance."""
    if not what and rng.random() < 0.9:
        path.write_bytes(damaged(path.read_bytes(), rng))
        return
    path.unlink()
    NO_FILE[what or rng.choice(sorted(NO_FILE))](path)


def damaged(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    if (chance := rng.random()) < 0.3:
        return content[:at] if chance < 0.25 else content + content[at:]
    return content[:at] + bytes([content[at] ^ rng.randrange(1, 256)]) + content[at + 1 :]


def _rows(cache: Cache) -> dict[str, bytes]:
    return {f"{path}/{name}": rows.tobytes() for path, unit in cache.units().items() for name, rows in unit.read(0, COUNT).items()} | {
        "crops": b"".join(bytes(image) for images in cache.read_crops(0, COUNT) for image in images)
    }


def _reads_other(path: Path, rows: dict[str, bytes]) -> bool:
    """Whether a checked reader gets other numbers; an error is no number."""
    try:
        return any(rows[name] != found for name, found in _rows(Cache.open(path).check_before_use()).items())
    except TeachOnceError:
        return False


def _mend(path: Path) -> None:
    try:
        for action in drop_damaged(Cache.open(path)):
            action.apply()
    except TeachOnceError:
        pass  # too damaged to be opened: creating it again mends that
    cache = create(path)
    for action in drop_damaged(cache):
        action.apply()
    for part in lacking(cache := create(path)):
        write(cache, part)
