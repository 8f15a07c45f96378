"""What this machine lends to a process."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

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


def free_bytes(folder: Path) -> int:
    """Free space where `folder` is or will be."""
    return shutil.disk_usage(existing(folder)).free
