"""The kinds of data sets, one row each. A new one is a row here, with its function in `pairs/layouts.py` or a module of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pairs import layouts
from pairs.layouts import Options
from precompute.datasets import coco
from precompute.datasets.dataset import FileSource, FrameSource
from precompute.datasets.scan import Layout, frames_of_video
from precompute.datasets.synthetic import BlendSource, SynthSource, pasteable, single_frames
from precompute.datasets.table import Survey, Table


@dataclass(frozen=True)
class Kind:
    """What a catalog entry of this kind means.

    survey: (root, split, options) -> the split's annotation, not yet read. Raises `Fault` for a missing or empty list, and RequestError.
    options: those that it takes besides those of every kind.
    still: every sequence is one still image, used as ref and test alike.
    layout: the kind whose files it reads, for one whose option `layout` may name another; None: it has no such option.
    prepare: (name of the data set, table as read) -> the table that pairs are drawn from. Raises RequestError.
    source: (the files of that table, that table) -> where pixels come from.
    """

    survey: Callable[[Path, str, Options], Survey]
    options: tuple[str, ...] = ()
    still: bool = False
    layout: str | None = None
    prepare: Callable[[str, Table], Table] = lambda name, table: table
    source: Callable[[FileSource, Table], FrameSource] = lambda files, table: files


_GOT10K = Layout(layouts.got10k, visible=lambda labels: (labels[0] == 0) & (labels[1] > 0))
_LASOT = Layout(layouts.lasot, visible=lambda labels: (labels[0] == 0) & (labels[1] == 0))
_OUTLINED = partial(coco.survey, outlines=True)

KINDS: dict[str, Kind] = {
    "got10k": Kind(_GOT10K.survey, ("folder",)),
    "folder": Kind(Layout(layouts.folder).survey, ("folder",)),
    "video": Kind(Layout(layouts.video, frames=frames_of_video).survey, ("folder",)),
    "lasot": Kind(_LASOT.survey),
    "trackingnet": Kind(Layout(layouts.trackingnet).survey, ("sets",)),
    "coco": Kind(coco.survey, coco.OPTIONS, still=True),
    "coco_synth": Kind(_OUTLINED, coco.OPTIONS, still=True, layout="coco", prepare=single_frames, source=SynthSource),
    "coco_blend": Kind(partial(_OUTLINED, sizes=True), coco.OPTIONS, still=True, prepare=pasteable, source=BlendSource),
}
