"""Fresh augmentation: a function of the position alone, in the ranges of the pair set."""

from __future__ import annotations

import numpy as np

from configs.schema import PairsConfig
from train.data.augment import SIGMA, choose_proposals, draw_fresh, fresh_proposals, is_fresh

PAIRS = PairsConfig(proposals=5)


def test_numbers_of_a_position_do_not_depend_on_what_else_is_drawn():
    whole = draw_fresh(4, 0, 64, PAIRS)
    for first, count in ((0, 1), (17, 30), (63, 1)):
        part = draw_fresh(4, first, count, PAIRS)
        for name in ("brightness", "grey", "flip", "blur"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[first : first + count])
    assert not np.array_equal(draw_fresh(5, 0, 64, PAIRS).brightness, whole.brightness)


def test_proposals_of_strided_positions_are_those_of_the_whole_step():
    boxes = np.tile([[30.0, 25.0, 24.0, 18.0]], (16, 1))
    whole = fresh_proposals(boxes, 0, 800, PAIRS)
    for rank in range(4):
        mine = np.arange(rank, 16, 4)
        np.testing.assert_array_equal(fresh_proposals(boxes[mine], 0, 800 + mine, PAIRS), whole[mine])
    assert not np.array_equal(fresh_proposals(boxes, 0, 816, PAIRS), whole)


def test_ranges_follow_the_pair_set():
    drawn = draw_fresh(0, 0, 3000, PAIRS.model_copy(update={"brightness": 0.4, "grey_probability": 1.0}))
    assert 0.6 <= drawn.brightness.min() < 0.61 and 1.39 < drawn.brightness.max() <= 1.4
    assert drawn.grey.all()
    blurred = drawn.blur[drawn.blur > 0]
    assert SIGMA[0] <= blurred.min() and blurred.max() <= SIGMA[1]
    # the two images of a pair are lit and blurred apart from each other
    assert abs(np.corrcoef(drawn.brightness.T)[0, 1]) < 0.08
    assert 0.1 < (drawn.blur[drawn.blur[:, 0] > 0, 1] > 0).mean() < 0.3


def test_shares_are_the_probabilities():
    drawn = draw_fresh(0, 0, 4000, PAIRS)
    assert 0.8 <= drawn.brightness.min() < 0.81 and 1.19 < drawn.brightness.max() <= 1.2
    assert abs(drawn.grey.mean() - 0.05) < 0.015 and abs(drawn.flip.mean() - 0.5) < 0.03
    assert abs((drawn.blur > 0).mean() - 0.2) < 0.02


def test_the_ends_of_the_mix():
    assert all(is_fresh(0, step, 1.0) for step in range(50)) and not any(is_fresh(0, step, 0.0) for step in range(50))
    assert [is_fresh(0, step, 0.5) for step in range(64)] != [is_fresh(1, step, 0.5) for step in range(64)]


def test_every_stored_proposal_is_drawn_equally_often():
    drawn = choose_proposals(0, np.arange(4000), 16, 4)
    assert drawn.shape == (4000, 4) and (np.diff(drawn, axis=1) > 0).all()
    # 1,000 each expected, standard deviation 27
    assert np.abs(np.bincount(drawn.ravel(), minlength=16) - 1000).max() < 5 * 27.4


def test_mix_makes_its_share_of_steps_fresh():
    share = np.mean([is_fresh(0, step, 0.3) for step in range(2000)])
    assert abs(share - 0.3) < 0.04
    assert not any(is_fresh(0, step, 0.0) for step in range(100))
