"""Runs of one name together: the mean of its runs, the same whether they are counted as one or one by one."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import teachonce
from tracking.one_pass import Pass
from tracking.pooled import name_of, pairs, pooled
from tracking.report import report
from tracking.scores import Scores, score
from tracking.sequences import Video, VideoSet

FRAMES = 6


def moved(truth: np.ndarray, pixels: float) -> Pass:
    boxes = truth + np.array([pixels, 0, 0, 0])
    boxes[0] = truth[0]
    return Pass((200, 200), boxes, np.ones(FRAMES), ("found",) * FRAMES, np.full(FRAMES, 0.1))


@pytest.fixture
def videos(tmp_path) -> VideoSet:
    """Three sequences of a target of 40 x 20 that stands still; their frames are asked for by the film strips alone."""

    class Frames:
        def __len__(self):
            return FRAMES

        def __iter__(self):
            return iter([np.zeros((200, 200, 3), np.uint8)] * FRAMES)

        def take(self, numbers):
            return [np.zeros((200, 200, 3), np.uint8)] * len(numbers)

    truth = np.tile([60.0, 60, 40, 20], (FRAMES, 1))
    every = np.ones(FRAMES, bool)
    return VideoSet("made", "got10k", tuple(Video(name, Frames(), truth, every) for name in "abc"), ())


@pytest.fixture
def answers(videos) -> dict[str, dict[str, Pass]]:
    """Pixels off: gt 0 and 20 (seeds 0 and 1), ts 10 and 10, by two seeds of the tracker; one stands alone."""
    off = {"gt-seed0-track3": 0, "gt-seed1-track3": 20, "ts-seed0": 10, "ts-seed1": 10, "still": 40}
    return {name: {video.name: moved(video.truth, pixels) for video in videos.videos} for name, pixels in off.items()}


def whole(answers, videos) -> Scores:
    scores = score(answers, videos)
    assert scores is not None
    return scores


def test_names():
    names = ["gt-seed0-track3", "gt-seed12", "gt-track1", "gt", "seed0", "a-seed1-b", "-seed1"]
    assert [name_of(name) for name in names] == ["gt", "gt", "gt", "gt", "seed0", "a-seed1-b", "-seed1"]


def test_a_name_is_the_mean_of_its_runs(answers, videos):
    together, runs = pooled(whole(answers, videos))
    assert runs == {"gt": 2, "ts": 2, "still": 1}
    # 20 of 40 pixels off: 20 / 60; 10: 30 / 50
    ao = {one.name: one.numbers["got10k", "ao"].value for one in together.trackers}
    assert ao == pytest.approx({"gt": (1 + 1 / 3) / 2, "ts": 0.6, "still": 0})
    assert together.trackers[0].each.tolist() == pytest.approx([2 / 3] * 3)
    difference = pairs(together)["gt", "ts"]["got10k", "ao"]
    assert tuple(difference) == pytest.approx((2 / 3 - 0.6,) * 3)
    assert difference.excludes_zero


def test_the_report_has_them_in_a_table_in_json_and_as_csv(answers, videos, tmp_path):
    report(answers, videos, [], tmp_path, "here", {"gt-seed0-track3": 0.1, "gt-seed1-track3": 0.3, "ts-seed0": 0.05})
    page = (tmp_path / "report.md").read_text()
    assert "## Runs of one name together" in page
    assert "| gt |  | **+6.7 (+6.7 to +6.7)** | **+66.7 (+66.7 to +66.7)** |" in page
    with (tmp_path / "pooled.csv").open() as text:
        rows = {row["tracker"]: row for row in csv.DictReader(text)}
    assert [rows["gt"][head] for head in ("runs", "AO", "AO low", "refinement gain", "frames/s")] == ["2", "66.67", "66.67", "0.2", "10.0"]
    assert rows["still"]["refinement gain"] == ""
    held = json.loads((tmp_path / "results.json").read_text())
    assert held["pooled"][1] | {"tracker": "ts"} == held["pooled"][1]
    assert {(pair["one"], pair["other"]) for pair in held["pairs"]} == {(a, b) for a in rows for b in rows if a != b}


def test_a_single_sequence_gives_no_interval(answers, videos, tmp_path):
    report(answers, videos.first(1), [], tmp_path, "here")
    page = (tmp_path / "report.md").read_text()
    assert "| gt |  | +6.7 | +66.7 |" in page and "0 is outside" not in page and "nan" not in page
    held = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert (held["pooled"][0]["AO"], held["pooled"][0]["AO low"]) == (66.67, None)


def test_without_a_second_run_nothing_is_pooled(answers, videos, tmp_path):
    report({name: answers[name] for name in ("gt-seed0-track3", "still")}, videos, [], tmp_path, "here")
    assert "together" not in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "pooled.csv").exists()


@pytest.mark.parametrize("seed", ["-1", "x", "1.5", "9" * 19])
def test_a_wrong_seed_is_refused(seed, capsys):
    with pytest.raises(SystemExit):
        teachonce.main(["tracking", "eval", "--dataset", "demo", f"--seeds={seed}"])
    assert "expected a whole number from 0 on" in capsys.readouterr().err
