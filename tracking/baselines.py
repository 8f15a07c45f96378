"""What every tracker is compared with: a box that stands still, a tracker of OpenCV, and half of a tracker of this project.

Frames are (H, W, 3) uint8 RGB; boxes (x, y, w, h), 0-based, frame pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from configs.errors import RequestError
from configs.tracking import TrackingConfig
from tracking.result import Result

OPENCV = ("CSRT", "KCF", "MIL")
"""Trackers of OpenCV that need no weights, the best first; opencv-python has the last alone, opencv-contrib-python all."""


class StandingStill:
    """Answers with the first box."""

    def init(self, image: np.ndarray, box: Any) -> None:
        """Keeps the box."""
        x, y, w, h = (float(value) for value in box)
        self.result = Result((x, y, w, h), 1.0, "found")

    def update(self, image: np.ndarray) -> Result:
        """The same as ever."""
        return self.result


def opencv_name() -> str | None:
    """The best tracker of the installed OpenCV that needs no weights; None where it has none."""
    return next((name for name in OPENCV if _maker(name) is not None), None)


def _maker(name: str) -> Callable[[], Any] | None:
    maker: Callable[[], Any] | None = getattr(cv2, f"Tracker{name}_create", None)
    return maker


class OpenCVTracker:
    """A tracker of OpenCV, by name. It takes whole pixels."""

    def __init__(self, name: str) -> None:
        """RequestError: the installed OpenCV has it not."""
        maker = _maker(name)
        if maker is None:
            raise RequestError(f"OpenCV {cv2.__version__}: expected its tracker {name}, found none; install opencv-contrib-python-headless")
        self.make = maker

    def init(self, image: np.ndarray, box: Any) -> None:
        """Begins with the part of the box that is inside the image. RequestError: there is none."""
        height, width = image.shape[:2]
        left, top = (max(0, round(float(value))) for value in box[:2])
        right = min(width, round(float(box[0]) + float(box[2])))
        bottom = min(height, round(float(box[1]) + float(box[3])))
        if right <= left or bottom <= top:
            raise RequestError(f"expected a box that meets the frame of {width} x {height}, found {list(map(float, box))}; correct it")
        cv2.setRNGSeed(0)
        self.tracker = self.make()
        self.tracker.init(_bgr(image), (left, top, right - left, bottom - top))
        x, y, w, h = (float(value) for value in box)
        self.box = (x, y, w, h)

    def update(self, image: np.ndarray) -> Result:
        """Its box; where it says that it has lost the target, the last one."""
        found, box = self.tracker.update(_bgr(image))
        if found:
            x, y, w, h = (float(value) for value in box)
            self.box = (x, y, w, h)
        return Result(self.box, float(found), "found" if found else "not_found")


def _bgr(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR)


def classifier_only(config: TrackingConfig) -> TrackingConfig:
    """The configuration of ATOM's tracker that never touches the size: the first box, moved to where the classifier sees the target."""
    still = {"boxes": 1, "steps": 0, "position_jitter": 0.0, "size_jitter": 0.0, "top_k": 1}
    given = config.model_dump(exclude_unset=True)
    return TrackingConfig.model_validate(given | {"refinement": given.get("refinement", {}) | still})
