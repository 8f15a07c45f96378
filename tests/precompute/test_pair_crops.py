"""Both crops of a pair from their frames; faults stand in the place of their pairs."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from configs.schema import PairsConfig
from pairs.crops import cut, encode
from pairs.frames import FrameError, read_frame
from precompute.crops import PairCrops, make_pair, pair_or_fault
from precompute.datasets import open_entry
from precompute.sampling import draw


@pytest.fixture
def drawn(tmp_path, write_got10k):
    """Two sequences of real little frames, and 12 pairs."""
    write_got10k(tmp_path, [21, 22], size=(64, 48))
    data = open_entry("x", {"kind": "got10k", "root": str(tmp_path), "train": {}}, "train")
    pairs = PairsConfig.model_validate({"ref": {"size": 64, "area_factor": 2}, "test": {"size": 96}})
    return data, pairs, draw(data, pairs, 0, 12, True)


def test_pairs_are_cut_from_their_frames(drawn):
    data, pairs, rows = drawn
    for row in range(len(rows)):
        pair = make_pair(data.source, rows, row, pairs)
        assert isinstance(pair, PairCrops)
        assert pair.region.dtype == np.int32
        for index, (content, image) in enumerate(zip((pair.ref, pair.test), pairs.images, strict=True)):
            frame = read_frame(data.frame_path(int(rows.sequence[row]), int(rows.frame[row, index])))
            crop, region = cut(frame, tuple(rows.center[row, index]), tuple(rows.size[row, index]), image)
            assert content == encode(crop, pairs.jpeg_quality)
            assert crop.shape == (image.size, image.size, 3) and pair.region[index].tolist() == list(region)


def test_a_frame_used_twice_is_read_once(drawn, monkeypatch):
    data, pairs, rows = drawn
    rows.frame[3] = 7
    count = SimpleNamespace(value=0)
    load = data.source.load

    def counted(*arguments):
        count.value += 1
        return load(*arguments)

    monkeypatch.setattr(data.source, "load", counted)
    make_pair(data.source, rows, 3, pairs)
    assert count.value == 1


def test_faults_stand_in_the_place_of_their_pairs(drawn):
    data, pairs, rows = drawn
    clean = [make_pair(data.source, rows, row, pairs) for row in range(12)]
    lost = data.frame_path(int(rows.sequence[2]), int(rows.frame[2, 1]))
    lost.unlink()
    rows.center[5, 0] = 1e6
    made = [pair_or_fault(data.source, rows, row, pairs) for row in range(12)]
    hit = {row for row in range(12) for image in (0, 1) if data.frame_path(int(rows.sequence[row]), int(rows.frame[row, image])) == lost}
    for row, pair in enumerate(made):
        if row in hit | {5}:
            assert isinstance(pickle.loads(pickle.dumps(pair)), FrameError)
        else:
            assert isinstance(pair, PairCrops) and pair[:2] == clean[row][:2]
    assert str(lost) in str(made[2])
    assert str(data.frame_path(int(rows.sequence[5]), int(rows.frame[5, 0]))) in str(made[5])
    assert len(pickle.dumps(data.source)) < 10_000
