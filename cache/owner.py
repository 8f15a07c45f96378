"""Who writes: one name a process, from which others on the same machine see whether it still runs, and what a claim says."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

CLAIMS = "ledger/claims"
"""The folder of the claims (cache/claims.py)."""
LONGEST_S = 600.0
"""The longest lease that counts."""
_DAY_S = 86400.0


def owner() -> str:
    """`machine-pid-start` of this process; another process never has the same."""
    pid = os.getpid()
    return f"{_machine()}-{pid}-{_start(pid)}"


def is_dead(name: str) -> bool:
    """Whether the process of that name has surely ended; False for one of another machine, which cannot be known."""
    machine, _, rest = name.partition("-")
    pid, _, start = rest.partition("-")
    return machine == _machine() and pid.isascii() and pid.isdecimal() and _start(int(pid)) != start


def _machine() -> str:
    """Of everything that shares one numbering of processes: a boot of a machine, or a container on it."""
    try:
        place = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - no file to read
    except OSError:
        place = platform.node()
    return hashlib.sha256(place.encode()).hexdigest()[:12]


def _start(pid: int) -> str:
    """When the process started, so that a number given again is no mistake; "" where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        pass
    except (OSError, IndexError):
        return ""
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "0"


@dataclass(frozen=True)
class Held:
    """What a claim says."""

    owner: str
    time: float
    lease: float

    @property
    def owner_is_dead(self) -> bool:
        """Whether its owner has surely ended."""
        return is_dead(self.owner)

    @property
    def is_ancient(self) -> bool:
        """Whether no clock is so wrong that it could be of one who is at work."""
        return abs(time.time() - self.time) > _DAY_S

    @property
    def looks_over(self) -> bool:
        """Whether it seems that nobody is at work, for one who looks once: by the clocks of two machines, which may differ."""
        return abs(time.time() - self.time) > self.lease or self.owner_is_dead

    def text(self) -> bytes:
        """As it is stored."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parsed(cls, text: bytes) -> Held | None:
        """What is stored so; None for anything else, and for a lease that no worker asks for."""
        try:
            told = json.loads(text)
            held = cls(str(told["owner"]), float(told["time"]), float(told["lease"]))
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            return None
        return held if 0 <= held.lease <= LONGEST_S and math.isfinite(held.time) else None
