"""With what parts of a cache are made, as far as it changes numbers by no more than rounding: recorded a part, no part of an identity."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import cv2

from cache import Unit
from cache.backends.base import MADE

if TYPE_CHECKING:
    import torch

Made = dict[str, str | int | None]


def crops_made() -> Made:
    """Of crops."""
    return {"opencv": cv2.__version__}


def made_with(device: torch.device, batch: int) -> Made:
    """Of a teacher's numbers, but for the decoder."""
    import torch  # crops are cut without

    cuda = device.type == "cuda"
    tf32 = cuda and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    return {"batch": batch, "device": torch.cuda.get_device_name(device) if cuda else "cpu", "tf32": int(tf32), "torch": torch.__version__}


def decoder_made(name: str) -> str:
    """A decoder (see `pairs.decode.decoder_name`) with its version."""
    if name == "opencv":
        return f"{name} {cv2.__version__}"
    for package in ("nvidia-dali-cuda130", "nvidia-dali-cuda120"):
        try:
            return f"{name} {version(package)}"
        except PackageNotFoundError:
            continue
    return name


def other_rounding(units: Mapping[str, Unit], now: Made) -> list[str]:
    """A line on each target whose latest part was made with something else; then its parts differ by rounding."""
    lines = []
    for name, unit in units.items():
        parts = unit.parts_there()
        made = (unit.entry(parts[-1]) or {}).get(MADE) if parts else None
        changed = [f"{key} {made.get(key)} (now {now[key]})" for key in now if made.get(key) != now[key]] if made else []
        if changed:
            lines.append(f"{name}: its finished parts were made with {', '.join(changed)}: new ones differ by rounding; goes on")
    return lines
