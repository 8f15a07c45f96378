"""Tables of still images: selecting from them, and the source of pixels that belongs to each kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from configs.errors import RequestError
from precompute.datasets.dataset import FileSource
from precompute.datasets.synthetic import SMALLEST, BlendSource, Outlines, SynthSource
from precompute.datasets.table import Table
from precompute.datasets.text import unpack_name


def select(table: Table, chosen: np.ndarray) -> Table:
    """The sequences `chosen` (indices, in this order) of a table of single frames, with their outlines and sizes."""
    extra: dict[str, np.ndarray] = {}
    if "size" in table.extra:
        first, last = table.extra["masks"][chosen], table.extra["masks"][chosen + 1]
        rings = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)] or [np.empty(0, np.int64)]).astype(np.int64)
        starts, ends = table.extra["rings"][rings], table.extra["rings"][rings + 1]
        extra = {
            "size": table.extra["size"][chosen],
            "points": np.concatenate(
                [np.empty((0, 2), np.float32), *(table.extra["points"][a:b] for a, b in zip(starts, ends, strict=True))]
            ),
            "rings": np.cumsum([0, *(ends - starts)]),
            "masks": np.cumsum([0, *(last - first)]),
        }
    return Table(
        names=[table.names[index] for index in chosen],
        folders=[table.folders[index] for index in chosen],
        frames=[table.frames[index] for index in chosen],
        offsets=np.arange(len(chosen) + 1, dtype=np.int64),
        boxes=table.boxes[chosen],
        visible=table.visible[chosen],
        problems=table.problems,
        listed=table.listed - len(table.names) + len(chosen),
        extra=extra,
    )


def single_frames(table: Table) -> Table:
    """Every visible frame of a video table as a still image of its own, named `<sequence>/<frame from 0>`, outlined by its box."""
    rows = np.flatnonzero(table.visible)
    sequence = np.searchsorted(table.offsets, rows, side="right") - 1
    frame = (rows - table.offsets[sequence]).tolist()
    count = len(rows)
    return Table(
        names=[f"{table.names[s]}/{f}" for s, f in zip(sequence, frame, strict=True)],
        folders=[table.folders[s] for s in sequence],
        frames=[unpack_name(table.frames[s], f) for s, f in zip(sequence, frame, strict=True)],
        offsets=np.arange(count + 1, dtype=np.int64),
        boxes=table.boxes[rows],
        visible=np.ones(count, bool),
        problems=table.problems,
        listed=table.listed,
        extra={"points": np.empty((0, 2), np.float32), "rings": np.zeros(1, np.int64), "masks": np.zeros(count + 1, np.int64)},
    )


def pasteable(name: str, table: Table) -> Table:
    """The objects with an outline that are large enough to be pasted. RequestError: fewer than two images with such objects."""
    outlined = np.diff(table.extra["masks"]) > 0 if "masks" in table.extra else np.zeros(len(table.names), bool)
    large = np.sqrt(table.boxes[:, 2] * table.boxes[:, 3]) >= SMALLEST
    chosen = select(table, np.flatnonzero(outlined & large)) if len(table.names) else table
    if len(set(chosen.frames)) < 2:
        raise RequestError(
            f"dataset {name}: expected outlined objects of at least {SMALLEST:g} pixels on two images or more,"
            f" found {len(chosen.names)} on {len(set(chosen.frames))}; use kind coco_synth, which needs boxes only"
        )
    return chosen


def source(kind: str, root: Path, table: Table) -> FileSource | SynthSource | BlendSource:
    """Where the pixels of a kind come from."""
    files = FileSource(str(root), table.folders, table.frames)
    if kind not in ("coco_synth", "coco_blend"):
        return files
    outlines = Outlines(table.boxes, table.extra["points"], table.extra["rings"], table.extra["masks"])
    return SynthSource(files, outlines) if kind == "coco_synth" else BlendSource(files, outlines, table.extra["size"])
