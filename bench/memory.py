"""`python -m bench.memory --out FOLDER`: resident size of precompute and of training over many batches, as numbers and as a figure.

Each curve is a process of its own: small crops for thousands of batches, crops of 288 for fewer. All targets are cached.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from configs.cli import Parser, run, whole
from configs.errors import RunError
from configs.files import write_atomic
from configs.process import settle

EVERY_S = 0.5
Rows = list[tuple[int, float]]
"""(batches done, resident MB)"""


class Curve(NamedTuple):
    """One process that is watched; crops of `size` pixels."""

    size: int
    part: int
    pairs: int
    batch: int
    steps: int
    """of training after it; 0: precompute is watched"""
    teacher: str = "atom_resnet18tiny"

    @property
    def title(self) -> str:
        """For the figure."""
        what = f"training, {self.steps:,} steps" if self.steps else f"precompute, {self.pairs:,} pairs in parts of {self.part:,}"
        return f"{what} of batch {self.batch}, {self.size} px"

    def words(self, folder: Path) -> list[str]:
        """Overrides of the configuration."""
        sizes = [f"pairs.{image}.size={self.size}" for image in ("ref", "test")]
        networks = [
            f"teacher.architecture={self.teacher}",
            f"student.architecture={self.teacher}",
            f"teacher.weights={folder / 'teacher.st'}",
        ]
        budget = [f"train.batch={self.batch}", f"train.batches={max(self.steps, 1)}", "train.epochs=1", "train.log_every=10"]
        few = ["train.val_batches=1", "train.pictures=0", "train.check_pairs=0", "train.device=cpu", "train.compile=false", "recut_pairs=0"]
        places = [f"cache_dir={folder / 'caches'}", f"run_dir={folder / 'runs'}"]
        counts = [f"pairs.count={self.pairs}", f"pairs.val_count={self.batch}", "pairs.min_frames=8", f"teacher.batch={self.batch}"]
        return [*sizes, *networks, *budget, *few, *places, *counts]


def curves(small: int, pairs: int, steps: int) -> dict[str, Curve]:
    """small: batches of the small crops; pairs and steps: of those of 288."""
    return {
        "precompute, small": Curve(48, 256, 4 * small, 4, 0),
        "training, small": Curve(48, 256, 1024, 4, small),
        "precompute, 288": Curve(288, 1024, pairs, 16, 0, "atom_resnet18"),
        "training, 288": Curve(288, 1024, 64, 8, steps, "atom_resnet18medium"),
    }


def resident_mb() -> float:
    """Of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@contextmanager
def sampled(done: Callable[[], int], file: Path) -> Iterator[None]:
    """Watches this process and writes `Rows` in the end; done: batches so far."""
    rows: Rows = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(EVERY_S):
            if (batches := done()) and (not rows or rows[-1][0] != batches):
                rows.append((batches, round(resident_mb(), 1)))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        file.write_text(json.dumps(rows))


def watched(curve: Curve, folder: Path, file: Path) -> None:
    """What the process of a curve does."""
    settle()
    import torch

    import configs
    import models
    import precompute.request
    import train.run
    from cache import Cache
    from precompute.demo.generate import Request, generate
    from precompute.run import CacheMaker, here, make_caches

    os.environ |= {"DEMO_ROOT": str(folder / "video"), "TEACHONCE_INDEX": str(folder / "index")}
    precompute.request.PART, precompute.request.CHUNK = curve.part, min(64, curve.part)
    generate(folder / "video", Request(4, 1, 16, 0), 1)
    torch.manual_seed(0)
    models.save_weights(models.build(curve.teacher), folder / "teacher.st")
    config = configs.load("ts_ah_fid", ["dataset=demo", *curve.words(folder)])
    splits = ("train", "val") if curve.steps else ("train",)
    request = precompute.request.Request(config, "demo", splits, None if curve.steps else "all", device="cpu")
    if curve.steps:
        make_caches(request)
        metrics = folder / "runs" / "ts_ah_fid" / "seed0" / "metrics.jsonl"
        with sampled(lambda: 10 * metrics.read_text().count('"kind": "train"') if metrics.exists() else 0, file):
            train.run.run(config)
        return

    def engine(maker: CacheMaker, job, cache: Cache, lacking, claims, progress):  # type: ignore[no-untyped-def]
        maker.load(cache.chunk)
        with sampled(lambda: progress.done // curve.batch, file):
            return here(maker, job, cache, lacking, claims, progress)

    make_caches(request, engine)


def figure(found: dict[str, tuple[str, Rows]], file: Path) -> None:
    """A panel a curve."""
    from matplotlib.figure import Figure

    drawn = Figure((9, 5), layout="constrained")
    for axes, (title, rows) in zip(drawn.subplots(2, 2).flat, found.values(), strict=False):
        axes.plot([batches for batches, _ in rows], [size for _, size in rows], lw=1)
        axes.set(title=title, xlabel="batches", ylabel="resident MB", ylim=(0, 1.15 * max((size for _, size in rows), default=1)))
        axes.title.set_fontsize(8)
    drawn.savefig(file)


def main(arguments: Sequence[str], prog: str = "python -m bench.memory") -> int:
    """Runs the curves and writes memory.json and memory.svg; prints first, last and largest size of each."""
    options = parser(prog).parse_args(arguments)
    found: dict[str, tuple[str, Rows]] = {}
    options.out.mkdir(parents=True, exist_ok=True)
    for name, curve in curves(options.batches, options.pairs, options.steps).items():
        if options.only and name not in options.only:
            continue
        with tempfile.TemporaryDirectory(dir=options.out) as place:
            file = Path(place) / "rows"
            process = multiprocessing.get_context("spawn").Process(target=partial(watched, curve, Path(place), file))
            process.start()
            process.join()
            if process.exitcode or not file.exists():
                raise RunError(f"{name}: expected a process that ends well, found exit code {process.exitcode}; its own message says why")
            rows = json.loads(file.read_text())
        found[name] = (curve.title, rows)
        sizes = [size for _, size in rows]
        told = f"{sizes[len(sizes) // 10]:.1f} MB after a tenth, {sizes[-1]:.1f} MB in the end, at most {max(sizes):.1f} MB"
        print(f"{curve.title}: {told} ({len(sizes)} samples)")
        write_atomic(options.out / "memory.json", json.dumps(found))
    figure(found, options.out / "memory.svg")
    return 0


def parser(prog: str) -> Parser:
    """The options."""
    parser = Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for memory.json and memory.svg")
    parser.add_argument("--batches", type=whole, default=3000, help="of the small crops (default: 3000)")
    parser.add_argument("--pairs", type=whole, default=1024, help="that precompute makes at 288 pixels (default: 1024, a part)")
    parser.add_argument("--steps", type=whole, default=60, help="of training at 288 pixels (default: 60)")
    parser.add_argument("--only", nargs="+", choices=tuple(curves(1, 1, 1)), help="curves (default: all)")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
