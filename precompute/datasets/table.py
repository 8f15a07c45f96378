"""What a scan of a data set gives, as flat arrays; and its file form."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.files import atomic_writer
from pairs.annotation import Problem


@dataclass(frozen=True)
class Outlines:
    """Outlines of S objects in still images, as flat arrays; an object may have no ring.

    points (P, 2) float32; ring r is points[rings[r] : rings[r + 1]]; the rings of object s are masks[s] ... masks[s + 1] - 1;
    size (S, 2) int32: w, h of the image of each object, 0 where nobody asks.
    """

    points: np.ndarray
    rings: np.ndarray
    masks: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, masks: list[list[np.ndarray]], size: np.ndarray) -> Outlines:
        """From the rings (n, 2) of each object."""
        rings = [ring for mask in masks for ring in mask]
        points = np.concatenate([np.empty((0, 2), np.float32), *rings])
        return cls(points, np.cumsum([0, *map(len, rings)], dtype=np.int64), np.cumsum([0, *map(len, masks)], dtype=np.int64), size)

    def rings_of(self, index: int) -> list[np.ndarray]:
        """The rings (n, 2) float64 of an object."""
        edges = self.rings[self.masks[index] : self.masks[index + 1] + 1]
        return [self.points[first:last].astype(np.float64) for first, last in itertools.pairwise(edges)]

    def take(self, chosen: np.ndarray) -> Outlines:
        """Those of some objects (indices, in this order)."""
        kept, masks = _runs(np.arange(len(self.rings) - 1), self.masks, chosen)
        points, rings = _runs(self.points, self.rings, kept)
        return Outlines(points, rings, masks, self.size[chosen])

    def digest(self) -> str:
        """SHA-256 (hex) of the outlines; sizes are no part of it."""
        return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in (self.points, self.rings, self.masks))).hexdigest()


def _runs(rows: np.ndarray, offsets: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The runs rows[offsets[i] : offsets[i + 1]] of the chosen i, one after the other, and their offsets."""
    starts, ends = offsets[chosen], offsets[chosen + 1]
    return np.concatenate([rows[:0], *(rows[a:b] for a, b in zip(starts, ends, strict=True))]), np.cumsum([0, *(ends - starts)])


@dataclass
class Table:
    """Annotations of the sequences without fault, and the faults of the others.

    S sequences, F frames of all of them: sequences (their names), folders and frames (packed names) are S strings; offsets (S + 1,) int64:
    frames of sequence s are rows offsets[s] ... offsets[s + 1] - 1; boxes (F, 4) float64; visible (F,) bool: a frame counts as visible by
    its kind's rule and if its box has w >= 1 and h >= 1. dropped: sequences that were left out. outlines: only where a kind keeps them.
    faulty_frames: what is wrong with the label of a frame, which then counts as invisible. digests (F,) uint32: `frame_digest` of every
    frame, only of videos.
    """

    sequences: list[str]
    folders: list[str]
    frames: list[str]
    offsets: np.ndarray
    boxes: np.ndarray
    visible: np.ndarray
    problems: list[Problem]
    dropped: int = 0
    outlines: Outlines | None = None
    faulty_frames: list[Problem] = field(default_factory=list)
    digests: np.ndarray | None = None

    def take(self, chosen: np.ndarray) -> Table:
        """The sequences `chosen` (indices, in this order) of a table of single frames."""
        return replace(
            self,
            sequences=[self.sequences[index] for index in chosen],
            folders=[self.folders[index] for index in chosen],
            frames=[self.frames[index] for index in chosen],
            offsets=np.arange(len(chosen) + 1, dtype=np.int64),
            boxes=self.boxes[chosen],
            visible=self.visible[chosen],
            outlines=self.outlines and self.outlines.take(chosen),
            digests=None if self.digests is None else self.digests[chosen],
        )

    def save(self, path: Path, signature: str) -> None:
        """Writes an .npz without pickled objects; atomic."""
        arrays: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        text = {name: value for name, value in vars(self).items() if name not in (*arrays, "outlines")} | {"signature": signature}
        encoded = np.frombuffer(json.dumps(text).encode("ascii"), np.uint8)
        with atomic_writer(path) as stream:
            np.savez(stream, text=encoded, **arrays, **(vars(self.outlines) if self.outlines else {}))

    @classmethod
    def load(cls, path: Path, signature: str) -> Table | None:
        """The table that `save` wrote with this signature; None where the file is missing, damaged or of another signature."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = dict(stored)
            text = json.loads(arrays.pop("text").tobytes())
            if text.pop("signature") != signature:
                return None
            for name in ("problems", "faulty_frames"):
                text[name] = [Problem(*problem) for problem in text[name]]
            outlines = Outlines(**{part.name: arrays.pop(part.name) for part in fields(Outlines)}) if "points" in arrays else None
            return cls(**text | arrays, outlines=outlines)
        # whatever is wrong with an index, scanning again is the answer; np.load names a dozen error types for a damaged file
        except Exception:
            return None


class Survey(NamedTuple):
    """The annotation of a split as it is before it is read."""

    signature: str  # the same as long as `read` gives the same
    newest: int  # the latest modification of a file or folder that it covers, in ns
    read: Callable[[], Table]
