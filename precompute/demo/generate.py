"""Generates the demonstration data: a small seeded tracking data set in GOT-10k layout, of which every pixel is computed.

Sequence i of a split is a pure function of (seed, split, i, frames): neither the count of jobs nor that of sequences changes its bytes.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from configs.cli import Parser
from configs.errors import RequestError
from configs.files import write_atomic
from configs.machine import processors, require_place
from configs.progress import ProgressBar
from configs.stop import unseen_by_children
from pairs.crops import encode
from precompute.demo.scene import Annotation, Scene

# raised whenever the same parameters give other bytes
VERSION = 1
MARKER = "demo.json"
QUALITY = 90
# a split's place here is the number of its random stream
_NAMES = {"train": "GOT-10k_Train_{:06d}", "val": "GOT-10k_Val_{:06d}", "test": "GOT-10k_Test_{:06d}"}


class Request(NamedTuple):
    """What to generate: sequences of each split, frames a sequence, seed, and how far the written frames of a scene are apart."""

    train: int
    val: int
    frames: int
    seed: int
    test: int = 0
    every: int = 1

    @property
    def splits(self) -> dict[str, int]:
        """Split -> its sequences, of those that have any."""
        counts = {"train": self.train, "val": self.val, "test": self.test}
        return {split: count for split, count in counts.items() if count}


KINDS = {"demo": Request(train=48, val=12, frames=40, seed=0), "eval": Request(train=0, val=0, test=32, frames=120, seed=0)}
"""What to generate by name. In 120 frames a target goes as far as in 40 of the demo: a third of the motion a frame."""
_COUNTS = {"train": "training sequences", "val": "validation sequences", "test": "evaluation sequences", "frames": "frames a sequence"}


def parser(prog: str) -> Parser:
    """The options of `main`; prog: what the user has typed before them."""
    options = Parser(prog=prog, description=__doc__)
    options.add_argument("--out", type=Path, default=Path("data/demo"), help="folder to fill (default: data/demo)")
    options.add_argument(
        "--kind", choices=tuple(KINDS), default="demo", help="eval: a test split alone, to evaluate trackers on (default: demo)"
    )
    for name, what in _COUNTS.items():
        values = ", ".join(f"{kind} {getattr(request, name)}" for kind, request in KINDS.items())
        options.add_argument(f"--{name}", type=int, help=f"{what} (default: {values})")
    options.add_argument("--seed", type=int, default=0, help="other seed, other data (default: 0)")
    options.add_argument("--every", type=int, default=1, help="write each n-th frame of a scene: larger motion between frames (default: 1)")
    options.add_argument("--jobs", type=int, default=0, help="processes (default: one a processor)")
    return options


def main(arguments: Sequence[str], prog: str = "python -m precompute demo-data") -> int:
    """The command line `python -m precompute demo-data`."""
    options = parser(prog).parse_args(arguments)
    given = {name: value for name in Request._fields if (value := getattr(options, name)) is not None}
    least = {"frames": 2, "every": 1}
    for name, value in (given | {"jobs": options.jobs}).items():
        if value < least.get(name, 0):
            raise RequestError(f"--{name}: expected a number of at least {least.get(name, 0)}, found {value}; correct it")
    request = KINDS[options.kind]._replace(**given)
    if not request.splits:
        raise RequestError("expected sequences to generate, found --train, --val and --test of 0; raise one of them")
    made = generate(options.out, request, options.jobs or processors())
    counts = " + ".join(map(str, request.splits.values()))
    print(f"{options.out}: {counts} sequences of {request.frames} frames, {'made' if made else 'already there'}")
    return 0


def generate(out: Path, request: Request, jobs: int = 1) -> bool:
    """Fills `out`; a complete data set of the same parameters is left alone (returns False), a partial or other one is made anew.

    RequestError: `out` holds files that this generator has not made.
    """
    parameters = {"version": VERSION, **request._asdict()}
    marker = out / MARKER
    # a marker of before a field was there stands for its default
    if {**Request._field_defaults, **_read_marker(out)} == {**parameters, "complete": True}:
        return False
    require_place(out, "--out")
    # the marker comes first and is completed last: a killed run is known as ours, and as partial
    write_atomic(marker, json.dumps({**parameters, "complete": False}) + "\n")
    work = []
    for folder in filter(Path.exists, (out / split for split in _NAMES)):
        shutil.rmtree(folder)
    for split, count in request.splits.items():
        folder, names = out / split, [_NAMES[split].format(index + 1) for index in range(count)]
        folder.mkdir(parents=True)
        (folder / "list.txt").write_text("".join(f"{name}\n" for name in names))
        work += [(folder / name, split, index, request) for index, name in enumerate(names)]
    with ProgressBar("demo data", len(work), "sequence") as progress:
        for _ in _write_all(work, min(jobs, len(work))):
            progress.add(1)
    write_atomic(marker, json.dumps({**parameters, "complete": True}) + "\n")
    return True


def _read_marker(out: Path) -> dict[str, Any]:
    """What the marker of an earlier run says; empty for a folder that is missing or empty."""
    try:
        marker = json.loads((out / MARKER).read_text())
    except (FileNotFoundError, NotADirectoryError):
        if out.is_dir() and any(out.iterdir()):
            raise RequestError(
                f"--out: expected an empty folder or one made by demo-data, found other files in {out}; choose another folder"
            ) from None
        return {}
    except ValueError:
        marker = None
    if not isinstance(marker, dict):
        raise RequestError(f"--out: expected {out / MARKER} as demo-data wrote it, found other text; choose another folder")
    return marker


def _write_all(work: list[tuple[Path, str, int, Request]], jobs: int) -> Iterator[None]:
    """Writes every sequence, yielding as each is done."""
    if jobs <= 1:
        for sequence in work:
            write_sequence(*sequence)
            yield
        return
    # spawn: a forked process would inherit the locks of OpenCV's and torch's threads
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))
    try:
        with unseen_by_children():
            futures = [pool.submit(write_sequence, *sequence) for sequence in work]
        for future in as_completed(futures):
            future.result()
            yield
    finally:
        pool.shutdown(cancel_futures=True)


def write_sequence(folder: Path, split: str, index: int, request: Request) -> None:
    """Renders sequence `index` of a split into `folder`."""
    threads = cv2.getNumThreads()
    # the processes are the parallelism
    cv2.setNumThreads(1)
    try:
        scene = Scene(np.random.default_rng([request.seed, list(_NAMES).index(split), index]), request.frames, request.every)
        folder.mkdir(parents=True)
        annotations = []
        for number, (frame, annotation) in enumerate(scene.frames(), 1):
            (folder / f"{number:08d}.jpg").write_bytes(encode(frame, QUALITY))
            annotations.append(annotation)
    finally:
        cv2.setNumThreads(threads)
    _write_annotations(folder, annotations, scene)


def _write_annotations(folder: Path, annotations: list[Annotation], scene: Scene) -> None:
    """The text files of GOT-10k. The target never leaves the frame, so absence is 0 throughout."""
    texts = {
        "groundtruth.txt": [",".join(f"{value:.4f}" for value in a.box) for a in annotations],
        "absence.label": ["0" for _ in annotations],
        "cover.label": [str(a.cover) for a in annotations],
        "cut_by_image.label": [str(int(a.cut)) for a in annotations],
        "meta_info.ini": [
            "[METAINFO]",
            "url: generated",
            "begin: 00:00:00.000",
            f"end: 00:00:{len(annotations) / 10:06.3f}",
            "anno_fps: 10Hz",
            "object_class: generated object",
            "motion_class: moving",
            "major_class: object",
            "root_class: object",
            "motion_adverb: smoothly",
            f"resolution: ({scene.width}, {scene.height})",
        ],
    }
    for name, lines in texts.items():
        (folder / name).write_text("\n".join(lines) + "\n")
