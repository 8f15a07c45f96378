"""Frames of a video, one after the other: files in a folder, a video file, or a camera. Frames are (H, W, 3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from configs.errors import RequestError
from pairs.annotation import Fault, frame_names
from pairs.frames import FrameError, read_frame, video_frames


class Frames(Protocol):
    """A video that can be gone through again and again."""

    def __len__(self) -> int:
        """Number of frames."""

    def __iter__(self) -> Iterator[np.ndarray | FrameError]:
        """Every frame, or why it cannot be read."""

    def take(self, numbers: Sequence[int]) -> list[np.ndarray | FrameError]:
        """Some frames (from 0, ascending)."""


@dataclass(frozen=True)
class FileFrames:
    """Image files of one folder."""

    folder: str
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[np.ndarray | FrameError]:
        return (_read(Path(self.folder, name)) for name in self.names)

    def take(self, numbers: Sequence[int]) -> list[np.ndarray | FrameError]:
        """See `Frames`."""
        return [_read(Path(self.folder, self.names[number])) for number in numbers]


@dataclass(frozen=True)
class VideoFrames:
    """A video file. RequestError where OpenCV reads no frame of it."""

    path: Path

    def __post_init__(self) -> None:
        try:
            len(self)
        except FrameError as error:
            raise RequestError(f"{error}; or convert it, or give a folder of its frames") from error

    @cached_property
    def _count(self) -> int:
        return sum(1 for _ in video_frames(self.path))  # what the file says of itself may be wrong

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[np.ndarray | FrameError]:
        return (cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in video_frames(self.path))

    def take(self, numbers: Sequence[int]) -> list[np.ndarray | FrameError]:
        """See `Frames`."""
        wanted = set(numbers)
        return [frame for number, frame in enumerate(self) if number in wanted]


def camera(number: int) -> Iterator[np.ndarray]:
    """The frames of a camera, until it gives none. RequestError: there is no such camera."""
    capture = cv2.VideoCapture(number)
    good, frame = capture.read()
    if not good:
        raise RequestError(f"camera {number}: expected frames, found none; check the number and who may use the device")
    while good:
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        good, frame = capture.read()


def open_frames(path: Path) -> Frames:
    """A folder of images or a video file. RequestError: neither, or nothing to read in it."""
    if path.is_dir():
        try:
            names = frame_names(str(path))
        except Fault as fault:
            raise RequestError(str(fault.problem)) from fault
        if not names:
            raise RequestError(f"{path}: expected images in the folder, found none; give a folder of frames or a video file")
        return FileFrames(str(path), tuple(names))
    if not path.is_file():
        raise RequestError(f"{path}: expected a video, a folder of images or the number of a camera, found nothing; correct VIDEO")
    return VideoFrames(path)


def _read(path: Path) -> np.ndarray | FrameError:
    try:
        return cv2.cvtColor(read_frame(path), cv2.COLOR_BGR2RGB)
    except FrameError as error:
        return error
