"""Who may read a cache is what the umask says; listing an empty one of any size is instant."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cache.inspect import row_of


@pytest.mark.parametrize("umask", [0o002, 0o077])
def test_every_file_follows_the_umask(kit, tmp_path, umask):
    before = os.umask(umask)
    try:
        cache = kit.build(tmp_path / "cache")
        kit.put(cache, tmp_path / "copy.h5")
    finally:
        os.umask(before)
    modes = {oct(path.stat().st_mode & 0o777) for path in [tmp_path / "copy.h5", *(tmp_path / "copy.h5").rglob("*")] if path.is_file()}
    assert modes == {oct(0o666 & ~umask)}


@pytest.mark.parametrize("umask", [0o002, 0o077])
def test_every_folder_and_file_of_a_directory_follows_the_umask(kit, tmp_path, umask):
    before = os.umask(umask)
    try:
        kit.build(tmp_path / "cache")
    finally:
        os.umask(before)
    wrong = [path for path in _all(tmp_path / "cache") if path.stat().st_mode & 0o777 != (0o777 if path.is_dir() else 0o666) & ~umask]
    assert not wrong


def _all(folder: Path) -> list[Path]:
    return [folder, *folder.rglob("*")]


def test_a_cache_of_a_billion_pairs_without_a_part_is_listed_at_once(kit, tmp_path):
    cache = kit.create(tmp_path / "cache", count=10**9)
    began = time.process_time()
    assert row_of(cache.path, "cache")[:3] == ["cache", "1,000,000,000", f"0/{cache.parts}"]
    # a list of the parts alone takes 40 times as long
    assert cache.parts > 10**6 and time.process_time() - began < 0.5
