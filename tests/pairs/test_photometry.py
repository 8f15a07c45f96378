"""Photometry of pairs: what is recorded, what takes its place."""

from __future__ import annotations

import numpy as np

from configs.schema import PairsConfig
from pairs import photometry
from pairs.photometry import Photometry


def some(seed: int) -> Photometry:
    rng = np.random.default_rng(seed)
    return Photometry(
        rng.uniform(0.5, 1.5, (6, 2)).astype(np.float32), rng.random(6) < 0.5, rng.random(6) < 0.5, rng.random((6, 2)).astype(np.float32)
    )


def test_the_recorded_photometry_neither_mirrors_nor_blurs():
    rows = {"brightness": np.array([[0.8, 1.2], [1.0, 0.9]]), "grey": np.array([1, 0], np.uint8)}
    look = photometry.recorded(rows)
    np.testing.assert_array_equal(look.brightness, rows["brightness"].astype(np.float32))
    assert look.grey.tolist() == [True, False] and not look.flip.any() and not look.blur.any() and len(look) == 2


def test_plain_crops_are_as_bright_as_they_are():
    look = photometry.none(3)
    assert (look.brightness == 1).all() and look.brightness.shape == (3, 2) and not look.grey.any()


def test_only_the_named_ones_are_replaced():
    before, other = some(0), some(1)
    mixed = before.replaced(other, ("grey", "blur"))
    for name, source in (("brightness", before), ("grey", other), ("flip", before), ("blur", other)):
        np.testing.assert_array_equal(getattr(mixed, name), getattr(source, name))


def test_rows_are_taken_from_every_field():
    look, rows = some(0), np.array([4, 1])
    for name in ("brightness", "grey", "flip", "blur"):
        np.testing.assert_array_equal(getattr(look.take(rows), name), getattr(look, name)[rows])


def test_training_draws_in_its_ranges_and_validation_nothing():
    uniform, pairs = np.random.default_rng(0).random((4000, 3)), PairsConfig(brightness=0.3, grey_probability=0.25)
    grey, brightness = photometry.draw_recorded(uniform, pairs, True)
    np.testing.assert_array_equal(grey, uniform[:, 0] < 0.25)
    np.testing.assert_allclose(brightness, 0.7 + 0.6 * uniform[:, 1:], rtol=1e-6)
    grey, brightness = photometry.draw_recorded(uniform, pairs, False)
    assert not grey.any() and (brightness == 1).all() and brightness.dtype == np.float32
