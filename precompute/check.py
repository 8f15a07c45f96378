"""Looks a data set over before any work: reads all of its annotation anew and prints every problem with its file and line."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from configs.cli import Parser
from configs.errors import RequestError
from configs.load import dataset_entry, load
from configs.progress import Progress
from configs.schema import Pairs
from precompute.crops import FrameError, read_frame
from precompute.datasets import Dataset, Problem, open_entry


def main(arguments: Sequence[str]) -> int:
    """The command line `python -m precompute check`; 0: no problem, 1: problems."""
    parser = Parser(prog="python -m precompute check", description=__doc__)
    parser.add_argument("dataset", help="a name of configs/datasets.yaml")
    parser.add_argument("--split", choices=("train", "val"), help="look at one split only (default: those of the entry)")
    parser.add_argument("--decode", type=int, default=0, metavar="N", help="read N frames a sequence as well, -1: all (default: 0)")
    parser.add_argument("--most", type=int, default=20, metavar="N", help="problems printed a split, 0: all (default: 20)")
    parser.add_argument("--setting", default="gt", help="setting whose pairs.* say what is usable (default: gt)")
    parser.add_argument("--json", action="store_true", help="print JSON, with all problems")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the setting, e.g. pairs.min_frames=10")
    # intermixed: overrides may follow options
    options = parser.parse_intermixed_args(arguments)
    if options.decode < -1 or options.most < 0:
        raise RequestError("--decode: expected -1 or more and --most: 0 or more, found less; correct them")
    pairs = load(options.setting, options.overrides).pairs
    entry = dataset_entry(options.dataset)
    splits = [options.split] if options.split else [split for split in ("train", "val") if split in entry]
    reports = [look(options.dataset, entry, split, pairs, options.decode, shown=not options.json) for split in splits]
    if options.json:
        print(json.dumps(reports, indent=1))
    else:
        for report in reports:
            print("\n".join(describe(report, options.most)))
    return int(any(report["problems"] for report in reports))


def look(name: str, entry: dict[str, Any], split: str, pairs: Pairs, decode: int = 0, *, shown: bool = False) -> dict[str, Any]:
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
        "problems": [asdict(problem) for problem in problems],
    }


def describe(report: dict[str, Any], most: int) -> list[str]:
    """The report as lines, at most `most` problems (0: all)."""
    sequences, frames = report["sequences"] + report["faulty"], report["frames"]
    share = f"{100 * report['usable'] / sequences:.1f} %" if sequences else "none"
    seen = f"{100 * report['visible'] / frames:.1f} %" if frames else "none"
    lines = [f"{report['dataset']} ({report['split']}), {report['kind']} at {report['root']}"]
    lines.append(f"  {sequences:,} sequences, {report['usable']:,} usable ({share}), {frames:,} frames, {seen} visible")
    problems = [Problem(**problem) for problem in report["problems"]]
    lines += [f"  {problem}" for problem in problems[: most or None]]
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

    def read(path: Path) -> Problem | None:
        try:
            read_frame(path)
        except FrameError as error:
            return Problem(str(path), 0, str(error))
        return None

    problems = []
    with Progress("frames", len(paths), "frame", shown=shown) as progress, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for problem in pool.map(read, paths):
            progress.add(1)
            problems += [problem] if problem else []
    return problems
