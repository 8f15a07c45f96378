"""What can be refused of a request to track without a network: torch is not imported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from configs.errors import RequestError
from models.files import is_safetensors

BASELINES = ("still", "opencv", "classifier", "refinement")
"""By name: a box that stands still, OpenCV's tracker, and the first checkpoint's classifier or refinement alone."""

PLACE = Path("tracked")
"""Where `track` writes, a folder a video, unless it is told otherwise."""


def named_path(text: str) -> tuple[str, Path]:
    """(name, file) of a checkpoint given as NAME=PATH, or as PATH (the name is ""). RequestError: no file there, or one of no network."""
    name, equals, rest = text.partition("=")
    named = bool(equals) and not Path(text).is_file()
    path = Path(rest if named else text)
    if not path.is_file():
        raise RequestError(f"CHECKPOINT: expected a weights file, found {'a folder' if path.is_dir() else 'nothing'} at {path}; correct it")
    if path.suffix != ".onnx":
        is_safetensors(path)
    return name if named else "", path


def require_baselines(names: Sequence[str]) -> list[str]:
    """The baselines that are named. RequestError: an unknown one."""
    for name in names:
        if name not in (*BASELINES, "none"):
            raise RequestError(f"--baselines: expected none or some of {', '.join(BASELINES)}, found '{name:.60}'; correct it")
    return [name for name in names if name != "none"]


def parse_box(text: str) -> tuple[float, float, float, float]:
    """`x,y,w,h` in pixels. RequestError: not four finite numbers, or no area."""
    try:
        x, y, w, h = (float(word) for word in text.split(","))
    except ValueError:
        x = y = w = h = math.nan
    if not all(map(math.isfinite, (x, y, w, h))) or w <= 0 or h <= 0:
        raise RequestError(f"BOX: expected x,y,w,h of finite numbers with w and h above 0, found '{text:.60}'; e.g. BOX=10,20,64,48")
    return x, y, w, h
