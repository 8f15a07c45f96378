"""Result files in the form of each benchmark, and the zips that its server takes. Checked before a file is written.

Letters: n frames. Boxes (x, y, w, h), 0-based, frame pixels.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from configs.errors import RunError
from configs.files import write_atomic
from tracking.one_pass import Pass
from tracking.sequences import VideoSet

Files = dict[str, str]
"""path in the result folder -> text"""


def _lines(rows: np.ndarray, form: str, joint: str = ",") -> str:
    return "".join(joint.join(form % number for number in row) + "\n" for row in np.atleast_2d(rows))


def _times(answered: Pass) -> np.ndarray:
    """Seconds of each frame; 0 where nothing was asked."""
    return np.nan_to_num(answered.seconds, nan=0.0)[:, None]


def got10k(name: str, answered: Pass) -> Files:
    """`<seq>/<seq>_001.txt` and `<seq>_time.txt`: one repetition, which is what a tracker that always says the same needs."""
    return {f"{name}/{name}_001.txt": _lines(answered.boxes, "%.3f"), f"{name}/{name}_time.txt": _lines(_times(answered), "%.8f")}


def one_file(name: str, answered: Pass) -> Files:
    """`<seq>.txt` and `times/<seq>_time.txt` (OTB, LaSOT, UAV123)."""
    return {f"{name}.txt": _lines(answered.boxes, "%.4f"), f"times/{name}_time.txt": _lines(_times(answered), "%.8f")}


def trackingnet(name: str, answered: Pass) -> Files:
    """`<video>.txt`, two decimals."""
    return {f"{name.rpartition('/')[2]}.txt": _lines(answered.boxes, "%.2f")}


FORMS: dict[str, tuple[Callable[[str, Pass], Files], bool]] = {
    "got10k": (got10k, True),
    "trackingnet": (trackingnet, True),
    "otb": (one_file, False),
    "lasot": (one_file, False),
    "uav123": (one_file, False),
    "folder": (one_file, False),
    "video": (one_file, False),
}
"""Kind of a data set -> its form, and whether its server takes a zip."""


def checked(answers: Mapping[str, Pass], videos: VideoSet) -> Files:
    """All files of one tracker. RunError: a sequence is missing, a count of boxes is wrong, a number is not finite or a side is none."""
    make, _ = FORMS[videos.kind]
    files: Files = {}
    for video in videos.videos:
        answered = answers.get(video.name)
        if answered is None:
            raise RunError(f"{videos.name}: expected answers for all sequences, found none for {video.name}; run the evaluation to its end")
        if fault := _fault(answered.boxes, len(video.frames), video.truth[0]):
            raise RunError(f"{video.name}: {fault}; remove its answers and run the evaluation again")
        made = make(video.name, answered)
        if files.keys() & made.keys():
            raise RunError(f"{videos.name}: expected each sequence once, found two that would be {next(iter(made))}; evaluate them apart")
        files |= made
    return files


def _fault(boxes: np.ndarray, count: int, first: np.ndarray) -> str:
    """What keeps boxes from being results: expected, found; empty where nothing does."""
    if boxes.shape != (count, 4):
        return f"expected {count} boxes, one a frame, found {len(boxes)}"
    bad = np.flatnonzero(~(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)))
    if bad.size:
        return f"expected finite numbers and an area in frame {bad[0] + 1}, found {boxes[bad[0]].tolist()}"
    return "" if np.abs(boxes[0] - first).max() <= 0.01 else f"expected the given box first, found {boxes[0].tolist()}"


def write_files(answers: Mapping[str, Pass], videos: VideoSet, folder: Path) -> Path:
    """Writes one tracker's result files, where the server takes one as a zip beside the folder; the path of what was written.

    RunError: see `checked`; nothing is written then.
    """
    files = checked(answers, videos)
    if videos.problems:
        raise RunError(
            f"{videos.name}: expected all sequences, found {len(videos.problems)} that cannot be read; mend {videos.problems[0].file}"
        )
    if folder.exists():
        shutil.rmtree(folder)
    for path, text in files.items():
        write_atomic(folder / path, text)
    if not FORMS[videos.kind][1]:
        return folder
    packed = folder.with_name(folder.name + ".zip")
    write_atomic(packed, zipped(files))
    return packed


def zipped(files: Files) -> bytes:
    """The files in one archive, their folders at its root; equal files give equal bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files):
            entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, files[path])
    return content.getvalue()
