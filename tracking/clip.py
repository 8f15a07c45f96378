"""Tracking in one video: the boxes as a CSV file a tracker, and a video with them drawn, several trackers side by side."""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from configs.errors import RequestError, RunError
from configs.files import write_atomic
from configs.machine import free_bytes
from configs.progress import ProgressBar
from pairs.frames import VIDEO_SUFFIXES, FrameError
from tracking.contestants import of_checkpoint
from tracking.evaluate import one_thread
from tracking.frames import camera, open_frames
from tracking.one_pass import Answer, answers
from tracking.request import PLACE, parse_box
from tracking.strips import INKS, draw_box, write

PANEL = 960  # pixels that a panel is at most wide
FPS = 25.0  # of what has no rate of its own
_LOST = (150, 150, 150)

Frames = Iterable[np.ndarray | FrameError]


def ask_box(frame: np.ndarray) -> tuple[float, float, float, float]:
    """The box that someone draws in a window. RequestError: there is no window, or nothing was drawn."""
    try:
        x, y, w, h = cv2.selectROI("draw the target, then Enter", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        cv2.destroyAllWindows()
    except cv2.error as error:
        raise RequestError("BOX: expected x,y,w,h, found none, and this OpenCV has no window to ask in; give BOX=x,y,w,h") from error
    if w <= 0 or h <= 0:
        raise RequestError("BOX: expected a target to be drawn, found none; draw it, or give BOX=x,y,w,h")
    return float(x), float(y), float(w), float(h)


def open_source(video: str) -> tuple[Frames, str, int, float]:
    """Frames, a name, how many there are (0: nobody knows) and frames a second, of a video file, a folder or a camera's number."""
    if video.isdecimal():
        return camera(int(video)), f"camera{int(video)}", 0, FPS
    path = Path(video)
    frames = open_frames(path)
    rate = float(cv2.VideoCapture(video).get(cv2.CAP_PROP_FPS)) if path.suffix.lower() in VIDEO_SUFFIXES else 0.0
    return frames, path.resolve().stem, len(frames), rate if 1 <= rate <= 240 else FPS


def track_clip(
    checkpoints: Sequence[str], video: str, box: str | None, out: Path | None, setting: str | None, overrides: Sequence[str], device: str
) -> list[tuple[str, Path]]:
    """Tracks, and writes <tracker>.csv and tracked.mp4 into `out`, by default tracked/<name of the video>; (what, path) of each.

    RequestError: no checkpoint, a video or a box that is none. Ctrl-C ends the tracking; what was tracked is written.
    """
    if not checkpoints:
        raise RequestError("track: expected a checkpoint, found none; give CHECKPOINT=student.safetensors")
    given = parse_box(box) if box is not None else None
    trackers = [of_checkpoint(text, setting, overrides) for text in checkpoints]
    names = [tracker.name for tracker in trackers]
    if len(set(names)) < len(names):
        raise RequestError(f"track: expected a name for each tracker, found {', '.join(names)}; give NAME=PATH")
    frames, name, count, rate = open_source(video)
    stream = iter(frames)
    first = next(stream, None)
    if not isinstance(first, np.ndarray):
        raise RequestError(f"{video}: expected a first frame, found none{f' ({first})' if first is not None else ''}; give another video")
    start = given or ask_box(first)
    folder = out or PLACE / name
    rows: list[tuple[Answer, ...]] = []
    built = [tracker.build(device) for tracker in trackers]
    with one_thread(), ProgressBar(name, count, "frame", shown=count > 0) as progress, film(folder / "tracked.mp4", rate) as screen:
        copies = itertools.tee(itertools.chain([first], stream), len(built))
        steps = zip(*(answers(tracker, copy, start) for tracker, copy in zip(built, copies, strict=True)), strict=True)
        with contextlib.suppress(KeyboardInterrupt):
            for step in steps:
                rows.append(tuple(answer._replace(image=None) for answer in step))
                screen.show(_panels(step, names, len(rows)))
                progress.add(1)
                if step[0].wrong:
                    progress.say(f"warning: {step[0].wrong}")
    written = [("boxes", folder / f"{name}.csv") for name in names]
    for place, (_, path) in enumerate(written):
        write_atomic(path, csv([row[place] for row in rows]))
    return [*written, ("video", screen.path)]


def csv(rows: Sequence[Answer]) -> str:
    """frame (from 1), x, y, w, h (pixels), score, state of each frame, with a line of these names."""
    lines = ["frame,x,y,w,h,score,state"]
    for number, answer in enumerate(rows, 1):
        numbers = ",".join(f"{value:.3f}" for value in answer.result.box)
        score = f"{answer.result.score:.4f}" if math.isfinite(answer.result.score) else ""
        lines.append(f"{number},{numbers},{score},{'skipped' if answer.wrong else answer.result.state}")
    return "\n".join(lines) + "\n"


class Film:
    """A video file that is written frame by frame; its size is that of the first. It gets its name when it is finished."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self.temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
        self.writer: cv2.VideoWriter | None = None
        self.size, self.shown = (0, 0), 0

    def show(self, picture: np.ndarray) -> None:
        """The next picture (H, W, 3) uint8 RGB, both sides even."""
        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.size = (picture.shape[1], picture.shape[0])
            self.writer = cv2.VideoWriter(str(self.temporary), cv2.VideoWriter.fourcc(*"mp4v"), self.rate, self.size)
            if not self.writer.isOpened():
                self.require_room()
                raise RequestError("track: expected an OpenCV that writes MPEG-4, found one that does not; install opencv-python-headless")
        self.writer.write(cv2.cvtColor(cv2.resize(picture, self.size), cv2.COLOR_RGB2BGR))
        self.shown += 1

    def close(self) -> None:
        """Puts the film in its place. OSError: the disk is full. RunError: frames are missing, of which the writer tells nobody."""
        if self.writer is None:
            return
        self.writer.release()
        held = cv2.VideoCapture(str(self.temporary)).get(cv2.CAP_PROP_FRAME_COUNT)
        if held < self.shown:
            self.require_room()
            raise RunError(f"{self.path}: expected a video of {self.shown} frames, found {held:.0f} written; run it again")
        self.temporary.replace(self.path)

    def require_room(self) -> None:
        """OSError where the disk has no room for a picture."""
        if free_bytes(self.path.parent) < 1 << 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))


@contextlib.contextmanager
def film(path: Path, rate: float) -> Iterator[Film]:
    """A film under way; on an error nothing of it is left."""
    made = Film(path, rate)
    try:
        yield made
        made.close()
    finally:
        made.temporary.unlink(missing_ok=True)


def _panels(step: Sequence[Answer], names: Sequence[str], number: int) -> np.ndarray:
    """One frame as each tracker sees it, side by side; grey where there is no frame."""
    panels = []
    for place, (answer, name) in enumerate(zip(step, names, strict=True)):
        result = answer.result
        image = np.full((240, 320, 3), 90, np.uint8) if answer.image is None else answer.image
        scale = min(1.0, PANEL / image.shape[1])
        sides = [max(2, round(side * scale) // 2 * 2) for side in image.shape[1::-1]]
        panel = cv2.resize(image, sides, interpolation=cv2.INTER_AREA) if sides != list(image.shape[1::-1]) else image.copy()
        lost = result.state == "not_found" or bool(answer.wrong)
        draw_box(panel, np.array(result.box) * scale, _LOST if lost else INKS[place % len(INKS)], 1 if lost else 2)
        words = "no frame" if answer.wrong else f"{result.score:.2f}" + ("" if result.state == "found" else f" {result.state}")
        write(panel, f"{name} {number}: {words}", (5, 16), (255, 255, 255))
        panels.append(panel)
    return np.concatenate(panels, axis=1)
