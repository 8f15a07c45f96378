"""Ctrl-C and SIGTERM (batch systems, spot machines) end a command alike: what is finished is kept, exit code 128 + the signal's number."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_IMPORT_S = 5.0
"""Seconds that a signal waits for the end of an import."""
_latest: int = signal.SIGINT
_since: float | None = None  # when a signal began to wait
# Ctrl-C reaches torchrun and its processes, and torchrun passes it on to them: within this time it is the same wish
_SAME_S = 1.0


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end; kept: what is kept beyond finished parts, as words for the user."""

    def __init__(self, number: int, kept: str = "") -> None:
        super().__init__(number, kept)
        self.number, self.kept = number, kept

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


@contextlib.contextmanager
def caught(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Both signals go to the handler; one that is ignored (nohup) stays so. Does nothing outside the main thread."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: held for number in SIGNALS if (held := signal.getsignal(number)) not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, held in before.items():
            signal.signal(number, held)


def raising() -> contextlib.AbstractContextManager[None]:
    """Both signals raise `Stopped` wherever the main thread is."""
    return caught(_raise)


def _raise(number: int, frame: FrameType | None) -> None:
    global _latest, _since
    _latest, now = number, time.monotonic()
    if not _importing(frame):
        _since = None
        raise Stopped(number)
    # libraries lose an exception inside their import, or turn it into another: it waits until the import is over, if that is soon
    _since = _since or now
    if now - _since > _IMPORT_S:
        if is_speaker():
            os.write(2, b"error: stopped while loading, what is finished is kept; run the same command again to go on\n")
        os._exit(128 + number)
    again = threading.Timer(0.05, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def stopped(error: KeyboardInterrupt) -> Stopped:
    """The same as one that names its signal: libraries written in C put a bare KeyboardInterrupt in its place."""
    return error if isinstance(error, Stopped) else Stopped(_latest)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


class Deferred:
    """Within it the first signal is only remembered, for whoever asks at a moment at which everything is whole; a second one raises."""

    def __init__(self) -> None:
        self.number: int | None = None
        """of the signal; None: there was none"""
        self._since = 0.0
        self._context = caught(self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and time.monotonic() - self._since > _SAME_S:
            raise Stopped(number)
        self.number, self._since = self.number or number, self._since or time.monotonic()

    def obey(self) -> None:
        """Stopped, if there was a signal."""
        if self.number is not None:
            raise Stopped(self.number)

    def __enter__(self) -> Deferred:
        self._context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


@contextlib.contextmanager
def unseen_by_children() -> Iterator[None]:
    """Processes that are started within never see Ctrl-C, which a terminal sends to them too: they end when their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_speaker() -> bool:
    """Whether this process is the one of several (torchrun) that tells the user."""
    return os.environ.get("RANK", "0") == "0"
