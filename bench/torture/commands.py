"""Commands that are killed at random (precompute, growth of a cache, export, training) and run again until they end by themselves.

What is left at the end is compared, byte by byte, with what the same commands leave that nobody kills.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import configs
import models
import precompute.request
import precompute.run
import train.checkpoint
from bench.torture.caches import tree
from bench.torture.damage import Counts, damaged
from bench.torture.processes import KILLED, STOPPED, ended, started
from cache import Cache
from cache.export import export
from cache.verify import verify
from configs import Config, RunError
from models.tracker import build
from precompute.demo.generate import Request, generate
from train.log import read_metrics
from train.reports import run_folder
from train.run import run

TINY = "atom_resnet18tiny"
FIRST, ALL = "iou", "iou abs_sum features"
"""Targets of the cache that grows, before and after."""
OVERRIDES = [
    "dataset=demo",
    *(f"pairs.{image}.size=48" for image in ("ref", "test")),
    *("pairs.proposals=4", "pairs.count=24", "pairs.val_count=4", "pairs.min_frames=8", "recut_pairs=4"),
    *(f"{network}.architecture={TINY}" for network in ("student", "teacher")),
    *("teacher.batch=8", "train.feed=torch", "train.feed_threads=1", "train.device=cpu", "train.batch=4", "train.batches=5"),
    *("train.epochs=2", "train.val_batches=1", "train.val_every=1", "train.log_every=2", "train.pictures=2", "train.check_pairs=0"),
    "train.checkpoint_minutes=0.0001",
]
TIMES = ("pairs_per_s", "wait_share")
"""Of a line of metrics.jsonl: what no two runs share."""


@dataclass(frozen=True)
class Workshop:
    """A folder with video and weights; what the commands made of them in peace lies in `folder / "peace"`."""

    folder: Path

    def config(self, place: Path) -> Config:
        """Of a cache and a run below `place`."""
        words = [f"cache_dir={place / 'caches'}", f"run_dir={place / 'runs'}", f"teacher.weights={self.folder / 'teacher.safetensors'}"]
        return configs.load("ts_ah_fid", [*OVERRIDES, *words])


def workshop(folder: Path, stage: str) -> Workshop:
    """The one in a folder, with all that a stage needs: what lacks is made by a process of its own."""
    shop = Workshop(folder)
    folder.mkdir(exist_ok=True)
    for name in dict.fromkeys(("precompute", stage)):
        if not (folder / "peace" / name).exists() and _wait(started(folder / "log", prepare, shop, name)):
            raise RunError(f"torture: expected commands that end well in peace, found {(folder / 'log').read_text()[-2000:]!r}; mend them")
    return shop


def prepare(shop: Workshop, stage: str) -> None:
    """Video, weights, and what the commands of a stage make of them in peace."""
    _settle(shop)
    if not (shop.folder / "video").exists():
        generate(shop.folder / "video", Request(2, 1, 12, 0), 1)
        torch.manual_seed(0)
        models.save_weights(build(TINY), shop.folder / "teacher.safetensors")
    place = shop.folder / "peace" / stage
    place.mkdir(parents=True)
    begin(shop, stage, place)
    STAGES[stage](shop, place)


def _settle(shop: Workshop) -> None:
    """What every process of the workshop needs."""
    torch.set_num_threads(1)
    os.environ |= {"DEMO_ROOT": str(shop.folder / "video"), "TEACHONCE_INDEX": str(shop.folder / "index")}
    precompute.request.PART, precompute.request.CHUNK = 8, 4


def fill(shop: Workshop, place: Path, targets: str = ALL) -> None:
    """`make cache`."""
    precompute.run.make_caches(precompute.request.Request(shop.config(place), "demo", ("train", "val"), targets, device="cpu", threads=2))


def copies(shop: Workshop, place: Path) -> None:
    """`cache export`, to a directory and to a file."""
    cache = Cache.open(_cache(place))
    for name in ("copy", "copy.h5"):
        export(cache, place / name)


def trains(shop: Workshop, place: Path) -> None:
    """`make train`."""
    run(shop.config(place))


STAGES: dict[str, Callable[[Workshop, Path], None]] = {"precompute": fill, "growth": fill, "export": copies, "training": trains}
"""Kind of command -> what it does."""


def begin(shop: Workshop, stage: str, place: Path) -> None:
    """What a stage starts from."""
    if stage == "growth":
        fill(shop, place, FIRST)
    elif stage != "precompute":
        shutil.copytree(shop.folder / "peace" / "precompute" / "caches", place / "caches")


def _cache(place: Path) -> Path:
    return next((place / "caches").glob("demo-train-*"))


def attempt(stage: str, shop: Workshop, place: Path) -> None:
    """One process of a stage."""
    _settle(shop)
    STAGES[stage](shop, place)


def killed(stage: str, shop: Workshop, seed: int) -> Counts:
    """Kills the processes of a stage, from one to three that work at once where they can, until one ends by itself; every third time ends
    them by SIGTERM instead, after which nothing may be left.

    different: files that are not those of peace, and remains; left: remains of a process that could clean up; failed: processes that ended
    badly, or not.
    """
    rng, log = random.Random(seed), shop.folder / f"{stage}.log"
    place, done, counts, codes, kill = shop.folder / f"{stage}{seed}", Counter[str](), Counter(left=0, failed=0), [KILLED], seed % 3 != 2
    place.mkdir()
    _wait(started(log, begin_there, stage, shop, place))
    began = time.monotonic()
    while 0 not in codes and not counts["failed"]:
        children = [started(log, attempt, stage, shop, place) for _ in range(rng.randint(1, 3) if STAGES[stage] is fill else 1)]
        for child in children:
            child.join(rng.uniform(0.0, 2.5 if time.monotonic() - began < 30 else 30))
            counts["failed"] += not ended(child, kill)
        codes = [child.exitcode or 0 for child in children]
        done["tried"] += codes.count(KILLED)
        done["stopped"] += sum(code in STOPPED for code in codes)
        counts["failed"] += sum(code not in (0, KILLED, *STOPPED) for code in codes)
        counts["left"] += 0 if kill else len(remains(place))
    counts["failed"] += _wait(started(log, attempt, stage, shop, place)) != 0
    if counts["failed"]:
        print(log.read_text()[-3000:], file=sys.stderr)
    found = differences(stage, shop.folder / "peace" / stage, place)
    for what in found:
        print(f"{stage}, seed {seed}: {what}", file=sys.stderr)
    shutil.rmtree(place)
    return {"tried": done["tried"], "stopped": done["stopped"], "different": len(found), **counts}


def remains(place: Path) -> list[str]:
    """What only a killed process may leave: temporary files, and claims."""
    return [str(path) for path in place.rglob("*") if ".tmp" in path.name or path.parent.name == "claims"]


def begin_there(stage: str, shop: Workshop, place: Path) -> None:
    """`begin` in a process of the workshop."""
    _settle(shop)
    begin(shop, stage, place)


def _wait(process: Any) -> int:
    process.join(300)
    return int(process.exitcode if process.exitcode is not None else 1)


def differences(stage: str, peace: Path, place: Path) -> list[str]:
    """Where what a stage left differs from what it leaves in peace."""
    if stage == "training":
        return run_differences(*(next((folder / "runs").glob("*/*")) for folder in (peace, place)))
    before, now = ({key: text for key, text in tree(folder).items() if "/history/" not in key} for folder in (peace, place))
    found = [key for key in before.keys() | now.keys() if before.get(key) != now.get(key)]
    return found + [fault.line() for path in (place / "caches").iterdir() for fault in verify(Cache.open(path))]


def run_differences(alone: Path, other: Path) -> list[str]:
    """Where the folders of two runs of one configuration differ in more than times, and what a kill has left."""
    found = [path.name for path in other.rglob(".*.tmp")]
    found += [name for name in (run_folder.STUDENT, run_folder.SECOND) if _bytes(alone / name) != _bytes(other / name)]
    if [_lasting(line) for line in read_metrics(alone)] != [_lasting(line) for line in read_metrics(other)]:
        found.append("metrics.jsonl")
    here, there = (run_folder.result_of(folder) or {} for folder in (alone, other))
    return found + [f"{run_folder.RESULT}: {key}" for key in ("steps", "before", "after") if here.get(key) != there.get(key)]


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _lasting(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in TIMES}


def damage_checkpoint(shop: Workshop, tries: int, seed: int) -> Counts:
    """Damages the checkpoint of the run of peace `tries` times: the one before must be read in its place, or nothing.

    used: read although it differs; foreign: exceptions that are not the project's own.
    """
    rng, counts = random.Random(seed), {"used": 0, "foreign": 0}
    source, folder = next((shop.folder / "peace" / "training" / "runs").glob("*/*")), shop.folder / "checkpoint"
    folder.mkdir(exist_ok=True)
    whole = (source / train.checkpoint.FILE).read_bytes()
    for _ in range(tries):
        (folder / train.checkpoint.FILE).write_bytes(damaged(whole, rng))
        try:
            if rng.random() < 0.5:
                shutil.copy(source / train.checkpoint.PREVIOUS, folder)
            found = train.checkpoint.load(folder)
            counts["used"] += found is None or found.path.name == train.checkpoint.FILE
        except RunError:
            pass
        except Exception as error:
            counts["foreign"] += 1
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        (folder / train.checkpoint.PREVIOUS).unlink(missing_ok=True)
    return {"tried": tries, **counts}
