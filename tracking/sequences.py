"""The sequences that trackers are evaluated on: their frames, the true boxes, and when the target is to be seen.

Frames are (H, W, 3) uint8 RGB. Boxes (x, y, w, h), 0-based, frame pixels, float64. A sequence of a test set whose truth is kept by its
authors has one box, the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.catalog import dataset_entry, is_known
from configs.errors import RequestError, nearest
from pairs import layouts
from pairs.annotation import Fault, Problem, frame_names, read_boxes, read_labels, sequences_named, with_area
from pairs.frames import VIDEO_SUFFIXES
from pairs.layouts import Located, Options
from tracking.frames import FileFrames, Frames, VideoFrames


@dataclass(frozen=True)
class Video:
    """One sequence: name, frames, truth (n, 4) or (1, 4), visible (n,) bool or (1,). Picklable, and small while frames are files."""

    name: str
    frames: Frames
    truth: np.ndarray
    visible: np.ndarray

    @property
    def annotated(self) -> bool:
        """Whether the truth of all frames is known."""
        return len(self.truth) > 1 or len(self.frames) == 1


@dataclass(frozen=True)
class VideoSet:
    """Sequences to evaluate on: `name` is what the results' folder is called, `kind` the benchmark; problems: what could not be read."""

    name: str
    kind: str
    videos: tuple[Video, ...]
    problems: tuple[Problem, ...]

    def first(self, count: int | None) -> VideoSet:
        """The first sequences of it; None: all."""
        return replace(self, videos=self.videos[:count])

    def named(self, names: Sequence[str]) -> VideoSet:
        """Some sequences by name. RequestError: one that it has not."""
        known = {video.name: video for video in self.videos}
        for name in names:
            if name not in known:
                raise RequestError(f"--sequences: expected sequences of {self.name}, found '{name}'{nearest(name, known)}; correct it")
        return replace(self, videos=tuple(known[name] for name in names))


@dataclass(frozen=True)
class Benchmark:
    """A kind of data set in evaluation.

    splits: the split -> (root, split, options) -> its sequences; the first one is meant where none is named.
    visible: label arrays, each (n,), -> (n,) bool: where the toolkits count the target as visible.
    """

    splits: Mapping[str, Callable[[Path, str, Options], list[Located]]]
    visible: Callable[[Sequence[np.ndarray]], np.ndarray] | None = None


BENCHMARKS: dict[str, Benchmark] = {
    "got10k": Benchmark(dict.fromkeys(("val", "test", "train"), layouts.got10k), lambda labels: labels[1] > 0),
    "folder": Benchmark(dict.fromkeys(("val", "train"), layouts.folder)),
    "video": Benchmark(dict.fromkeys(("val", "train"), layouts.video)),
    "lasot": Benchmark({"val": layouts.lasot, "train": layouts.lasot}, lambda labels: (labels[0] == 0) & (labels[1] == 0)),
    "trackingnet": Benchmark({"test": layouts.trackingnet_test, "val": layouts.trackingnet, "train": layouts.trackingnet}),
    "otb": Benchmark({"test": layouts.otb}),
    "uav123": Benchmark({"test": layouts.uav123}),
}
"""The kinds of the catalog that can be evaluated on. `val` of LaSOT is its test set, as in the catalog."""


def open_videos(dataset: str, split: str | None = None) -> VideoSet:
    """The sequences of a data set of the catalog, of a folder (frames and groundtruth.txt, or such folders), or of one video file.

    A video file has its boxes beside it, in a text file of the same name: one line a frame, or the first alone.
    A sequence that cannot be read is among the problems. RequestError: no such data set, folder, file or split, or no sequence to read.
    """
    path = Path(dataset)
    is_video = path.suffix.lower() in VIDEO_SUFFIXES
    # a name of the catalog is that data set, also where a folder of its name lies here; ./name is the folder
    is_folder = not is_video and path.is_dir() and not is_known(dataset)
    if split is not None and (is_video or is_folder):
        raise RequestError(f"--split: expected a data set of the catalog beside it, found {dataset}; a folder or video has no splits")
    try:
        if is_video:
            return _of_video(path)
        if is_folder:
            return _opened(path.resolve().name, "folder", path, "val", {})
        entry = dataset_entry(dataset)
        kind, split = _chosen(dataset, entry, split)
        root = Path(str(entry["root"])).expanduser()
        if not root.is_dir():
            raise RequestError(f"dataset {dataset}: expected its root to be a folder, found none at '{root}'; set root in its entry")
        name = dataset if split == next(iter(BENCHMARKS[kind].splits)) else f"{dataset}-{split}"
        return _opened(name, kind, root, split, {**entry, **(entry.get(split) or {})})
    except Fault as fault:
        raise RequestError(f"dataset {dataset}: {fault.problem}") from fault


def _chosen(dataset: str, entry: Mapping[str, Any], split: str | None) -> tuple[str, str]:
    """(kind, split) of an entry of the catalog."""
    kind = str(entry["kind"])
    if kind not in BENCHMARKS:
        known = ", ".join(BENCHMARKS)
        raise RequestError(f"dataset {dataset}: expected video of a kind among {known}, found '{kind}'; evaluate on another data set")
    splits = BENCHMARKS[kind].splits
    if split is not None and split not in splits:
        raise RequestError(f"dataset {dataset}: expected a split among {', '.join(splits)}, found '{split}'; correct --split")
    return kind, split or next(iter(splits))


def _opened(name: str, kind: str, root: Path, split: str, options: Options) -> VideoSet:
    located = BENCHMARKS[kind].splits[split](root, split, options)
    if "split_file" in options:
        located = [located[index] for index in sequences_named(str(options["split_file"]), [item.name for item in located], root)]
    read = [_video(root, item, BENCHMARKS[kind]) for item in located]
    videos, problems = [item for item in read if isinstance(item, Video)], [item for item in read if isinstance(item, Problem)]
    if not videos:
        rest = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise RequestError(f"dataset {name}: expected sequences to track, found none: {problems[0]}{rest}")
    return VideoSet(name, kind, tuple(videos), tuple(problems))


def _video(root: Path, item: Located, benchmark: Benchmark) -> Video | Problem:
    """One sequence, or the first thing wrong with it."""
    try:
        truth = _truth(f"{root}/{item.truth}")
        frames = _frames(f"{root}/{item.folder}", item.part, len(truth))
        if len(truth) not in (1, len(frames)):
            what = f"expected a box for each of the {len(frames)} frames, or the first alone, found {len(truth)}; restore the file"
            raise Fault(f"{root}/{item.truth}", 0, what)
        visible = with_area(truth)
        # a test set has no labels
        files = [f"{root}/{path}" for path in item.labels if len(truth) > 1 and benchmark.visible is not None]
        if files and benchmark.visible is not None:
            visible &= benchmark.visible([_labels(path, len(truth)) for path in files])
    except Fault as fault:
        return fault.problem
    return Video(item.name, frames, truth, visible)


def _frames(path: str, part: int | None, count: int) -> Frames:
    """The frames of a folder or video; part: the first of `count` frames, of a folder that holds more."""
    if path.lower().endswith(VIDEO_SUFFIXES):
        try:
            return VideoFrames(Path(path))
        except RequestError as error:
            raise Fault(path, 0, str(error)) from error
    names = frame_names(path)
    if part is not None:
        names = names[part : part + count]
    if not names:
        raise Fault(path, 0, "expected frames, found none; unpack the sequence")
    return FileFrames(path, tuple(names))


def _truth(path: str) -> np.ndarray:
    """The boxes of a file, of which the first is one to start from."""
    boxes = read_boxes(path)
    if not len(boxes) or not (with_area(boxes[:1])[0]):
        found = "no line" if not len(boxes) else ",".join(f"{value:g}" for value in boxes[0])
        raise Fault(path, 1, f"expected a box with an area in the first frame, found {found}; mend the file or leave the sequence out")
    return boxes


def _labels(path: str, count: int) -> np.ndarray:
    labels = read_labels(path)
    if len(labels) != count:
        raise Fault(path, 0, f"expected {count} labels, one a frame, found {len(labels)}; restore the file")
    return labels


def _of_video(path: Path) -> VideoSet:
    """A video file with its boxes beside it."""
    if not path.is_file():
        raise RequestError(f"{path}: expected a video, found nothing; correct the path")
    boxes = path.with_suffix(".txt")
    if not boxes.is_file():
        raise RequestError(f"{path}: expected its boxes in {boxes}, found no such file; write x,y,w,h of the first frame there")
    video = _video(path.parent, Located(path.stem, path.name, boxes.name), BENCHMARKS["video"])
    if isinstance(video, Problem):
        raise RequestError(str(video))
    return VideoSet(path.stem, "video", (video,), ())
