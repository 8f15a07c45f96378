"""A data set in memory: its annotation, and where its pixels come from.

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
from configs.schema import PairsConfig
from pairs.annotation import unpack_name
from pairs.frames import read_frame
from precompute.datasets.table import Table

_NONE = np.empty(0)


class FrameSource(Protocol):
    """Where pixels come from: small and picklable, it is what a worker process gets of a data set."""

    numbers: int  # uniform random numbers that one frame is made from; 0: frames are files
    shared: int  # of them, the first ones, which both frames of a pair share
    salt: str  # what defines the frames besides names, boxes and visibility: the rules that they are made by

    def path(self, sequence: int, frame: int) -> Path:
        """File of a frame (for a still-image source: of the image it is made from)."""

    def load(self, sequence: int, frame: int, random: np.ndarray) -> np.ndarray:
        """The frame (H, W, 3) uint8 BGR; random (numbers,) float64 in [0, 1). Raises FrameError."""

    def box(self, sequence: int, frame: int, random: np.ndarray) -> np.ndarray | None:
        """The box (4,) of the target in the frame that `load` makes; None: the annotated one."""


class FileSource:
    """Frames that are files, root/folder/name, or of videos, root/video/number."""

    numbers = shared = 0
    salt = ""

    def __init__(
        self, root: str, folders: Sequence[str], names: Sequence[str], offsets: np.ndarray, digests: np.ndarray | None = None
    ) -> None:
        """folders, names: one string a sequence, the names packed by `text.pack_names`; offsets, digests: as in a `Table`."""
        self.root, self.folders, self.names, self.offsets, self.digests = root, folders, names, offsets, digests

    def path(self, sequence: int, frame: int) -> Path:
        """File of frame `frame` (from 0) of sequence `sequence`."""
        return Path(self.root, self.folders[sequence], unpack_name(self.names[sequence], frame))

    def load(self, sequence: int, frame: int, random: np.ndarray = _NONE) -> np.ndarray:
        """The frame as it lies in its file."""
        digest = None if self.digests is None else int(self.digests[self.offsets[sequence] + frame])
        return read_frame(self.path(sequence, frame), digest)

    def box(self, sequence: int, frame: int, random: np.ndarray) -> None:
        """The annotated box holds."""
        return


@dataclass(kw_only=True)
class Dataset(Table):
    """One split of one data set: a table, and what it is the table of.

    name, kind, split: as in the catalog; root: its folder. files: the annotated frames or stills; source: where the pixels of pairs come
    from. still: every sequence is one still image, used as ref and test alike.
    """

    name: str
    kind: str
    split: str
    root: str
    files: FileSource
    source: FrameSource
    still: bool

    @cached_property
    def lengths(self) -> np.ndarray:
        """Frames of each sequence, (S,) int64."""
        return np.diff(self.offsets)

    def frame_path(self, sequence: int, frame: int) -> Path:
        """File of frame `frame` (from 0). IndexError outside the sequence."""
        if not 0 <= frame < self.offsets[sequence + 1] - self.offsets[sequence]:
            raise IndexError(f"expected a frame in [0, {self.lengths[sequence]}) of {self.sequences[sequence]}, found {frame}")
        return self.source.path(sequence, frame)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) over sequence names, the salt of the source, frame counts, boxes and visibility, in order. Pixels are not read."""
        digest = hashlib.sha256()
        digest.update("\n".join(self.sequences).encode("utf-8", "surrogatepass"))
        digest.update(self.source.salt.encode())
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

    def usable(self, pairs: PairsConfig) -> np.ndarray:
        """Sequences that pairs are drawn from, (U,) int64: long and visible enough (a still image: visible).

        RequestError: none.
        """
        seen = np.diff(self.visible_offsets)
        # causal pairs need a later visible frame, whatever min_visible says
        enough = max(pairs.min_visible, 2 if pairs.mode == "causal" else 1)
        good = seen > 0 if self.still else (self.lengths >= pairs.min_frames) & (seen >= enough)
        if not good.any():
            raise RequestError(
                f"dataset {self.name} ({self.split}): expected a sequence of at least {pairs.min_frames} frames, {enough} visible,"
                f" found none among {len(self.sequences)}; lower pairs.min_frames and pairs.min_visible or check {self.root}"
            )
        return np.flatnonzero(good)
