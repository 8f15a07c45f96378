"""Rounded mantissas against exact arithmetic, over every float16 there is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdlosses import TARGETS, compute, draw_projection
from kdlosses.rounding import round_mantissa
from kdlosses.targets import round_features

EVERY = np.arange(2**16, dtype=np.uint16).view(np.float16)
FINITE = EVERY[np.isfinite(EVERY)]
SMALLEST_NORMAL = 2.0**-14
BITS = range(2, 11)


def plain(values: np.ndarray, bits: int) -> np.ndarray:
    """The nearest multiple of 2^(exponent - bits), ties to the even one, in float64, which holds all of it exactly."""
    exact = values.astype(np.float64)
    exponent = np.maximum(np.frexp(exact)[1] - 1, -14)  # subnormal numbers share that of the smallest normal one
    step = np.exp2(exponent - bits)
    largest = (2 - 2.0**-bits) * 2**15
    return np.copysign(np.minimum(np.rint(np.abs(exact) / step) * step, largest), exact)


@pytest.mark.parametrize("bits", BITS)
def test_every_finite_float16_goes_to_the_nearest_with_so_few_bits(bits: int) -> None:
    found = round_mantissa(torch.from_numpy(FINITE), bits)
    assert found.dtype == torch.float16
    wanted = plain(FINITE, bits).astype(np.float16)
    assert np.array_equal(found.numpy().view(np.uint16), wanted.view(np.uint16)), "signs of zeros included"
    assert not (found.numpy().view(np.uint16) & ((1 << (10 - bits)) - 1)).any(), "bits are left that compress to nothing"


@pytest.mark.parametrize("bits", BITS)
def test_the_relative_error_of_normal_numbers_is_bounded(bits: int) -> None:
    normal = FINITE[np.abs(FINITE).astype(np.float64) >= SMALLEST_NORMAL]
    exact = normal.astype(np.float64)
    error = np.abs(round_mantissa(torch.from_numpy(normal), bits).double().numpy() - exact) / np.abs(exact)
    bound = 2.0 ** -(bits + 1)
    assert error.max() <= bound
    assert error.max() > 0.7 * bound if bits < 10 else error.max() == 0


def test_nothing_finite_becomes_infinite_and_what_is_not_finite_stays() -> None:
    largest = torch.tensor([65504.0, -65504.0, 65519.0])
    assert round_mantissa(largest, 3).tolist() == [61440.0, -61440.0, 61440.0]
    # what float16 cannot hold stays the inf that the store refuses
    strange = round_mantissa(torch.tensor([65520.0, -1e9, float("inf"), float("nan")]), 3)
    assert strange[:3].tolist() == [float("inf"), float("-inf"), float("inf")] and strange[3].isnan()


def test_any_shape_and_an_uneven_layout_are_rounded_alike() -> None:
    values = torch.randn(3, 4, 5, 6)
    turned = values.permute(3, 1, 0, 2)
    assert torch.equal(round_mantissa(turned, 4), round_mantissa(values, 4).permute(3, 1, 0, 2))


def test_whole_features_are_rounded_and_nothing_else(kit: SimpleNamespace) -> None:
    teacher, boxes, projection = kit.outputs(kit.TEACHER, 2, 0), kit.boxes(2), draw_projection(0, kit.STUDENT, kit.TEACHER)
    exact, found = (compute(TARGETS, teacher, boxes, projection, bits) for bits in (None, 4))
    whole = {
        f"{target}_{image}"
        for target in ("features/layer2", "features/layer3", "features_shallow/conv1", "features_shallow/layer1")
        for image in ("ref", "test")
    }
    assert {key for key in found if not torch.equal(found[key], exact[key])} == whole
    for key in whole:
        assert found[key].dtype == torch.float32
        assert torch.equal(found[key], round_mantissa(exact[key], 4).float())
        assert kit.relative(found[key], exact[key]) < 2**-5
    again = round_features(found, 4)
    assert all(torch.equal(again[key], found[key]) for key in found), "what comes back from a cache is what went in"
