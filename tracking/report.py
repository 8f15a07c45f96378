"""The page of an evaluation: OUT/<set>/report.md with its table, plots and worst sequences, and results.json with every number."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from configs.files import write_atomic
from tracking import plots
from tracking.evaluate import Answers
from tracking.intervals import Interval
from tracking.metrics import TITLES
from tracking.pooled import name_of, pairs, pooled
from tracking.scores import COLUMNS, Score, Scores, plain, score
from tracking.sequences import VideoSet
from tracking.strips import stacked, strip

WORST = 10
WITH_INTERVAL = (("pytracking", "auc"), ("got10k", "ao"))


def report(
    answers: Answers, videos: VideoSet, problems: Sequence[str], folder: Path, conditions: str, gains: Mapping[str, float] | None = None
) -> str:
    """Writes the page, its pictures and results.json into a folder, of several runs of one name pooled.csv too; the table, as text.

    conditions: of the measurement, in one line (device, processes). gains: tracker -> its network's refinement gain in training.
    """
    scores = score(answers, videos)
    folder.mkdir(parents=True, exist_ok=True)
    if scores is None:
        table = [f"{videos.name}: the truth of its sequences is not published, or no sequence was finished by all: there are no numbers."]
        body = table
    else:
        together, runs = pooled(scores)
        several = len(together.trackers) < len(scores.trackers)
        rows = _pooled_rows(together, runs, gains or {}) if several else []
        more = {"pooled": rows, "pairs": _pairs_json(together)} if several else {}
        write_atomic(folder / "results.json", json.dumps(scores.as_json() | {"conditions": conditions} | more, indent=1) + "\n")
        plots.curves(together, folder / "plots")
        table = table_lines(scores)
        body = [*table, "", *_notes(scores, conditions), ""]
        if several:
            write_atomic(folder / "pooled.csv", _csv(rows))
            body += [*_pooled(rows, together), "", *_matrix(together), ""]
        body += [*_differences(scores), "", *_pictures(answers, videos, scores, folder)]
    faults = ["", f"## {len(problems)} sequences failed", "", *(f"* {problem}" for problem in problems)] if problems else []
    write_atomic(folder / "report.md", "\n".join([f"# {videos.name}", "", *body, *faults, ""]))
    return "\n".join(table)


def table_lines(scores: Scores) -> list[str]:
    """The table of all trackers, as Markdown with even columns. AUC, P, NP by PyTracking's rule, AO, SR by GOT-10k's; in percent."""
    heads = ["tracker", *(TITLES[name] for _, name in COLUMNS), "frames/s", "mean", "first frame"]
    rows = [heads, *(_row(one) for one in scores.trackers)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [
        "| " + " | ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]) + " |"
        for row in (rows[0], rules, *rows[1:])
    ]


def _row(one: Score) -> list[str]:
    first = one.speed.first
    return [
        one.name,
        *_numbers(one),
        _rate(one.speed.median),
        _rate(one.speed.mean),
        f"{1000 * first:.0f} ms" if np.isfinite(first) else "-",
    ]


def _numbers(one: Score) -> list[str]:
    """A cell for each of `COLUMNS`."""
    return [
        _ranged(value) if column in WITH_INTERVAL else f"{100 * value.value:.1f}" for column in COLUMNS for value in [one.numbers[column]]
    ]


def _rate(frames: float) -> str:
    """Frames a second; beyond any camera's only that it is so."""
    return "-" if not np.isfinite(frames) else f"{frames:.1f}" if frames < 10_000 else "> 10,000"


def _ranged(value: Interval, sign: str = "") -> str:
    number = f"{100 * value.value:{sign}.1f}"
    return f"{number} ({100 * value.low:{sign}.1f} to {100 * value.high:{sign}.1f})" if np.isfinite(value.low) else number


def _notes(scores: Scores, conditions: str) -> list[str]:
    lines = [
        f"{len(scores.sequences)} sequences, {scores.frames:,} frames; one pass, begun with the true box of the first frame.",
        "In brackets: 95 % intervals by bootstrap over sequences. AUC, P (20 pixels) and NP (0.2) by the rule of PyTracking, in which a",
        "perfect tracker has an AUC of 95.24; AO and SR by that of the GOT-10k toolkit. frames/s: median and mean after the first frame,",
        f"of the tracker alone, without reading; {conditions}.",
    ]
    skipped = [f"{one.name} {one.skipped}" for one in scores.trackers if one.skipped]
    return [*lines, *([f"Frames that could not be used, in which the last box was kept: {', '.join(skipped)}."] if skipped else [])]


def _differences(scores: Scores) -> list[str]:
    """The first tracker against each other one."""
    if len(scores.trackers) < 2:
        return []
    first = scores.trackers[0].name
    lines = [
        f"## {first} against the others",
        "",
        "Paired by sequence: positive where it is better.",
        "",
        "| against | AUC | AO | |",
        "|---|---:|---:|---|",
    ]
    for name, numbers in scores.differences().items():
        auc, ao = (numbers[column] for column in WITH_INTERVAL)
        told = "0 is outside both intervals" if auc.excludes_zero and ao.excludes_zero else "cannot be told apart by one of the two"
        lines.append(f"| {name} | {_ranged(auc, '+')} | {_ranged(ao, '+')} | {told} |")
    return lines


Row = dict[str, Any]


def _pooled_rows(together: Scores, runs: Mapping[str, int], gains: Mapping[str, float]) -> list[Row]:
    """Of every name: its runs, numbers with intervals in percent, speed, and the mean refinement gain of its networks."""
    rows: list[Row] = []
    for one in together.trackers:
        row: Row = {"tracker": one.name, "runs": runs[one.name]}
        for rule, number in COLUMNS:
            value = one.numbers[rule, number]
            row[TITLES[number]] = _rounded(100 * value.value, 2)
            if (rule, number) in WITH_INTERVAL:
                row |= {f"{TITLES[number]} {end}": _rounded(100 * getattr(value, end), 2) for end in ("low", "high")}
        own = [gain for name, gain in gains.items() if name_of(name) == one.name]
        gain = float(np.mean(own)) if own else float("nan")
        rows.append(row | {"refinement gain": _rounded(gain, 4), "frames/s": _rounded(one.speed.median, 2)})
    return rows


def _rounded(value: float, digits: int) -> float | None:
    return round(value, digits) if np.isfinite(value) else None


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _pooled(rows: Sequence[Row], together: Scores) -> list[str]:
    """The table of all names."""
    heads = ["tracker", "runs", *(TITLES[name] for _, name in COLUMNS), "refinement gain", "frames/s"]
    lines = ["## Runs of one name together", "", f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for row, one in zip(rows, together.trackers, strict=True):
        gain = "-" if row["refinement gain"] is None else f"{row['refinement gain']:+.3f}"
        lines.append("| " + " | ".join([one.name, str(row["runs"]), *_numbers(one), gain, _rate(one.speed.median)]) + " |")
    return lines


def _matrix(together: Scores) -> list[str]:
    """AO of the tracker of a row less that of a column's."""
    names = [one.name for one in together.trackers]
    apart = pairs(together)
    lines = ["AO of the row less that of the column, paired by sequence; bold where the interval leaves out 0.", ""]
    lines += [f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for one in names:
        cells = [apart[one, other]["got10k", "ao"] if one != other else None for other in names]
        texts = ["" if cell is None else f"**{_ranged(cell, '+')}**" if cell.excludes_zero else _ranged(cell, "+") for cell in cells]
        lines.append(f"| {one} | {' | '.join(texts)} |")
    return lines


def _pairs_json(together: Scores) -> list[dict[str, Any]]:
    """Every difference, in shares of 1."""
    return [
        {"one": one, "other": other, **{f"{rule}.{number}": plain(value) for (rule, number), value in numbers.items()}}
        for (one, other), numbers in pairs(together).items()
    ]


def _pictures(answers: Answers, videos: VideoSet, scores: Scores, folder: Path) -> list[str]:
    """The plots, and film strips of the sequences in which the first tracker is worst."""
    lines = ["## Plots", "", *(f"![{name}](plots/{name}.png)" for name, *_ in plots.PLOTS), ""]
    first = scores.trackers[0]
    worst = [int(place) for place in np.argsort(np.nan_to_num(first.each, nan=np.inf), kind="stable")[:WORST]]
    by_name = {video.name: video for video in videos.videos}
    shown = list(answers)[:4]
    pictures = []
    for place in worst:
        name = scores.sequences[place]
        boxes = {tracker: answers[tracker][name].boxes for tracker in shown}
        pictures.append(strip(by_name[name], boxes, f"{name}: AO {100 * first.each[place]:.1f}"))
    _, content = cv2.imencode(".jpg", cv2.cvtColor(stacked(pictures), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    write_atomic(folder / "worst.jpg", content.tobytes())
    table = [f"| {scores.sequences[place]} | {100 * first.each[place]:.1f} |" for place in worst]
    return [*lines, f"## Where {first.name} is worst", "", "| sequence | AO |", "|---|---:|", *table, "", "![film strips](worst.jpg)"]
