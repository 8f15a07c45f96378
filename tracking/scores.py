"""From answers to numbers: what the table, the plots and the list of the worst sequences are made of.

Only sequences that every tracker has finished, and whose truth is known, are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tracking.evaluate import Answers
from tracking.intervals import Interval, difference, draws, interval
from tracking.metrics import RULES, Curve, Tracked
from tracking.one_pass import Pass
from tracking.sequences import VideoSet

COLUMNS = (
    *(("pytracking", number) for number in ("auc", "precision", "norm_precision")),
    *(("got10k", number) for number in ("ao", "sr50", "sr75")),
)
"""(rule, number) of the table."""


class Speed(NamedTuple):
    """Frames a second after the first frame, median and mean (of all frames together), and seconds of the first frame, median."""

    median: float
    mean: float
    first: float


@dataclass(frozen=True)
class Score:
    """One tracker. measures: rule -> measure -> curve; numbers: (rule, number) -> value and interval; each: AO of each sequence, (S,)."""

    name: str
    measures: Mapping[str, dict[str, Curve]]
    numbers: Mapping[tuple[str, str], Interval]
    each: np.ndarray
    speed: Speed
    skipped: int
    lost: float
    """share of frames in which it says that it has lost the target"""


@dataclass(frozen=True)
class Scores:
    """All trackers on the sequences that all have finished."""

    sequences: tuple[str, ...]
    frames: int
    trackers: tuple[Score, ...]

    def differences(self) -> dict[str, dict[tuple[str, str], Interval]]:
        """Tracker -> number -> the first tracker's less its own, paired by sequence."""
        first, *others = self.trackers
        drawn = draws(len(self.sequences))
        return {
            other.name: {
                (rule, name): difference(RULES[rule], name, first.measures[rule], other.measures[rule], drawn) for rule, name in COLUMNS
            }
            for other in others
        }

    def as_json(self) -> dict[str, Any]:
        """Every number, for results.json: shares in 0 ... 1, NaN as null."""
        return {
            "sequences": list(self.sequences),
            "frames": self.frames,
            "trackers": {
                score.name: {
                    **{f"{rule}.{name}": plain(value) for (rule, name), value in score.numbers.items()},
                    "frames_a_second": {"median": plain_number(score.speed.median), "mean": plain_number(score.speed.mean)},
                    "first_frame_seconds": plain_number(score.speed.first),
                    "skipped_frames": score.skipped,
                    "lost_share": score.lost,
                    "ao_of_each_sequence": [plain_number(value) for value in score.each],
                }
                for score in self.trackers
            },
            "differences": {
                name: {f"{rule}.{number}": plain(value) for (rule, number), value in numbers.items()}
                for name, numbers in self.differences().items()
            },
        }


def score(answers: Answers, videos: VideoSet) -> Scores | None:
    """The numbers; None where no sequence can be compared."""
    common = [video for video in videos.videos if video.annotated and all(video.name in of_one for of_one in answers.values())]
    if not common or not answers:
        return None
    drawn = draws(len(common))
    trackers = []
    for name, of_one in answers.items():
        passes = [of_one[video.name] for video in common]
        tracked = [
            Tracked(video.name, videos.kind, answered.boxes, video.truth, video.visible, answered.size)
            for video, answered in zip(common, passes, strict=True)
        ]
        measures = {rule: RULES[rule].measure(tracked) for rule in RULES}
        numbers = {(rule, number): interval(RULES[rule], number, measures[rule], drawn) for rule in RULES for number in RULES[rule].numbers}
        each = RULES["got10k"].number("ao", measures["got10k"], np.eye(len(common)))
        states = [state for answered in passes for state in answered.states]
        trackers.append(
            Score(name, measures, numbers, each, speed(passes), states.count("skipped"), states.count("not_found") / len(states))
        )
    return Scores(tuple(video.name for video in common), sum(len(video.frames) for video in common), tuple(trackers))


def speed(passes: Sequence[Pass]) -> Speed:
    """How fast a tracker was; NaN where nothing was timed."""
    later = np.concatenate([answered.seconds[1:] for answered in passes])
    later = later[np.isfinite(later) & (later > 0)]
    first = np.array([answered.seconds[0] for answered in passes])
    first = first[np.isfinite(first)]
    nothing = float("nan")
    median, mean = (1 / float(np.median(later)), 1 / float(later.mean())) if later.size else (nothing, nothing)
    return Speed(median, mean, float(np.median(first)) if first.size else nothing)


def plain_number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def plain(value: Interval) -> dict[str, float | None]:
    return {name: plain_number(number) for name, number in value._asdict().items()}
