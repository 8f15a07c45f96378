"""Reading one frame, or saying exactly why it cannot be read. Frames are (H, W, 3) uint8, BGR."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from configs.errors import RunError

_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG", b"IEND"


class FrameError(RunError):
    """A frame that cannot be used; the message names its file."""


def read_frame(path: Path | str) -> np.ndarray:
    """The frame at `path` as BGR uint8 (H, W, 3).

    An orientation in the EXIF data is ignored: annotations count the stored pixels. 16-bit and grey files become 8-bit BGR.

    Raises:
        FrameError: no file, an empty one, a truncated JPEG or PNG (which OpenCV would fill with grey), or no image at all. Damage
            inside a JPEG whose end is in place goes unnoticed: the decoder tells nobody.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise FrameError(f"expected a frame, found none at {path} ({error.strerror}); restore the file") from error
    if not content:
        raise FrameError(f"expected a frame, found an empty file at {path}; restore the file")
    if truncated(content):
        raise FrameError(f"expected a whole frame, found a truncated file at {path} ({len(content)} bytes); restore the file")
    frame = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if frame is None:
        raise FrameError(f"expected an image, found none in {path} ({len(content)} bytes); restore the file")
    return frame


def truncated(content: bytes) -> bool:
    """Whether a JPEG or PNG ends before its end marker. Bytes after the marker, which some cameras add, do no harm."""
    if content.startswith(_PNG_START):
        return _PNG_END not in content[-64:]
    if not content.startswith(_JPEG_START) or content.endswith(_JPEG_END):
        return False
    # an embedded preview has markers of its own, so the last end must follow the last start of a scan; neither occurs inside scan data
    return content.rfind(_JPEG_END) < content.rfind(_JPEG_SCAN)
