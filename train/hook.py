"""The one place where training calls tracking: by name, since neither room knows the other."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from configs import Config

HOOK = "tracking.in_training:prepare"
"""module:function. (configuration) -> (student, device) -> (numbers by name, film strips (H, W, 3) uint8 RGB)."""


class Seen(NamedTuple):
    """What a student did in video: numbers by name, in 0 ... 1 (auc, ao), and film strips (H, W, 3) uint8 RGB."""

    numbers: dict[str, float]
    strips: np.ndarray


Watch = Callable[[nn.Module, torch.device], Seen]


def watch(config: Config) -> Watch | None:
    """What tracks a few validation sequences with a student, where train.track_every asks for it.

    RequestError: the validation data set is not at hand, or is no video.
    """
    if not config.train.track_every:
        return None
    module, name = HOOK.split(":")
    track = getattr(importlib.import_module(module), name)(config)
    return lambda student, device: Seen(*track(student, device))
