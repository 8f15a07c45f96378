"""Progress of long work: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

# Seconds between two lines where there is no terminal (logs of batch systems).
QUIET = 30.0


class ProgressBar:
    """Counts `total` items of `unit` under a title; use as a context, call `add(n)`, print beside it with `say`."""

    def __init__(self, title: str, total: int, unit: str, *, shown: bool = True) -> None:
        self.title, self.total, self.unit, self.shown = title, total, unit, shown
        self.done = 0
        self._start = self._spoke = time.monotonic()
        self._bar: tqdm | None = None

    def __enter__(self) -> ProgressBar:
        if self.shown and sys.stderr.isatty():
            self._bar = tqdm(total=self.total, desc=self.title, unit=self.unit, dynamic_ncols=True, leave=False)
        return self

    def add(self, count: int) -> None:
        """`count` more items are done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self.shown and time.monotonic() - self._spoke > QUIET:
            self._spoke = time.monotonic()
            rate = self.done / (self._spoke - self._start)
            left = (self.total - self.done) / rate if rate else float("inf")
            print(f"{self.title}: {self.done:,} of {self.total:,} {self.unit}s, {rate:,.1f} a second, {left:,.0f} s left", flush=True)

    def say(self, line: str) -> None:
        """One line on stdout, not through the bar."""
        if self._bar is not None:
            tqdm.write(line, file=sys.stdout)
        else:
            print(line, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
