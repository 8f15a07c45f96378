"""What a process asks of its machine before it computes: memory that stays its own, and as many threads as processors are free.

All of it must stand before torch is imported: OpenMP reads its environment once, and the first tensors decide where memory lies.
What the user has set stays as it is.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from configs.machine import cores, processors

KEEP = "TEACHONCE_KEEP_MEMORY"
"""0: freed memory goes back to the system at once, as glibc's allocator does by itself."""
ASK = "TEACHONCE_ASK"
"""1: a command ends with exit code 0 once its request is understood, before any work."""
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_SAMPLE_S = 0.2
_ours = False


def settle(say: Callable[[str], None] = print, leave_busy: bool = True) -> None:
    """Chooses threads and keeps memory, and says so in one line; does nothing where torch is there already.

    Called where a request is understood and work begins: with ASK that is the end.

    leave_busy: takes the processors that others leave free. False: all of them, for numbers that may not depend on the load (the count
    of threads rounds sums otherwise). Threads that wait sleep: beside another busy process, threads that spin hold each other up for
    whole time slices.
    """
    if os.environ.get(ASK) == "1":
        raise SystemExit(0)
    if "torch" in sys.modules:
        return
    kept = keep_memory()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parts = [choose_threads(leave_busy)]
    if kept:
        parts.append(f"freed memory is kept for the next step ({KEEP}=0: given back)")
    if int(os.environ.get("RANK", 0)) == 0:
        say(f"machine: {'; '.join(part for part in parts if part)}")


def keep_memory() -> bool:
    """Tells glibc to keep what is freed, of any size; whether it does. False with another libc, or where the user has set otherwise.

    By itself it maps each tensor above 32 MB anew, and the kernel fills its pages with zeros at every step.
    """
    if os.environ.get(KEEP) == "0" or sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    # -1: never trimmed, whatever its size
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, -1))


def choose_threads(leave_busy: bool = True) -> str:
    """Sets OMP_NUM_THREADS, see `settle`; the processes that torchrun starts on a machine share. Returns what was chosen, and why."""
    if user := [name for name in _THREADS if os.environ.get(name)]:
        return f"threads as {user[0]}={os.environ[user[0]]} says"
    there, busy = cores(), busy_processors() if leave_busy else 0.0
    threads = max(1, round(there - busy) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    global _ours
    _ours = True
    found = f"{busy:.1f} of {there} cores are busy" if leave_busy else f"{there} cores"
    return f"{threads} thread{'s' * (threads > 1)}, {found} (OMP_NUM_THREADS=n chooses)"


def threads_are_ours() -> bool:
    """Whether `choose_threads` has chosen in this process, and not the user."""
    return _ours


def busy_processors(seconds: float = _SAMPLE_S) -> float:
    """How many of the processors that this process may use others are using, over some time that it sleeps; 0 where nobody can tell."""
    if processors() == 1:
        return 0.0
    before = _times()
    time.sleep(seconds)
    spent = [(idle - before[name][0], whole - before[name][1]) for name, (idle, whole) in _times().items() if name in before]
    return sum(1 - idle / whole for idle, whole in spent if whole > 0)


def _times() -> dict[str, tuple[int, int]]:
    """Processor -> its (idle, whole) time so far, in ticks of Linux; of those that this process may use."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return {}
    mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    rows = (line.split() for line in stat.read_text().splitlines() if line.startswith("cpu"))
    # user nice system idle iowait irq softirq steal; guest time is part of user
    return {row[0]: (int(row[4]) + int(row[5]), sum(map(int, row[1:9]))) for row in rows if row[0] in mine}
