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
from pathlib import Path
from typing import TypeVar

import numpy as np

from precompute.datasets.layouts import Layout, Located
from precompute.datasets.table import Table
from precompute.datasets.text import Fault, Problem, pack_names, read_boxes, read_labels, sort_names

# threads hide the latency of a network file system; a block keeps their switching cheap on a local disk
_THREADS = 16
_BLOCK = 64

_T = TypeVar("_T")


def in_blocks(work: Callable[[Sequence[Located]], _T], located: Sequence[Located]) -> list[_T]:
    """`work` on blocks of the sequences, in threads; results in order."""
    blocks = [located[start : start + _BLOCK] for start in range(0, len(located), _BLOCK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(work, blocks))


def signature(root: Path, located: Sequence[Located]) -> tuple[str, int]:
    """SHA-256 (hex) of what a change of the annotation would change, and the newest modification time in ns."""

    def block(sequences: Sequence[Located]) -> tuple[bytes, int]:
        digest, newest = hashlib.sha256(), 0
        for sequence in sequences:
            digest.update(repr(sequence).encode("utf-8", "surrogateescape"))
            for path in (sequence.folder, sequence.truth, *sequence.labels):
                size, modified = _stat(f"{root}/{path}")
                # the size of a folder is the file system's business
                digest.update(b"%d %d;" % (0 if path == sequence.folder else size, modified))
                newest = max(newest, modified)
        return digest.digest(), newest

    results = in_blocks(block, located)
    digest = hashlib.sha256(b"".join(part for part, _ in results))
    return digest.hexdigest(), max((newest for _, newest in results), default=0)


def _stat(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path object costs more than the call
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def scan(root: Path, layout: Layout, located: Sequence[Located]) -> Table:
    """Reads everything. A sequence with a fault is left out of the arrays, and its fault is among the problems."""
    read = [one for block in in_blocks(lambda part: [_read(root, layout, s) for s in part], located) for one in block]
    good = [(s, one) for s, one in zip(located, read, strict=True) if not isinstance(one, Problem)]
    return Table(
        names=[s.name for s, _ in good],
        folders=[s.folder for s, _ in good],
        frames=[frames for _, (frames, _, _) in good],
        offsets=np.cumsum([0, *(len(boxes) for _, (_, boxes, _) in good)], dtype=np.int64),
        boxes=np.concatenate([np.empty((0, 4)), *(boxes for _, (_, boxes, _) in good)]),
        visible=np.concatenate([np.empty(0, bool), *(visible for _, (_, _, visible) in good)]),
        problems=[one for one in read if isinstance(one, Problem)],
        listed=len(located),
    )


def _read(root: Path, layout: Layout, sequence: Located) -> tuple[str, np.ndarray, np.ndarray] | Problem:
    """Packed frame names, boxes (n, 4) and visibility (n,) of one sequence, or the first thing wrong with it."""
    try:
        truth = f"{root}/{sequence.truth}"
        folder = f"{root}/{sequence.folder}"
        names = frame_names(folder, layout.suffixes)
        boxes = read_boxes(truth)
        if not names:
            raise Fault(folder, 0, f"expected frames ({', '.join(layout.suffixes)}), found none; unpack the sequence or drop it")
        if len(boxes) != len(names):
            raise Fault(
                truth,
                min(len(boxes), len(names)) + 1,
                f"expected a line for each of the {len(names)} frames, found {len(boxes)}; restore it",
            )
        visible = (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
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


def frame_names(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """Names of the frames in a folder in natural order; hidden files (`._1.jpg` of macOS) are none."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise Fault(folder, 0, f"expected a folder of frames, found none ({error.strerror}); unpack the sequence or drop it") from error
    both = suffixes + tuple(suffix.upper() for suffix in suffixes)
    return sort_names([name for name in names if name.endswith(both) and not name.startswith(".")])
