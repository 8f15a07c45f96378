"""`make torture`: caches and runs that are damaged and killed must come out byte by byte as those made in peace.

cache, checkpoint      flips and truncations anywhere: found, never read as numbers; a cache is mended
precompute, growth,    the commands, one to three processes at once, killed or stopped (SIGTERM) at random and run again
export, training
workers, none killed   processes that share a cache on the disk (and, with --bucket, in a bucket): how often a part is made
workers, killed        the same, killed at random while they join and write

Every result is a line of the file --log, and the table sums up its lines: with --minutes it stops, and the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.torture.caches import tree
from bench.torture.damage import Counts, damage_cache
from bench.torture.shared import shared, worker
from cache.address import location
from cache.backends import open_place
from configs.cli import Parser, run

SLICE = 50
"""Damages at a time."""
NO_FAULT = ("tried", "stopped", "made", "of", "caches")
"""Counts that may be anything."""


class Stage(NamedTuple):
    """One kind of torture: what is counted, how often it is wanted, and what does some of it (with a seed)."""

    name: str
    what: str
    wanted: int
    step: Callable[[Path, int], Counts]


def stages(options: argparse.Namespace, folder: Path) -> list[Stage]:
    """All that the options ask for; `folder` is for what they need in common."""

    def command(name: str, place: Path, seed: int) -> Counts:
        from bench.torture import commands  # brings torch

        return commands.killed(name, commands.workshop(folder / "shop", name), seed)

    def checkpoint(place: Path, seed: int) -> Counts:
        from bench.torture import commands

        return commands.damage_checkpoint(commands.workshop(folder / "shop", "training"), SLICE, seed)

    def share(root: str, kills: int, place: Path, seed: int) -> Counts:
        worker(folder / "peace", folder / "nobody")
        path = location(root) / f"torture-{random.SystemRandom().getrandbits(32):08x}" if root else place / "shared"
        counts = shared(path, place, tree(folder / "peace"), options.workers, kills, seed)
        if root:
            open_place(path).drop_tree("")
        return counts | {"caches": 1} | ({} if kills else {"tried": 1})

    def damaged(place: Path, seed: int) -> Counts:
        return damage_cache(place, SLICE, seed)

    found = [Stage("cache", "damages", options.damages // 2, damaged), Stage("checkpoint", "damages", options.damages // 2, checkpoint)]
    kinds = ("precompute", "growth", "export", "training")
    found += [Stage(name, "kills", options.kills // len(kinds), partial(command, name)) for name in kinds]
    for root in ("", *([options.bucket] if options.bucket else [])):
        name = f"{options.workers} workers, {'bucket' if root else 'disk'}"
        found.append(Stage(f"{name}, none killed", "caches", options.caches, partial(share, root, 0)))
        found.append(Stage(f"{name}, killed", "kills", options.kills, partial(share, root, options.workers * 2)))
    return found


def main(arguments: Sequence[str], prog: str = "python -m bench.torture") -> int:
    """Prints the table; 1 if anything was missed, lost or left, or if something is left to do."""
    options = parser(prog).parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = options.log or folder / "log"
        log.touch()
        everything = stages(options, folder)
        while (left := lacking(everything, log)) and time.monotonic() - began < options.minutes * 60:
            for stage in left:  # in turns, so that a slice has some of each
                one_step(stage, folder, log, options.seed)
        print("\n".join(table(everything, told(log))))
        if left:
            print(f"not all is done: the same command goes on (--log {log})", file=sys.stderr)
        return int(bool(left) or any(faults(counts) for counts in told(log).values()))


def lacking(stages: Sequence[Stage], log: Path) -> list[Stage]:
    """The stages of which the log has not enough."""
    return [stage for stage in stages if told(log)[stage.name]["tried"] < stage.wanted]


def one_step(stage: Stage, folder: Path, log: Path, seed: int) -> None:
    """Does some of a stage and writes down what came of it."""
    place, seed = folder / "step", seed + 1000 * told(log)[stage.name]["steps"]
    place.mkdir()
    counts = stage.step(place, seed)
    shutil.rmtree(place)
    with open(log, "a") as stream:
        stream.write(json.dumps({"name": stage.name, "seed": seed, **counts}) + "\n")


def told(log: Path) -> dict[str, Counter[str]]:
    """What a log says, by name of the stage; steps: its lines."""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for line in map(json.loads, log.read_text().splitlines()):
        sums[line["name"]] += Counter({key: value for key, value in line.items() if key not in ("name", "seed")} | {"steps": 1})
    return sums


def faults(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts that should be none."""
    return {key: value for key, value in counts.items() if key not in (*NO_FAULT, "steps") and value}


def table(stages: Sequence[Stage], sums: dict[str, Counter[str]]) -> list[str]:
    """Rows of Markdown."""
    rows = ["| what | tried | wrong | parts made for each there is |", "|---|---|---|---|"]
    for stage in stages:
        counts = sums[stage.name]
        often = f"{counts['made'] / counts['of']:.2f} of {counts['of']:,}" if counts["of"] else ""
        wrong = ", ".join(f"{value} {key}" for key, value in faults(counts).items()) or "0"
        stops = f", {counts['stopped']:,} stops" if counts["stopped"] else ""
        rows.append(f"| {stage.name} | {counts['tried']:,} {stage.what}{stops} | {wrong} | {often} |")
    return rows


def parser(prog: str) -> Parser:
    """The options."""
    parser = Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", type=int, default=2000, help="flips and truncations, half of them of a checkpoint (default: 2000)")
    parser.add_argument("--kills", type=int, default=200, help="kills of commands, and of workers a place (default: 200)")
    parser.add_argument("--workers", type=int, default=8, help="processes that share a cache (default: 8)")
    parser.add_argument("--caches", type=int, default=10, help="caches that workers share of whom none is killed (default: 10)")
    parser.add_argument("--bucket", metavar="s3://BUCKET/PREFIX", help="share caches there too")
    parser.add_argument("--log", type=Path, metavar="FILE", help="where results are kept, a line each; those that are there count")
    parser.add_argument("--minutes", type=float, default=1e9, help="when to stop, between two slices")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
