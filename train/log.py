"""What a run leaves to look at: metrics.jsonl, TensorBoard, pictures/, a progress bar or plain lines.

metrics.jsonl holds one JSON object a line. kind=train: `step` (steps finished), `epoch` (running, from 1), `phase` (from 1), `loss`
and `terms` (means since the last line), `lr` by group, `pairs_per_s`, `wait_share` (share of time waiting for data), `cached_share`
and `online_share` (shares of the steps whose targets came from the cache and from the online teacher). kind=val: `step`, `epoch`
(finished), `loss`, `terms`, `iou_error`, `correlation` and what else `train.evaluate` measures.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from tqdm import tqdm

from configs.errors import RunError, printable
from configs.files import read_regular, write_atomic

METRICS = "metrics.jsonl"
NUMBERS = {
    "train": ("step", "epoch", "phase", "loss", "pairs_per_s", "wait_share", "cached_share", "online_share"),
    "val": ("step", "epoch", "loss", "iou_error"),
}
"""Kind of line -> what it holds at least, a number each, beside `terms`"""
PICTURES = "pictures"
# Seconds between two plain lines where there is no terminal to draw a bar on.
QUIET = 10.0


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last line that a kill cut short is left out. RunError, with its number, for a damaged one."""
    path = folder / METRICS
    if not path.exists():
        return []
    try:
        # without a final newline the last line was not finished
        lines = read_regular(path).split(b"\n")[:-1]
    except OSError as error:
        raise RunError(f"{path}: expected the lines of a run, found {error.strerror}; remove it") from error
    return [_record(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line]


def _record(line: bytes, where: str) -> dict[str, Any]:
    """One line. RunError: it is none that a run has written."""
    try:
        record = json.loads(line)
        if isinstance(record, dict) and _complete(record):
            return record
    except (ValueError, RecursionError):
        pass
    raise RunError(
        f"{where}: expected a line that a run has written, found {printable(line.decode(errors='replace'), 60)}; delete the line"
    )


def _complete(record: dict[str, Any]) -> bool:
    """Whether a line holds what its kind must; a number that was not finite is null."""
    kind = record.get("kind")
    if not isinstance(kind, str) or kind not in NUMBERS:
        return isinstance(kind, str)
    terms = record.get("terms")
    numbers = [record.get(name, "") for name in NUMBERS[kind]] + (list(terms.values()) if isinstance(terms, dict) else [""])
    return all(number is None or (isinstance(number, int | float) and not isinstance(number, bool)) for number in numbers)


class RunLog:
    """Writes the record of one run, from `begin` on; on other ranks than 0 every call does nothing.

    Args:
        folder: the run's folder.
        step, epoch: those that the run goes on from (None: the step ended its epoch); later lines of an earlier attempt are dropped, so
            that a resumed run's metrics equal those of an uninterrupted one.
        writes: whether this process is the one that writes (rank 0).
    """

    def __init__(self, folder: Path, step: int, writes: bool = True, epoch: int | None = None) -> None:
        self.folder, self.step, self.writes, self.epoch = folder, step, writes, epoch
        self._bar: tqdm[Any] | None = None
        self._spoke = -math.inf
        self._events: Any = None
        self._metrics: IO[str] | None = None

    def begin(self, tensorboard: bool = True) -> RunLog:
        """Makes the folder and opens the record, with TensorBoard events beside it if wanted."""
        if not self.writes:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = [record for record in read_metrics(self.folder) if self._is_past(record)] if self.step else []
        write_atomic(self.folder / METRICS, "".join(json.dumps(record) + "\n" for record in kept))
        self._metrics = open(self.folder / METRICS, "a")  # noqa: SIM115 - lives as long as the run
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # costs seconds to import, and only runs need it

            self._events = SummaryWriter(str(self.folder), purge_step=self.step + 1 if self.step else None)
        return self

    def _is_past(self, record: dict[str, Any]) -> bool:
        # stopped between the last step of an epoch and its end, a run validates anew
        again = record["kind"] in ("val", "track") and self.epoch is not None and record["epoch"] > self.epoch
        return bool(record["step"] <= self.step) and not again

    def record(self, kind: str, step: int, epoch: int, **values: Any) -> None:
        """Appends one line to metrics.jsonl and the numbers of it to TensorBoard; NaN is written as null."""
        if self._metrics is None:
            return
        record = {"kind": kind, "step": step, "epoch": epoch, **_plain(values)}
        self._metrics.write(json.dumps(record, allow_nan=False) + "\n")
        self._metrics.flush()
        if self._events is not None:
            for name, value in _leaves(values):
                if isinstance(value, int | float) and math.isfinite(value):
                    self._events.add_scalar(f"{kind}/{name}", value, step)

    def picture(self, image: np.ndarray, epoch: int, step: int, name: str = "pairs") -> None:
        """Writes an (H, W, 3) uint8 RGB picture as epochNNNN.png, of pairs in pictures/, else in a folder `name`; and to TensorBoard."""
        if not self.writes:
            return
        encoded = cv2.imencode(".png", image[..., ::-1])[1]
        write_atomic(self.folder / (PICTURES if name == "pairs" else name) / f"epoch{epoch:04d}.png", encoded.tobytes())
        if self._events is not None:
            self._events.add_image(name, image, step, dataformats="HWC")

    def say(self, text: str) -> None:
        """Prints lines for the user, above the bar where there is one."""
        if self.writes:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def start_epoch(self, epoch: int, epochs: int, steps: int) -> None:
        """Opens the bar of one epoch (on a terminal)."""
        self._title, self._steps = f"epoch {epoch}/{epochs}", steps
        if self.writes and sys.stderr.isatty():
            self._bar = tqdm(total=steps, desc=self._title, unit="step", leave=False, dynamic_ncols=True)

    def progress(self, done: int, loss: float, rate: float) -> None:
        """Moves the bar to `done` steps of the epoch; without a terminal prints a plain line, at most one in 10 s and one at the end."""
        if not self.writes:
            return
        if self._bar is not None:
            self._bar.n = done
            self._bar.set_postfix_str(f"loss {loss:.4g}, {rate:.0f} pairs/s")
            if done == self._steps:
                self._bar.close()
                self._bar = None
        if not sys.stderr.isatty() and (done == self._steps or time.monotonic() - self._spoke > QUIET):
            self._spoke = time.monotonic()
            self.say(f"{self._title}: step {done}/{self._steps}, loss {loss:.4g}, {rate:.1f} pairs/s")

    def close(self) -> None:
        """Flushes and closes everything."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._metrics is not None:
            self._metrics.close()
        if self._events is not None:
            self._events.close()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _leaves(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in values.items():
        leaves += _leaves(value, f"{prefix}{key}/") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return leaves
