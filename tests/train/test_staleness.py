"""The reason for the rule that fresh images go online: what a cached target would be worth for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.staleness import IOU_UNITS, staleness
from cache import Cache
from kdlosses import TARGETS, LiveTeacher
from train.data.augment import ALL
from train.plan import why_not_cached

NAMES = ("iou", "abs_sum", "response", "response_gaussian", "features", "classifier")
FLOAT16 = 2e-3


@pytest.fixture(scope="module")
def errors(world: Any) -> dict[str, dict[str, float]]:
    """What the world's cache is wrong by, for each fresh augmentation."""
    cache, teacher = Cache.open(world.folder / "caches" / "train"), world.teacher()
    return staleness(cache, teacher.name, LiveTeacher(teacher.load(torch.device("cpu"))), NAMES, 32)


def test_a_cached_target_is_right_for_the_recorded_pairs(errors):
    assert all(errors["replay"][name] < FLOAT16 for name in (*NAMES, IOU_UNITS))


@pytest.mark.parametrize("augmentation", ALL)
@pytest.mark.parametrize("name", NAMES)
def test_the_plan_sends_a_target_online_exactly_where_the_cached_one_is_wrong(world, errors, augmentation, name):
    config = world.config("train.augment=fresh", f"train.fresh=[{augmentation}]")
    online = bool(why_not_cached(config, name, "fresh"))
    # the slightest change of an image (brightness, a light blur) is ten times what float16 costs, and more
    assert (errors[augmentation][name] > 10 * FLOAT16) == online == (errors[augmentation][name] > FLOAT16)


def test_every_target_is_measured_or_made_of_what_is(errors):
    """Projected features are a linear function of features, the shallow ones the same of other layers."""
    rest = [name for name in TARGETS if name not in errors["replay"] and not name.endswith("_shallow")]
    assert rest == ["projected"] and torch.isfinite(torch.tensor([list(one.values()) for one in errors.values()])).all()
