"""Where each kind of video data set keeps its frames, boxes and labels.

A layout only names paths; `scan` reads them. Layouts: GOT-10k (arXiv:1810.11981), LaSOT (arXiv:1809.07845), TrackingNet
(arXiv:1803.10794), and a plain folder of frames.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import RequestError
from precompute.datasets.text import IMAGE_SUFFIXES, Fault, natural, read_list

Options = dict[str, Any]


@dataclass(frozen=True)
class Located:
    """One sequence, its paths relative to the root: folder of frames, file of boxes, files of labels."""

    name: str
    folder: str
    truth: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """One kind of data set.

    locate: (root, split, options) -> its sequences in order, raising `Fault` for a missing or empty list.
    visible: label arrays, each (n,), -> (n,) bool; None: no labels, every frame with a real box is visible.
    """

    locate: Callable[[Path, str, Options], list[Located]]
    options: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = (".jpg",)
    visible: Callable[[Sequence[np.ndarray]], np.ndarray] | None = None


def _got10k(root: Path, split: str, options: Options) -> list[Located]:
    """`{train,val}/list.txt`; option `folder`: train or val, default the split's name."""
    folder = str(options.get("folder", split))
    names = read_list(str(root / folder / "list.txt"))
    paths = [(name, os.path.normpath(f"{folder}/{name}")) for name in names]
    return [Located(n, p, f"{p}/groundtruth.txt", (f"{p}/absence.label", f"{p}/cover.label")) for n, p in paths]


def _folder(root: Path, split: str, options: Options) -> list[Located]:
    """`groundtruth.txt` beside the frames, in the folder itself or in each of its subfolders; option `folder`, default `.`."""
    base = str(options.get("folder", "."))
    top = root / base
    if (top / "groundtruth.txt").is_file():
        return [Located(top.resolve().name, base, os.path.normpath(f"{base}/groundtruth.txt"))]
    names = _subfolders(top)
    if not names:
        raise Fault(str(top), 0, "expected frames with a groundtruth.txt, or such subfolders, found neither; check the root")
    return [Located(name, p := os.path.normpath(f"{base}/{name}"), f"{p}/groundtruth.txt") for name in names]


def _lasot(root: Path, split: str, options: Options) -> list[Located]:
    """`<class>/<class>-<n>/`, the sequences that the split file names (a must: LaSOT's folders mix train and test)."""
    default = "training_set.txt" if split == "train" else "testing_set.txt"
    split_file = str(find_split_file(root, str(options.get("split_file", default))))
    names = read_list(split_file)
    located = []
    for line, name in enumerate(names, 1):
        if "-" not in name:
            raise Fault(split_file, line, f"expected <class>-<number>, found '{name[:60]}'; mend the line")
        folder = f"{name.rpartition('-')[0]}/{name}"
        labels = (f"{folder}/full_occlusion.txt", f"{folder}/out_of_view.txt")
        located.append(Located(name, f"{folder}/img", f"{folder}/groundtruth.txt", labels))
    return located


def _trackingnet(root: Path, split: str, options: Options) -> list[Located]:
    """`TRAIN_<set>/{frames/<video>/,anno/<video>.txt}`, videos in natural order; option `sets`, default 0-10, val: 11."""
    chosen = options.get("sets", range(11) if split == "train" else (11,))
    if not isinstance(chosen, Sequence) or isinstance(chosen, str) or not all(isinstance(i, int) and 0 <= i <= 11 for i in chosen):
        raise RequestError(f"option sets: expected a list of numbers in 0-11, found {chosen!r}; e.g. sets: [0, 1]")
    located = []
    for number in chosen:
        annotations = root / f"TRAIN_{number}" / "anno"
        names = [name[:-4] for name in _names(annotations) if name.endswith(".txt") and not name.startswith(".")]
        if not names:
            raise Fault(str(annotations), 0, "expected one <video>.txt a video, found none; unpack the set or leave it out of `sets`")
        base = f"TRAIN_{number}"
        located += [Located(f"{base}/{name}", f"{base}/frames/{name}", f"{base}/anno/{name}.txt") for name in sorted(names, key=natural)]
    return located


def find_split_file(root: Path, name: str) -> Path:
    """A split file: absolute, relative to the data set's root, or relative to the working folder, in this order."""
    return root / name if (root / name).exists() else Path(name) if Path(name).exists() else root / name


def pick(names: Sequence[str], root: Path, split_file: str) -> list[int]:
    """Indices of the sequences that a split file picks, in its order: names, or 0-based indices into the whole list, one a line."""
    path = find_split_file(root, split_file)
    by_name = {name: index for index, name in enumerate(names)}
    picked = []
    for line, text in enumerate(read_list(str(path)), 1):
        if text in by_name:
            picked.append(by_name[text])
        elif text.isdecimal() and int(text) < len(names):
            picked.append(int(text))
        else:
            raise Fault(str(path), line, f"expected a sequence name or an index below {len(names)}, found '{text[:60]}'; mend the line")
    return picked


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except OSError as error:
        raise Fault(str(folder), 0, f"expected a folder, found none ({error.strerror}); check the root") from error


def _subfolders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e.name for e in entries if e.is_dir() and not e.name.startswith(".")), key=natural)
    except OSError as error:
        raise Fault(str(folder), 0, f"expected a folder, found none ({error.strerror}); check the root") from error


LAYOUTS: dict[str, Layout] = {
    "got10k": Layout(_got10k, ("folder",), visible=lambda labels: (labels[0] == 0) & (labels[1] > 0)),
    "folder": Layout(_folder, ("folder",), suffixes=IMAGE_SUFFIXES),
    "lasot": Layout(_lasot, visible=lambda labels: (labels[0] == 0) & (labels[1] == 0)),
    "trackingnet": Layout(_trackingnet, ("sets",)),
}
