"""Reads the annotation of every sequence of a layout into one `Table`, and the signature by which a change is noticed.

The signature covers: the sequences and their order (so the list or split file), the modification time of every folder of frames (a frame
added, removed or renamed changes it), and size and modification time of every annotation and label file. It does not
notice a frame overwritten in place (no pixel is in the table), nor an annotation file replaced by one of the same size and the same
modification time to the nanosecond; `python -m precompute check` always reads everything anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from pairs.annotation import (
    IMAGE_SUFFIXES,
    Fault,
    Problem,
    frame_names,
    pack_names,
    read_boxes,
    read_labels,
    real,
    sequences_named,
)
from pairs.layouts import Located, Options
from precompute.datasets.table import Survey, Table

# threads hide the latency of a network file system; a block keeps their switching cheap on a local disk
_THREADS = 16
_BLOCK = 64

_T = TypeVar("_T")


@dataclass(frozen=True)
class Layout:
    """How a video data set lies on the disk.

    locate: (root, split, options) -> its sequences in order, raising `Fault` for a missing or empty list.
    visible: label arrays, each (n,), -> (n,) bool; None: no labels, every frame with a real box is visible.
    """

    locate: Callable[[Path, str, Options], list[Located]]
    visible: Callable[[Sequence[np.ndarray]], np.ndarray] | None = None

    def survey(self, root: Path, split: str, options: Options) -> Survey:
        """The sequences of a split, those that its split file picks where it has one."""
        located = self.locate(root, split, options)
        if "split_file" in options:
            located = [located[index] for index in sequences_named(str(options["split_file"]), [s.name for s in located], root)]
        return Survey(*signature(root, located), partial(scan, root, self, located))


def in_threads(work: Callable[[Located], _T], located: Sequence[Located]) -> list[_T]:
    """`work` on every sequence, in threads; results in order."""
    blocks = [located[start : start + _BLOCK] for start in range(0, len(located), _BLOCK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [result for results in pool.map(lambda block: [work(sequence) for sequence in block], blocks) for result in results]


def signature(root: Path, located: Sequence[Located]) -> tuple[str, int]:
    """SHA-256 (hex) of what a change of the annotation would change, and the newest modification time in ns."""

    def look(sequence: Located) -> tuple[bytes, int]:
        folder, *files = (_stat(f"{root}/{path}") for path in (sequence.folder, sequence.truth, *sequence.labels))
        # the size of a folder is the file system's business
        text = repr((sequence, folder[1], files)).encode("utf-8", "surrogateescape")
        return text, max(modified for _, modified in (folder, *files))

    seen = in_threads(look, located)
    return hashlib.sha256(b"".join(text for text, _ in seen)).hexdigest(), max((newest for _, newest in seen), default=0)


def _stat(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path object costs more than the call
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def scan(root: Path, layout: Layout, located: Sequence[Located]) -> Table:
    """Reads everything. A sequence with a fault is left out of the arrays, and its fault is among the problems."""
    results = in_threads(lambda sequence: _read(root, layout, sequence), located)
    good = [(s, result) for s, result in zip(located, results, strict=True) if not isinstance(result, Problem)]
    return Table(
        sequences=[s.name for s, _ in good],
        folders=[s.folder for s, _ in good],
        frames=[frames for _, (frames, _, _) in good],
        offsets=np.cumsum([0, *(len(boxes) for _, (_, boxes, _) in good)], dtype=np.int64),
        boxes=np.concatenate([np.empty((0, 4)), *(boxes for _, (_, boxes, _) in good)]),
        visible=np.concatenate([np.empty(0, bool), *(visible for _, (_, _, visible) in good)]),
        problems=[result for result in results if isinstance(result, Problem)],
        dropped=len(located) - len(good),
    )


def _read(root: Path, layout: Layout, sequence: Located) -> tuple[str, np.ndarray, np.ndarray] | Problem:
    """Packed frame names, boxes (n, 4) and visibility (n,) of one sequence, or the first thing wrong with it."""
    try:
        truth = f"{root}/{sequence.truth}"
        folder = f"{root}/{sequence.folder}"
        names = frame_names(folder)
        boxes = read_boxes(truth)
        if not names:
            raise Fault(folder, 0, f"expected frames ({', '.join(IMAGE_SUFFIXES)}), found none; unpack the sequence or drop it")
        if len(boxes) != len(names):
            raise Fault(
                truth,
                min(len(boxes), len(names)) + 1,
                f"expected a line for each of the {len(names)} frames, found {len(boxes)}; restore it",
            )
        visible = real(boxes)
        if layout.visible is not None:
            labels = []
            for path in sequence.labels:
                values = read_labels(f"{root}/{path}")
                if len(values) != len(boxes):
                    raise Fault(f"{root}/{path}", 0, f"expected {len(boxes)} labels, one a frame, found {len(values)}; restore the file")
                labels.append(values)
            visible &= layout.visible(labels)
    except Fault as fault:
        return fault.problem
    return pack_names(names), boxes, visible
