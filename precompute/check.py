"""Looks data sets and this machine over before any work: reads all annotation anew and prints every problem with its file and line."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from configs.catalog import dataset_entry, members
from configs.cli import Parser
from configs.errors import RequestError
from configs.load import load
from configs.machine import processors
from configs.progress import ProgressBar
from configs.schema import PairsConfig
from pairs.annotation import real
from pairs.frames import FrameError
from precompute.datasets import Dataset, Problem, open_entry
from precompute.environment import environment

_LOOKED_AT = 256  # sequences a split whose first frame is read
_WARNINGS = {
    "faulty_frames": "frames with a faulty label; they count as invisible",
    "negative": "frames with a box of negative width or height; they count as invisible: boxes are x,y,w,h",
    "outside": "frames with a box that lies outside its frame; boxes are x,y,w,h in pixels: compare them with the frames",
    "subpixel": "frames with a box below one pixel; they count as invisible",
    "corners": "frames with a box that leaves its frame as one of x1,y1,x2,y2 does; boxes are x,y,w,h: convert them",
}


def parser(prog: str) -> Parser:
    """The options of `main`; prog: what the user has typed before them."""
    options = Parser(prog=prog, description=__doc__)
    options.add_argument("dataset", help="names of configs/datasets.yaml, separated by spaces")
    options.add_argument("--split", choices=("train", "val"), help="look at one split only (default: those of the entry)")
    options.add_argument("--decode", type=int, default=0, metavar="N", help="read N frames a sequence as well, -1: all (default: 0)")
    options.add_argument("--most", type=int, default=20, metavar="N", help="problems printed a split, 0: all (default: 20)")
    options.add_argument("--setting", default="gt", help="setting whose pairs.* say what is usable (default: gt)")
    options.add_argument("--json", action="store_true", help="print JSON, with all problems")
    options.add_overrides("overrides of the setting, e.g. pairs.min_frames=10")
    return options


def main(arguments: Sequence[str], prog: str = "python -m precompute check") -> int:
    """The command line `python -m precompute check`; 0: no problem, 1: problems, 2: an entry that cannot be opened."""
    options = parser(prog).parse_args(arguments)
    if options.decode < -1 or options.most < 0:
        raise RequestError("--decode: expected -1 or more and --most: 0 or more, found less; correct them")
    config = load(options.setting, options.overrides)
    reports, refused = [], False
    for split in (options.split,) if options.split else ("train", "val"):
        for name in members(options.dataset, split):
            try:
                entry = dataset_entry(name)
                if options.split or split in entry:
                    reports.append(look(name, entry, split, config.pairs, options.decode, shown=not options.json))
            # the other data sets are looked at all the same
            except RequestError as error:
                refused = True
                problem = Problem(os.environ.get("DATASETS") or "configs/datasets.yaml", 0, str(error))
                reports.append({"dataset": name, "split": split, "problems": [problem._asdict()]})
    machine = environment(config.cache_dir)
    if options.json:
        print(json.dumps({"data": reports, "environment": machine}, indent=1))
    else:
        lines = [line for report in reports for line in report_lines(report, options.most)]
        print("\n".join([*lines, *environment_lines(machine)]))
    return 2 if refused else int(any(report["problems"] for report in (*reports, machine)))


def look(name: str, entry: dict[str, Any], split: str, pairs: PairsConfig, decode: int = 0, *, shown: bool = False) -> dict[str, Any]:
    """What one split holds and every problem of it: the JSON form.

    decode: frames a sequence that are read too, spread evenly; -1: all. RequestError: the entry itself is wrong, or its root is missing.
    """
    dataset = open_entry(name, entry, split, fresh=True, faulty=True)
    problems = [*dataset.problems, *dataset.faulty_frames]
    usable = 0
    try:
        usable = len(dataset.usable(pairs))
    except RequestError as error:
        # of no use without a sequence; where a list is missing, that is said already
        if dataset.sequences or not problems:
            problems.append(Problem(dataset.root, 0, str(error)))
    odd = odd_boxes(dataset)
    if decode:
        problems += _unreadable(dataset, decode, shown)
    return {
        "dataset": name,
        "split": split,
        "kind": dataset.kind,
        "root": dataset.root,
        "sequences": len(dataset.sequences),
        "faulty": dataset.dropped,
        "usable": usable,
        "frames": len(dataset.boxes),
        "visible": int(dataset.visible.sum()),
        "faulty_frames": len(dataset.faulty_frames),
        **{kind: len(rows) for kind, rows in odd.items()},
        "first": {kind: _place(dataset, rows[0]) for kind, rows in odd.items() if len(rows)},
        "content_sha256": dataset.content_hash,
        "problems": [problem._asdict() for problem in problems],
    }


def report_lines(report: dict[str, Any], most: int) -> list[str]:
    """The report as lines, at most `most` problems (0: all)."""
    problems = [Problem(**problem) for problem in report["problems"]]
    if "sequences" not in report:
        return [f"{report['dataset']} ({report['split']})", *(f"  {problem}" for problem in problems), _count(problems)]
    sequences, frames = report["sequences"] + report["faulty"], report["frames"]
    share = f"{100 * report['usable'] / sequences:.1f} %" if sequences else "none"
    seen = f"{100 * report['visible'] / frames:.1f} %" if frames else "none"
    lines = [
        f"{report['dataset']} ({report['split']}), {report['kind']} at {report['root']}",
        f"  {sequences:,} sequences, {report['usable']:,} usable ({share}), {frames:,} frames, {seen} visible",
        *(f"  warning: {report[key]:,} {text}{_first(report, key)}" for key, text in _WARNINGS.items() if report[key]),
        *(f"  {problem}" for problem in problems[: most or None]),
    ]
    hidden = len(problems) - (most or len(problems))
    if hidden > 0:
        lines.append(f"  and {hidden:,} more (--most 0 shows all)")
    return [*lines, _count(problems)]


def _first(report: dict[str, Any], kind: str) -> str:
    place = report["first"].get(kind)
    return f" (first: {place['sequence']}, line {place['line']})" if place else ""


def _place(dataset: Dataset, row: int) -> dict[str, Any]:
    """Sequence and line (from 1) of a row of the boxes; with one line a frame its number is that of the frame."""
    sequence = int(np.searchsorted(dataset.offsets, row, side="right")) - 1
    return {"sequence": dataset.sequences[sequence], "line": int(row - dataset.offsets[sequence]) + 1}


def environment_lines(machine: dict[str, Any]) -> list[str]:
    """What `environment` gives, as lines."""
    problems = [Problem(**problem) for problem in machine["problems"]]
    facts = [f"  {name}: {fact}" for name, fact in machine["facts"].items()]
    return ["this machine", *facts, *(f"  {problem}" for problem in problems), _count(problems)]


def _count(problems: Sequence[Problem]) -> str:
    return f"  {len(problems):,} problem{'' if len(problems) == 1 else 's'}"


def odd_boxes(dataset: Dataset) -> dict[str, np.ndarray]:
    """Rows of boxes that are none that anybody meant: of less than a pixel, of negative size, corners, outside; (n,) ascending each.

    corners: like x1,y1,x2,y2 read as x,y,w,h; outside: beyond their frame; both in up to `_LOOKED_AT` sequences.
    A box of corners leaves its frame though its second pair of numbers is a point in it, right of and below the first. Boxes of
    targets at the border do so too, so a sequence counts where more than half of its visible frames are such. The first frame gives the
    size.
    """
    corners, outside = [np.empty(0, int)], [np.empty(0, int)]
    for sequence in np.unique(np.linspace(0, len(dataset.sequences) - 1, min(_LOOKED_AT, len(dataset.sequences))).astype(int)).tolist():
        rows = np.arange(dataset.offsets[sequence], dataset.offsets[sequence + 1])
        rows = rows[dataset.visible[rows]]
        x, y, w, h = dataset.boxes[rows].T
        try:
            height, width = dataset.files.load(sequence, 0).shape[:2]
        except FrameError:
            continue
        of_corners = (w > x) & (h > y) & (w <= width) & (h <= height) & ((x + w > width + 1) | (y + h > height + 1))
        corners.append(rows[of_corners & (2 * of_corners.sum() > len(x))])
        outside.append(rows[(x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0)])
    sides = dataset.boxes[:, 2:]
    return {
        "subpixel": np.flatnonzero((sides > 0).all(axis=1) & ~real(dataset.boxes)),
        "negative": np.flatnonzero((sides < 0).any(axis=1)),
        "corners": np.concatenate(corners),
        "outside": np.concatenate(outside),
    }


def _unreadable(dataset: Dataset, decode: int, shown: bool) -> list[Problem]:
    """Frames that cannot be read."""
    paths: dict[Path, tuple[int, int]] = {}
    for sequence, length in enumerate(dataset.lengths.tolist()):
        chosen = range(length) if decode < 0 else np.unique(np.linspace(0, length - 1, min(decode, length)).astype(int)).tolist()
        # a dict: the annotations of an image share its file
        paths.update((dataset.frame_path(sequence, frame), (sequence, frame)) for frame in chosen)

    def read(path: Path) -> list[Problem]:
        try:
            dataset.files.load(*paths[path])
        except FrameError as error:
            return [Problem(str(path), 0, str(error))]
        return []

    problems = []
    with ProgressBar("frames", len(paths), "frame", shown=shown) as progress, ThreadPoolExecutor(processors()) as pool:
        for faults in pool.map(read, paths):
            progress.add(1)
            problems += faults
    return problems
