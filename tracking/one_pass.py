"""One tracker through one video, started once with the true box: the answers, and how long each took.

Letters: n frames. Boxes (x, y, w, h), 0-based, frame pixels.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from configs.errors import RunError
from pairs.frames import FrameError
from tracking.result import Result
from tracking.sequences import Video


class Tracker(Protocol):
    """What can be evaluated. Images are (H, W, 3) uint8 RGB."""

    def init(self, image: np.ndarray, box: Any) -> None:
        """Begins with the target's box in an image. Raises RequestError for a box that is none in it."""

    def update(self, image: np.ndarray) -> Result:
        """Where the target is in the next image."""


@dataclass(frozen=True)
class Pass:
    """What a tracker has answered in a video.

    size: (w, h) of the frames; boxes (n, 4); scores (n,), NaN where nothing was asked; states: found, uncertain, not_found or skipped;
    seconds (n,): of the tracker alone, without reading, NaN where nothing was asked; skipped: what was wrong with frames, one line each.
    """

    size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray
    states: tuple[str, ...]
    seconds: np.ndarray
    skipped: tuple[str, ...] = ()


class Answer(NamedTuple):
    """One frame: its image (None: it cannot be read), the tracker's result, what is wrong with the frame, and the tracker's seconds."""

    image: np.ndarray | None
    result: Result
    wrong: str
    seconds: float


def answers(tracker: Tracker, frames: Iterable[np.ndarray | FrameError], box: Any) -> Iterator[Answer]:
    """Frame by frame what a tracker says that begins with `box`.

    A frame that cannot be read, or that has another size than the first, is not shown to the tracker: the last box is kept.
    RunError: the first frame cannot be read, or there is none.
    """
    size: tuple[int, ...] = ()
    last = Result((0.0, 0.0, 0.0, 0.0), float("nan"), "not_found")
    for number, frame in enumerate(frames):
        if isinstance(frame, FrameError) and not size:
            raise RunError(f"first frame: {frame}")
        wrong = _wrong(frame, size)
        if wrong:
            last = Result(last.box, float("nan"), last.state)
            yield Answer(None if isinstance(frame, FrameError) else frame, last, f"frame {number + 1}: {wrong}", float("nan"))
            continue
        assert isinstance(frame, np.ndarray)
        began = time.perf_counter()
        if size:
            last = tracker.update(frame)
        else:
            tracker.init(frame, box)
            x, y, w, h = (float(value) for value in box)
            last, size = Result((x, y, w, h), 1.0, "found"), frame.shape
        yield Answer(frame, last, "", time.perf_counter() - began)
    if not size:
        raise RunError("expected frames, found none; check the video")


def one_pass(tracker: Tracker, video: Video) -> Pass:
    """All frames of a video, see `answers`. RunError, RequestError: the tracker cannot begin."""
    size = (0, 0)
    answered: list[Answer] = []
    for answer in answers(tracker, video.frames, video.truth[0]):
        if answer.image is not None and not answered:
            size = (answer.image.shape[1], answer.image.shape[0])
        answered.append(answer._replace(image=None))  # a long video does not fit into memory
    return Pass(
        size,
        np.array([answer.result.box for answer in answered]),
        np.array([answer.result.score for answer in answered]),
        tuple("skipped" if answer.wrong else answer.result.state for answer in answered),
        np.array([answer.seconds for answer in answered]),
        tuple(answer.wrong for answer in answered if answer.wrong),
    )


def _wrong(frame: np.ndarray | FrameError, size: tuple[int, ...]) -> str:
    """What keeps a frame from being shown to a tracker; empty: nothing."""
    if isinstance(frame, FrameError):
        return str(frame)
    if size and frame.shape != size:
        return f"expected {size[1]} x {size[0]} pixels as the first frame has, found {frame.shape[1]} x {frame.shape[0]}; skipped"
    return ""
