"""The two ways in which a command ends badly, and the exit code that belongs to each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TeachOnceError(Exception):
    """Base of every error that a user can cause or mend: printed as one line, never as a traceback.

    The message says what was expected, what was found and what to do.
    """

    exit_code = 1


class RequestError(TeachOnceError):
    """The request itself was wrong (unknown setting, missing cache, clashing options): exit code 2."""

    exit_code = 2


class RunError(TeachOnceError):
    """The request was fine and the run failed (disk full, corrupt shard, diverged loss): exit code 1."""

    exit_code = 1


def nearest(name: str, known: Iterable[str]) -> str:
    """` (nearest: 'x')` for the known name most like `name`, or an empty string where none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (nearest: '{close[0]}')" if close else ""
