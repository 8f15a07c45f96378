"""What this machine lends to a process."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from configs.errors import RequestError

CONTROL_GROUP = Path("/sys/fs/cgroup")
SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
"""Of processor n: the processors of its core."""


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """Cores behind those processors (two of them may share one), at most what the container's quota grants; at least 1."""
    siblings = set()
    for number in os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ():
        file = Path(SIBLINGS.format(number))
        siblings.add(file.read_text() if file.is_file() else str(number))
    return max(1, min(len(siblings) or processors(), _quota()))


def _quota() -> int:
    """Processors that the control group of this process may use at once."""
    old = CONTROL_GROUP / "cpu"
    for file, period in ((CONTROL_GROUP / "cpu.max", None), (old / "cpu.cfs_quota_us", old / "cpu.cfs_period_us")):
        if file.is_file():
            words = file.read_text().split() + (period.read_text().split() if period is not None else [])
            return -(-int(words[0]) // int(words[1])) if words[0].isdecimal() else processors()
    return processors()


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def unwritable(folder: Path) -> str | None:
    """What keeps a folder from being made or written; None: nothing that can be known before."""
    try:
        there = existing(folder)
    except (OSError, ValueError) as error:
        return str(error)
    if not there.is_dir():
        return "a file"
    return None if os.access(there, os.W_OK | os.X_OK) else "one without the right to write"


def require_place(folder: Path, what: str) -> None:
    """RequestError where nothing could be written in a folder; what: the option that names it."""
    if found := unwritable(folder):
        raise RequestError(f"{what}: expected a folder that can be written to, found {found} at {folder}; name another")


def require_file_place(path: Path, what: str) -> None:
    """RequestError where no file of this name could be written; what: the option that names it."""
    if path.is_dir():
        raise RequestError(f"{what}: expected the name of a file, found the folder {path}; name a file in it")
    require_place(path.parent, what)


def free_bytes(folder: Path) -> int:
    """Free space where `folder` is or will be."""
    return shutil.disk_usage(existing(folder)).free


def free_memory() -> int:
    """Bytes of memory that a process can still take without swapping, at most what its control group grants."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_AVPHYS_PAGES" in os.sysconf_names else 1 << 33
    facts = Path("/proc/meminfo")
    if facts.is_file():
        lines = (line.split() for line in facts.read_text().splitlines())
        free = next((1024 * int(words[1]) for words in lines if words[0] == "MemAvailable:"), free)
    most, used = CONTROL_GROUP / "memory.max", CONTROL_GROUP / "memory.current"
    if most.is_file() and used.is_file() and most.read_text().strip().isdecimal():
        # what only caches files is given back when it is needed
        cached = sum(int(line.split()[1]) for line in (CONTROL_GROUP / "memory.stat").read_text().splitlines() if line.startswith("file "))
        free = min(free, int(most.read_text()) - int(used.read_text()) + cached)
    return max(free, 0)
