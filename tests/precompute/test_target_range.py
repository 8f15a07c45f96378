"""Targets within float16: those of a real-sized teacher fit, and what does not fit is refused with what a user can do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

import models
from cache.checks import checked_arrays
from configs import load
from configs.errors import RunError
from kdlosses import TARGETS, LiveTeacher, sizes_of, target_spec
from kdlosses.projection import draw_projection
from pairs.batch import Boxes
from precompute.target_writer import TargetWriter


def test_targets_of_drnet_resnet50_at_its_size_are_within_float16():
    """Untrained, with the statistics of BatchNorm that it begins with, its features grow more from layer to layer than trained ones do."""
    torch.manual_seed(0)
    config = load("drnet_cfkd")
    assert config.teacher is not None
    sizes = sizes_of(config, config.teacher)
    teacher = LiveTeacher(models.TeacherNetwork(models.build("drnet_resnet50")))
    side = config.pairs.ref.size
    box, proposals = torch.tensor([[115.0, 115, 58, 58]]), torch.tensor([[[110.0, 110, 60, 60], [90, 120, 80, 40]]])
    boxes = Boxes(box, box, proposals, config.pairs.ref, config.pairs.test)
    assert sizes.student_channels is not None
    projection = draw_projection(0, sizes.student_channels, sizes.teacher_channels, tuple(sizes.teacher_channels))
    found = teacher.targets(torch.randn(1, 3, side, side), torch.randn(1, 3, side, side), boxes, tuple(TARGETS), projection)
    stored = {f"{name}/{array.name}": array.dtype for name in TARGETS for array in target_spec(name, sizes).arrays}
    assert stored.keys() == found.keys()
    for key, value in found.items():
        assert value.abs().max() < float(np.finfo(stored[key]).max) / 2, key


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_a_number_that_does_not_fit_names_the_pair_and_what_to_do(value):
    sizes = sizes_of(config := load("drnet_cfkd"), cast(Any, config.teacher))
    (array,) = target_spec("iou", sizes).arrays
    numbers = np.zeros((8, *array.shape), np.float32)
    numbers[5, 3, 2] = value

    def append(arrays: dict[str, np.ndarray]) -> None:
        checked_arrays("targets/mine/iou", [array], arrays, 16, 8)

    writer = TargetWriter.__new__(TargetWriter)
    writer._streams = {"iou": cast(Any, SimpleNamespace(append=append))}
    with pytest.raises(RunError) as error:
        writer._store(cast(Any, SimpleNamespace(first=False, last=False)), {}, {"iou": {"iou": numbers}})
    assert str(error.value) == (
        f"targets/mine/iou/iou, pair 21: expected finite numbers within float16 (+-65504), found {value} at (3, 2); a trained teacher stays"
        " far within: look at its weights with `teachonce models show FILE`, or cache others without iou (TARGETS=...)"
    )
