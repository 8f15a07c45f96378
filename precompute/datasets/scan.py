"""Reads the annotation of every sequence of a layout into one `Table`, and the signature by which a change is noticed.

The signature covers: the sequences and their order (so the list or split file), the modification time of every folder of frames (a frame
added, removed or renamed changes it) or video, and size and modification time of every annotation and label file. It does not
notice a frame overwritten in place (no pixel is in the table), nor an annotation file replaced by one of the same size and the same
modification time to the nanosecond; `python -m precompute check` always reads everything anew.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from configs.progress import ProgressBar
from pairs.annotation import (
    IMAGE_SUFFIXES,
    Fault,
    Problem,
    box_rows,
    frame_names,
    label_rows,
    pack_names,
    real,
    sequences_named,
)
from pairs.frames import FrameError, frame_digest, video_frames
from pairs.layouts import Located, Options
from precompute.datasets.table import Survey, Table

# threads hide the latency of a network file system; a block keeps their switching cheap on a local disk
_THREADS = 16
_BLOCK = 64

_T = TypeVar("_T")


class Frames(NamedTuple):
    """The frames of a sequence: their names, packed, how many there are, and of a video the digest of each, (n,) uint32."""

    names: str
    length: int
    digests: np.ndarray | None = None


class Sequenced(NamedTuple):
    """What is read of one sequence: its frames, boxes (n, 4), visibility (n,), and the labels that are faulty."""

    frames: Frames
    boxes: np.ndarray
    visible: np.ndarray
    faulty: list[Problem]


def frames_in_folder(folder: str) -> Frames:
    """Every image in a folder, in natural order. `Fault`: none."""
    names = frame_names(folder)
    if not names:
        raise Fault(folder, 0, f"expected frames ({', '.join(IMAGE_SUFFIXES)}), found none; unpack the sequence or drop it")
    return Frames(pack_names(names), len(names))


def frames_of_video(path: str) -> Frames:
    """Every frame of a video, decoded in order, for only that tells how many there are and which is which. `Fault`: none."""
    try:
        digests = np.fromiter(map(frame_digest, video_frames(path)), np.uint32)
    except FrameError as error:
        raise Fault(path, 0, str(error)) from error
    return Frames("0", len(digests), digests)


@dataclass(frozen=True)
class Layout:
    """How a video data set lies on the disk.

    locate: (root, split, options) -> its sequences in order, raising `Fault` for a missing or empty list.
    visible: label arrays, each (n,), -> (n,) bool; None: no labels, every frame with a real box is visible.
    frames: path of the folder or video of a sequence -> its frames, raising `Fault` where there are none.
    """

    locate: Callable[[Path, str, Options], list[Located]]
    visible: Callable[[Sequence[np.ndarray]], np.ndarray] | None = None
    frames: Callable[[str], Frames] = frames_in_folder

    def survey(self, root: Path, split: str, options: Options) -> Survey:
        """The sequences of a split, those that its split file picks where it has one."""
        located = self.locate(root, split, options)
        if "split_file" in options:
            located = [located[index] for index in sequences_named(str(options["split_file"]), [s.name for s in located], root)]
        return Survey(*signature(root, located), partial(scan, root, self, located))


def in_threads(work: Callable[[Located], _T], located: Sequence[Located], title: str) -> list[_T]:
    """`work` on every sequence, in threads; results in order. On a terminal a bar shows how far it is."""
    size = max(1, min(_BLOCK, len(located) // (4 * _THREADS)))
    blocks = [located[start : start + size] for start in range(0, len(located), size)]
    results: list[_T] = []
    with ProgressBar(title, len(located), "sequence", shown=sys.stderr.isatty()) as progress, ThreadPoolExecutor(_THREADS) as pool:
        for done in pool.map(lambda block: [work(sequence) for sequence in block], blocks):
            results += done
            progress.add(len(done))
    return results


def signature(root: Path, located: Sequence[Located]) -> tuple[str, int]:
    """SHA-256 (hex) of what a change of the annotation would change, and the newest modification time in ns."""

    def look(sequence: Located) -> tuple[bytes, int]:
        folder, *files = (_stat(f"{root}/{path}") for path in (sequence.folder, sequence.truth, *sequence.labels))
        # the size of a folder is the file system's business
        text = repr((sequence, folder[1], files)).encode("utf-8", "surrogateescape")
        return text, max(modified for _, modified in (folder, *files))

    seen = in_threads(look, located, "files")
    return hashlib.sha256(b"".join(text for text, _ in seen)).hexdigest(), max((newest for _, newest in seen), default=0)


def _stat(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path object costs more than the call
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns


def scan(root: Path, layout: Layout, located: Sequence[Located]) -> Table:
    """Reads everything. A sequence with a fault is left out of the arrays, and its fault is among the problems."""
    results = in_threads(lambda sequence: _read(root, layout, sequence), located, "annotation")
    good = [(s, result) for s, result in zip(located, results, strict=True) if not isinstance(result, Problem)]
    digests = [result.frames.digests for _, result in good if result.frames.digests is not None]
    return Table(
        sequences=[s.name for s, _ in good],
        folders=[s.folder for s, _ in good],
        frames=[result.frames.names for _, result in good],
        offsets=np.cumsum([0, *(len(result.boxes) for _, result in good)], dtype=np.int64),
        boxes=np.concatenate([np.empty((0, 4)), *(result.boxes for _, result in good)]),
        visible=np.concatenate([np.empty(0, bool), *(result.visible for _, result in good)]),
        problems=[result for result in results if isinstance(result, Problem)],
        dropped=len(located) - len(good),
        faulty_frames=[problem for _, result in good for problem in result.faulty],
        digests=np.concatenate(digests) if digests else None,
    )


def _read(root: Path, layout: Layout, sequence: Located) -> Sequenced | Problem:
    """One sequence, or the first thing wrong with it. A label that is faulty in half of the frames or fewer costs those frames only."""
    try:
        truth = f"{root}/{sequence.truth}"
        frames = layout.frames(f"{root}/{sequence.folder}")
        boxes, faults = box_rows(truth)
        if len(boxes) != frames.length:
            what = f"expected a line for each of the {frames.length} frames, found {len(boxes)}; restore it"
            raise Fault(*(next(iter(faults.values()), None) or Problem(truth, min(len(boxes), frames.length) + 1, what)))
        visible, labels = real(boxes), []
        for path in sequence.labels if layout.visible is not None else ():
            values, more = label_rows(f"{root}/{path}")
            if len(values) != len(boxes):
                raise Fault(f"{root}/{path}", 0, f"expected {len(boxes)} labels, one a frame, found {len(values)}; restore the file")
            labels.append(values)
            faults = more | faults
        if layout.visible is not None:
            visible &= layout.visible(labels)
        visible[list(faults)] = False
        if 2 * len(faults) > len(boxes):
            raise Fault(*faults[min(faults)])
    except Fault as fault:
        return fault.problem
    return Sequenced(frames, boxes, visible, [faults[row] for row in sorted(faults)])
