"""Reading one frame of an image file or of a video, or saying exactly why it cannot be read. Frames are (H, W, 3) uint8, BGR.

A video stands for a folder of numbered frames: clip.mp4/12 is its frame 12, counted from 0.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

# what is wrong with a video is for us to say; FFmpeg reads this when its first one is opened
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np

from configs.errors import RunError
from configs.files import read_regular, require_regular
from pairs.headers import image_size, truncated

# errors only; OpenCV 5 moved what 4.10 has at the top
(cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(2)

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".mjpeg")
MOST_PIXELS = 2**27
"""Of a frame: four times 8K video. A header may claim any number, and a decoder allocates what the header claims."""
_STEP = 16  # frames that are decoded on the way rather than sought
_OPEN = 2  # videos that a thread keeps open


class FrameError(RunError):
    """A frame that cannot be used; the message names its file."""


def read_frame(path: Path | str, digest: int | None = None) -> np.ndarray:
    """The frame at `path` as BGR uint8 (H, W, 3): an image file, or `clip.mp4/12`, frame 12 (from 0) of a video.

    digest: `frame_digest` of a video's frame as decoding in order gives it; what seeking gives is taken only if it has the same, so a
    frame index is exact in any video. None: decoded in order. An orientation in an image's EXIF data is ignored: annotations count the
    stored pixels; that of a video is applied, as all players do. 16-bit and grey files become 8-bit BGR.

    Raises:
        FrameError: no file, an empty one, a pipe or a device, a truncated JPEG or PNG (which OpenCV would fill with grey), more than
            `MOST_PIXELS`, no image or no such frame at all, or another frame than the digest's. Damage inside a JPEG or video whose end is
            in place goes unnoticed: the decoder tells nobody.
    """
    path = Path(path)
    if path.name.isdecimal() and path.parent.suffix.lower() in VIDEO_SUFFIXES:
        return _read_video(str(path.parent), int(path.name), digest)
    try:
        content = read_regular(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FrameError(f"expected a frame, found none at {path} ({reason}); restore the file") from error
    if not content:
        raise FrameError(f"expected a frame, found an empty file at {path}; restore the file")
    if truncated(content):
        raise FrameError(f"expected a whole frame, found a truncated file at {path} ({len(content)} bytes); restore the file")
    width, height = image_size(content)
    if width * height > MOST_PIXELS:
        raise FrameError(f"expected a frame of at most {MOST_PIXELS:,} pixels, found {width} x {height} in {path}; make it smaller")
    try:
        frame = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        frame = None
    if frame is None:
        raise FrameError(f"expected an image, found none in {path} ({len(content)} bytes); restore the file")
    return frame


def frame_digest(frame: np.ndarray) -> int:
    """CRC-32 of a frame's pixels."""
    return zlib.crc32(np.ascontiguousarray(frame).data)


def video_frames(path: Path | str) -> Iterator[np.ndarray]:
    """Every frame of a video, decoded in order. FrameError: no video, or none without its first frame."""
    video = _Video(str(path))
    if (frame := video.ahead(0)) is None:
        raise FrameError(f"expected a video, found no frame in {path}; restore the file")
    while frame is not None:
        yield frame
        frame = video.ahead(video.next)


class _Video:
    """A video open for reading; `next` is the number of the frame that comes next, as far as anybody knows."""

    def __init__(self, path: str) -> None:
        try:
            require_regular(Path(path))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise FrameError(f"expected a video, found none at {path} ({reason}); restore the file") from error
        self.path = path
        self._open()

    def _open(self) -> None:
        # one thread a video: several are read at a time
        self._capture, self.next = cv2.VideoCapture(self.path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1]), 0
        width, height = (self._capture.get(side) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if not self._capture.isOpened():
            found = "a file that FFmpeg cannot open" if Path(self.path).stat().st_size else "an empty file"
            raise FrameError(f"expected a video, found {found} at {self.path}; restore the file")
        if width * height > MOST_PIXELS:
            found = f"{width:.0f} x {height:.0f}"
            raise FrameError(f"expected a video of at most {MOST_PIXELS:,} pixels a frame, found {found} in {self.path}; make it smaller")

    def ahead(self, number: int) -> np.ndarray | None:
        """Frame `number` by decoding on, None where that is not possible."""
        while self.next < number and self._capture.grab():
            self.next += 1
        if self.next != number:
            return None
        done, frame = self._capture.read()
        self.next += 1
        return frame if done else None

    def sought(self, number: int) -> np.ndarray | None:
        """Frame `number`, or what the file's index takes for it."""
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        self.next = number
        return self.ahead(number)

    def in_order(self, number: int) -> np.ndarray | None:
        """Frame `number`, decoded from the first one on."""
        self._open()
        return self.ahead(number)


class _Opened(threading.local):
    """The videos that a thread has read last."""

    def __init__(self) -> None:
        self.videos: OrderedDict[str, _Video] = OrderedDict()

    def video(self, path: str) -> _Video:
        if path not in self.videos:
            self.videos[path] = _Video(path)
        self.videos.move_to_end(path)
        while len(self.videos) > _OPEN:
            self.videos.popitem(last=False)
        return self.videos[path]


_opened = _Opened()


def _read_video(path: str, number: int, digest: int | None) -> np.ndarray:
    """The frame that has the digest: by decoding a few on, else by seeking, else in order. Without a digest: in order."""
    if digest is None:
        frame = _Video(path).ahead(number)
    else:
        video = _opened.video(path)
        near = 0 <= number - video.next <= _STEP
        for way in (*((video.ahead,) if near else ()), video.sought, video.in_order):
            frame = way(number)
            if frame is not None and frame_digest(frame) == digest:
                return frame
    if frame is None:
        raise FrameError(f"expected frame {number} (from 0) in {path}, found fewer; restore the file")
    if digest is not None:
        raise FrameError(f"expected frame {number} (from 0) of {path} as it was when its boxes were read, found another; run it again")
    return frame
