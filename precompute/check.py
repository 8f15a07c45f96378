"""Looks a data set over before any work: reads all of its annotation anew and prints every problem with its file and line."""

from __future__ import annotations

import json
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
from pairs.frames import FrameError, read_frame
from precompute.datasets import Dataset, Problem, open_entry


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
    """The command line `python -m precompute check`; 0: no problem, 1: problems."""
    options = parser(prog).parse_args(arguments)
    if options.decode < -1 or options.most < 0:
        raise RequestError("--decode: expected -1 or more and --most: 0 or more, found less; correct them")
    pairs = load(options.setting, options.overrides).pairs
    reports = []
    for split in (options.split,) if options.split else ("train", "val"):
        for name in members(options.dataset, split):
            entry = dataset_entry(name)
            if options.split or split in entry:
                reports.append(look(name, entry, split, pairs, options.decode, shown=not options.json))
    if options.json:
        print(json.dumps(reports, indent=1))
    else:
        for report in reports:
            print("\n".join(report_lines(report, options.most)))
    return int(any(report["problems"] for report in reports))


def look(name: str, entry: dict[str, Any], split: str, pairs: PairsConfig, decode: int = 0, *, shown: bool = False) -> dict[str, Any]:
    """What one split holds and every problem of it: the JSON form.

    decode: frames a sequence that are read too, spread evenly; -1: all. RequestError: the entry itself is wrong, or its root is missing.
    """
    dataset = open_entry(name, entry, split, fresh=True, faulty=True)
    problems = list(dataset.problems)
    usable = 0
    try:
        usable = len(dataset.usable(pairs))
    except RequestError as error:
        # of no use without a sequence; where a list is missing, that is said already
        if dataset.sequences or not problems:
            problems.append(Problem(dataset.root, 0, str(error)))
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
        "content_sha256": dataset.content_hash,
        "problems": [problem._asdict() for problem in problems],
    }


def report_lines(report: dict[str, Any], most: int) -> list[str]:
    """The report as lines, at most `most` problems (0: all)."""
    sequences, frames = report["sequences"] + report["faulty"], report["frames"]
    share = f"{100 * report['usable'] / sequences:.1f} %" if sequences else "none"
    seen = f"{100 * report['visible'] / frames:.1f} %" if frames else "none"
    problems = [Problem(**problem) for problem in report["problems"]]
    lines = [
        f"{report['dataset']} ({report['split']}), {report['kind']} at {report['root']}",
        f"  {sequences:,} sequences, {report['usable']:,} usable ({share}), {frames:,} frames, {seen} visible",
        *(f"  {problem}" for problem in problems[: most or None]),
    ]
    hidden = len(problems) - (most or len(problems))
    if hidden > 0:
        lines.append(f"  and {hidden:,} more (--most 0 shows all)")
    lines.append(f"  {len(problems):,} problem{'' if len(problems) == 1 else 's'}")
    return lines


def _unreadable(dataset: Dataset, decode: int, shown: bool) -> list[Problem]:
    """Frames that cannot be read."""
    paths: dict[Path, None] = {}
    for sequence, length in enumerate(dataset.lengths.tolist()):
        chosen = range(length) if decode < 0 else np.unique(np.linspace(0, length - 1, min(decode, length)).astype(int)).tolist()
        # a dict: the annotations of an image share its file
        paths.update((dataset.frame_path(sequence, frame), None) for frame in chosen)

    def read(path: Path) -> list[Problem]:
        try:
            read_frame(path)
        except FrameError as error:
            return [Problem(str(path), 0, str(error))]
        return []

    problems = []
    with ProgressBar("frames", len(paths), "frame", shown=shown) as progress, ThreadPoolExecutor(processors()) as pool:
        for faults in pool.map(read, paths):
            progress.add(1)
            problems += faults
    return problems
