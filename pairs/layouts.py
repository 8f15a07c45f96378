"""Where each video data set keeps its frames, boxes and labels: (root, split, options) -> its sequences in order.

Layouts: GOT-10k (arXiv:1810.11981), LaSOT (arXiv:1809.07845), TrackingNet (arXiv:1803.10794), OTB (TPAMI 2015), UAV123 (ECCV 2016), a plain
folder of frames, and video files. Every function reads lists only, and raises `Fault` for a missing or empty one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import RequestError
from pairs.annotation import Fault, expecting, find_split_file, natural, read_list, read_text, require
from pairs.frames import VIDEO_SUFFIXES

Options = Mapping[str, Any]  # of one split of a catalog entry


@dataclass(frozen=True)
class Located:
    """One sequence, its paths relative to the root: folder of frames or video, file of boxes, files of labels.

    part: the first of its frames in the folder, from 0, where a folder holds more frames than the file has boxes; None: it holds as many.
    """

    name: str
    folder: str
    truth: str
    labels: tuple[str, ...] = ()
    part: int | None = None


def got10k(root: Path, split: str, options: Options) -> list[Located]:
    """`{train,val}/list.txt`; option `folder`: train or val, default the split's name."""
    base = str(options.get("folder", split))
    require(root / base / "list.txt", root, "this file", "restore it")
    paths = [(name, os.path.normpath(f"{base}/{name}")) for name in read_list(str(root / base / "list.txt"))]
    return [Located(n, p, f"{p}/groundtruth.txt", (f"{p}/absence.label", f"{p}/cover.label")) for n, p in paths]


def folder(root: Path, split: str, options: Options) -> list[Located]:
    """`groundtruth.txt` beside the frames, in the folder itself or in each of its subfolders; option `folder`, default `.`."""
    base = str(options.get("folder", "."))
    top = root / base
    require(top, root, "a folder", "set `folder`")
    if (top / "groundtruth.txt").is_file():
        return [Located(top.resolve().name, base, os.path.normpath(f"{base}/groundtruth.txt"))]
    names = sorted((entry.name for entry in _visible_entries(top) if entry.is_dir()), key=natural)
    if not names:
        raise Fault(str(top), 0, "expected frames with a groundtruth.txt, or such subfolders, found neither; check the root")
    return [Located(name, p := os.path.normpath(f"{base}/{name}"), f"{p}/groundtruth.txt") for name in names]


def video(root: Path, split: str, options: Options) -> list[Located]:
    """`<name>.mp4` (or another of `VIDEO_SUFFIXES`) with `<name>.txt` beside it, in the folder or its subfolders; option `folder`: `.`."""
    base = str(options.get("folder", "."))
    top = root / base
    require(top, root, "a folder", "set `folder`")
    folders = ["", *sorted((f"{entry.name}/" for entry in _visible_entries(top) if entry.is_dir()), key=natural)]
    located: dict[str, Located] = {}
    for folder in folders:
        names = [entry.name for entry in _visible_entries(top / folder) if entry.name.lower().endswith(VIDEO_SUFFIXES)]
        for name in sorted(names, key=natural):
            stem = folder + name.rpartition(".")[0]
            path = os.path.normpath(f"{base}/{folder}{name}")
            if stem in located:
                raise Fault(f"{root}/{path}", 0, f"expected one video for {stem}.txt, found {located[stem].folder} too; rename one of them")
            located[stem] = Located(stem, path, os.path.normpath(f"{base}/{stem}.txt"))
    if not located:
        raise Fault(str(top), 0, f"expected videos ({', '.join(VIDEO_SUFFIXES)}) with a .txt each, found none; check the root")
    return list(located.values())


def lasot(root: Path, split: str, options: Options) -> list[Located]:
    """`<class>/<class>-<n>/`, the sequences that the split file names (a must: LaSOT's folders mix train and test)."""
    default = "training_set.txt" if split == "train" else "testing_set.txt"
    split_file = str(find_split_file(root, str(options.get("split_file", default))))
    require(Path(split_file), root, "this file", "restore it")
    located = []
    for name, line in read_list(split_file).items():
        if "-" not in name:
            raise Fault(split_file, line, f"expected <class>-<number>, found '{name[:60]}'; mend the line")
        path = f"{name.rpartition('-')[0]}/{name}"
        labels = (f"{path}/full_occlusion.txt", f"{path}/out_of_view.txt")
        located.append(Located(name, f"{path}/img", f"{path}/groundtruth.txt", labels))
    return located


def trackingnet(root: Path, split: str, options: Options) -> list[Located]:
    """`TRAIN_<set>/{frames/<video>/,anno/<video>.txt}`, videos in natural order; option `sets`, default 0-10, val: 11."""
    sets = options.get("sets", range(11) if split == "train" else (11,))
    chosen = list(sets) if isinstance(sets, Sequence) else []
    if not chosen or not all(type(i) is int and 0 <= i <= 11 for i in chosen) or len(set(chosen)) < len(chosen):
        raise RequestError(f"option sets: expected a list of numbers in 0-11, each once, found {sets!r:.60}; e.g. sets: [0, 1]")
    there = [number for number in chosen if (root / f"TRAIN_{number}" / "anno").is_dir()]
    if not there:
        require(root / f"TRAIN_{chosen[0]}" / "anno", root, "a folder", "unpack the set")
    if absent := [number for number in chosen if number not in there]:
        lacking = ", ".join(f"TRAIN_{number}" for number in absent)
        what = f"expected the sets {chosen}, found no {lacking}; unpack them or write `sets: {there}` in the entry"
        raise Fault(str(root), 0, what, {"sets": there})
    located = []
    for base in (f"TRAIN_{number}" for number in chosen):
        annotations = root / base / "anno"
        names = [entry.name[:-4] for entry in _visible_entries(annotations) if entry.name.endswith(".txt")]
        if not names:
            raise Fault(str(annotations), 0, "expected one <video>.txt a video, found none; unpack the set or leave it out of `sets`")
        located += [Located(f"{base}/{name}", f"{base}/frames/{name}", f"{base}/anno/{name}.txt") for name in sorted(names, key=natural)]
    return located


def trackingnet_test(root: Path, split: str, options: Options) -> list[Located]:
    """`TEST/{frames/<video>/,anno/<video>.txt}`, of which the first box alone is published."""
    names = _text_files(root / "TEST" / "anno", root)
    return [Located(name, f"TEST/frames/{name}", f"TEST/anno/{name}.txt") for name in names]


EVALUATED_ONLY = ("otb", "uav123")
"""Kinds of whose sequences none is trained on."""
OTB_STARTS = {"David": 299}
"""OTB: the first frame (from 0) that the boxes belong to, where it is not the first of the folder."""
UAV123_STARTS = {
    "bird1_2": 774,
    "bird1_3": 1572,
    "car1_2": 750,
    "car1_3": 1626,
    "car6_2": 486,
    "car6_3": 1806,
    "car6_4": 2952,
    "car6_5": 3924,
    "car8_2": 1356,
    "car16_2": 414,
    "group1_2": 1332,
    "group1_3": 2514,
    "group1_4": 3924,
    "group2_2": 906,
    "group2_3": 1770,
    "group3_2": 1566,
    "group3_3": 2826,
    "group3_4": 4368,
    "person2_2": 1188,
    "person4_2": 1500,
    "person5_2": 876,
    "person7_2": 1248,
    "person8_2": 1074,
    "person12_2": 600,
    "person14_2": 846,
    "person14_3": 1812,
    "person17_2": 1500,
    "person19_2": 1242,
    "person19_3": 2790,
    "truck4_2": 576,
    "uav1_2": 1554,
    "uav1_3": 2472,
}
"""UAV123: the same, of the sequences that share a folder of frames with others."""


def otb(root: Path, split: str, options: Options) -> list[Located]:
    """`<name>/{img/,groundtruth_rect.txt}`; two targets (`groundtruth_rect.1.txt` and `.2.txt`) are <name>.1 and <name>.2.

    An empty file is none, but a folder with img/ must have one.
    """
    located = []
    with expecting(root, "a folder", "check the root"):
        for entry in sorted((entry for entry in _visible_entries(root) if entry.is_dir()), key=lambda entry: natural(entry.name)):
            files = [file for file in sorted(Path(entry).glob("groundtruth_rect*.txt")) if _has_text(str(file))]
            if not files and Path(entry, "img").is_dir():
                files = [Path(entry, "groundtruth_rect.txt")]
            for number, file in enumerate(files, 1):
                name = entry.name if len(files) == 1 else f"{entry.name}.{number}"
                truth = f"{entry.name}/{file.name}"
                located.append(Located(name, f"{entry.name}/img", truth, part=OTB_STARTS.get(entry.name, 0)))
    if not located:
        raise Fault(str(root), 0, "expected folders with img/ and groundtruth_rect.txt, found none; check the root")
    return located


def _has_text(path: str) -> bool:
    try:
        return bool(read_text(path).strip())
    except Fault:  # of one sequence, told of where it is read
        return True


def uav123(root: Path, split: str, options: Options) -> list[Located]:
    """`anno/UAV123/<name>.txt` and `data_seq/UAV123/<folder>/`; <name>s such as car1_2 are parts of one folder."""
    located = []
    for name in _text_files(root / "anno" / "UAV123", root):
        base, _, number = name.rpartition("_")
        shared = name in UAV123_STARTS or (number == "1" and f"{base}_2" in UAV123_STARTS)
        folder = f"data_seq/UAV123/{base if shared else name}"
        located.append(Located(name, folder, f"anno/UAV123/{name}.txt", part=UAV123_STARTS.get(name, 0)))
    return located


def _text_files(folder: Path, root: Path) -> list[str]:
    """Names, without .txt, of the text files of a folder. `Fault`: no folder, or none in it."""
    require(folder, root, "a folder", "unpack the data set")
    names = [entry.name[:-4] for entry in _visible_entries(folder) if entry.name.endswith(".txt")]
    if not names:
        raise Fault(str(folder), 0, "expected one <sequence>.txt a sequence, found none; unpack the data set")
    return sorted(names, key=natural)


def _visible_entries(path: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, in no order; hidden files are left out."""
    with expecting(path, "a folder", "check the root"), os.scandir(path) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]
