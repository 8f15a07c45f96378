"""The two ways in which a command ends badly, and the exit code that belongs to each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TeachOnceError(Exception):
    """Base of every error that a user can cause or mend: printed as one line, never as a traceback.

    The message says what was expected, what was found and what to do; it is kept on one line and short (see `printable`).
    """

    exit_code = 1

    def __init__(self, message: object) -> None:
        super().__init__(printable(message))


class RequestError(TeachOnceError):
    """The request itself was wrong (unknown setting, missing cache, clashing options): exit code 2."""

    exit_code = 2


class RunError(TeachOnceError):
    """The request was fine and the run failed (disk full, corrupt shard, diverged loss): exit code 1."""

    exit_code = 1


def printable(text: object, most: int = 2000) -> str:
    """The text on one line, safe for a terminal: control characters escaped, the middle left out beyond `most` characters.

    Names and messages that come from a file may hold anything; what a message ends with, its advice, is kept.
    """
    words = str(text)
    if len(words) > most:
        words = f"{words[: most // 2 - 3]} ... {words[len(words) - most // 2 + 3 :]}"
    safe = (c if c.isprintable() else " " if c in "\n\r\t" else c.encode("unicode_escape").decode() for c in words)
    return "".join(safe)


def nearest(name: str, known: Iterable[str]) -> str:
    """` (nearest: 'x')` for the known name most like `name`, or an empty string where none is close."""
    close = difflib.get_close_matches(name[:100], list(known), n=1, cutoff=0.5)
    return f" (nearest: '{close[0]}')" if close else ""
