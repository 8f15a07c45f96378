"""A data set in memory: flat arrays over all frames of all sequences, and where each frame lies.

Letters: S sequences, F frames of all sequences together. Boxes are (x, y, w, h), top-left corner, in frame pixels, float64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from configs.errors import RequestError
from configs.schema import Pairs
from precompute.datasets.text import Problem, unpack_name
from precompute.frames import read_frame


class Source(Protocol):
    """Where pixels come from: small and picklable, it is what a worker process gets of a data set."""

    numbers: int  # uniform random numbers that one frame is made from; 0: frames are files
    shared: int  # of them, the first ones, which both frames of a pair share

    def path(self, sequence: int, frame: int) -> Path:
        """File of a frame (for a still-image source: of the image it is made from)."""

    def load(self, sequence: int, frame: int, random: np.ndarray) -> np.ndarray:
        """The frame (H, W, 3) uint8 BGR; random (numbers,) float64 in [0, 1). Raises FrameError."""

    def box(self, sequence: int, frame: int, random: np.ndarray) -> np.ndarray | None:
        """The box (4,) of the target in the frame that `load` makes; None: the annotated one."""


class FileSource:
    """Frames that are files: root/folder/name."""

    numbers = shared = 0

    def __init__(self, root: str, folders: Sequence[str], names: Sequence[str]) -> None:
        """folders, names: one string a sequence, the names packed by `text.pack_names`."""
        self.root, self.folders, self.names = root, folders, names

    def path(self, sequence: int, frame: int) -> Path:
        """File of frame `frame` (from 0) of sequence `sequence`."""
        return Path(self.root, self.folders[sequence], unpack_name(self.names[sequence], frame))

    def load(self, sequence: int, frame: int, random: np.ndarray) -> np.ndarray:
        """The frame as it lies in its file."""
        return read_frame(self.path(sequence, frame))

    def box(self, sequence: int, frame: int, random: np.ndarray) -> None:
        """The annotated box holds."""
        return


@dataclass
class Dataset:
    """One split of one data set.

    Attributes:
        name, kind, split: as in the catalog; root: its folder.
        sequences: S names. offsets (S + 1,) int64: frames of sequence s are rows offsets[s] ... offsets[s + 1] - 1.
        boxes (F, 4) float64, visible (F,) bool: a frame counts as visible by the rule of its kind and if its box has w > 0 and h > 0.
        source: where pixels come from.
        still (S,) bool: the sequence is one still image, used as ref and test alike.
        salt: what besides names, boxes and visibility defines the content (rules of a synthetic source).
    """

    name: str
    kind: str
    split: str
    root: str
    sequences: list[str]
    offsets: np.ndarray
    boxes: np.ndarray
    visible: np.ndarray
    source: Source
    still: np.ndarray
    problems: list[Problem]
    dropped: int = 0
    salt: str = ""

    @property
    def is_image_dataset(self) -> bool:
        """Whether every sequence is one still image."""
        return bool(self.still.all())

    @cached_property
    def lengths(self) -> np.ndarray:
        """Frames of each sequence, (S,) int64."""
        return np.diff(self.offsets)

    def sequence_boxes(self, sequence: int) -> np.ndarray:
        """Boxes (n, 4) of one sequence, a view."""
        return self.boxes[self.offsets[sequence] : self.offsets[sequence + 1]]

    def sequence_visible(self, sequence: int) -> np.ndarray:
        """Visibility (n,) of one sequence, a view."""
        return self.visible[self.offsets[sequence] : self.offsets[sequence + 1]]

    def frame_path(self, sequence: int, frame: int) -> Path:
        """File of frame `frame` (from 0). IndexError outside the sequence."""
        if not 0 <= frame < self.offsets[sequence + 1] - self.offsets[sequence]:
            raise IndexError(f"expected a frame in [0, {self.lengths[sequence]}) of {self.sequences[sequence]}, found {frame}")
        return self.source.path(sequence, frame)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) over sequence names, frame counts, boxes and visibility, in order. Pixels are not read."""
        digest = hashlib.sha256()
        digest.update("\n".join(self.sequences).encode())
        digest.update(self.salt.encode())
        for array, dtype in ((self.offsets, "<i8"), (self.boxes, "<f8"), (self.visible, "u1")):
            digest.update(np.ascontiguousarray(array, dtype).data)
        return digest.hexdigest()

    @cached_property
    def visible_rows(self) -> np.ndarray:
        """Rows of `boxes` that are visible, ascending, (V,) int64."""
        return np.flatnonzero(self.visible)

    @cached_property
    def visible_offsets(self) -> np.ndarray:
        """(S + 1,): the visible rows of sequence s are visible_rows[visible_offsets[s] : visible_offsets[s + 1]]."""
        return np.searchsorted(self.visible_rows, self.offsets)

    def usable(self, pairs: Pairs) -> np.ndarray:
        """Sequences that pairs are drawn from, (U,) int64: long and visible enough (a still image: visible).

        RequestError: none.
        """
        seen = np.diff(self.visible_offsets)
        # causal pairs need a later visible frame, whatever min_visible says
        enough = max(pairs.min_visible, 2 if pairs.mode == "causal" else 1)
        good = np.where(self.still, seen > 0, (self.lengths >= pairs.min_frames) & (seen >= enough))
        if not good.any():
            raise RequestError(
                f"dataset {self.name} ({self.split}): expected a sequence of at least {pairs.min_frames} frames, {enough} visible,"
                f" found none among {len(self.sequences)}; lower pairs.min_frames and pairs.min_visible or check {self.root}"
            )
        return np.flatnonzero(good)
