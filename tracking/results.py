"""What trackers have answered, on disk: OUT/<set>/<tracker>/, one JSON file a sequence, written whole.

So an evaluation goes on where it stopped. tracker.json says which tracker the answers are of; another tracker's folder is refused, with
what differs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import RequestError, RunError
from configs.files import write_atomic
from tracking.one_pass import Pass
from tracking.sequences import Video

TRACKER = "tracker.json"
SEQUENCES = "sequences"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,99}")


def results_folder(out: Path, videos: str, tracker: str) -> Path:
    """The folder of one tracker's answers. RequestError: a name that is no folder's."""
    for what, name in (("data set", videos), ("tracker", tracker)):
        if not _NAME.fullmatch(name):
            raise RequestError(f"{what}: expected a name that a folder can have, found {name!r:.60}; give it as NAME=PATH")
    return out / videos / tracker


class Results:
    """The answers of one tracker on one set of videos."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """identity: of the tracker, as JSON keeps it. RequestError: the folder holds another tracker's answers. Writes nothing."""
        self.folder, self.identity = folder, json.loads(json.dumps(identity))
        path = folder / TRACKER
        if not path.is_file():
            if (folder / SEQUENCES).exists():
                raise RequestError(
                    f"{folder}: expected {TRACKER} beside its sequences, found none; choose another --out or remove the folder"
                )
            return
        held = _read(path)
        if held != self.identity:
            raise RequestError(
                f"{folder}: expected results of this tracker, found another's ({_differences(held, self.identity)});"
                " choose another --out or name (NAME=PATH), or remove the folder"
            )

    def begin(self) -> None:
        """Makes the folder."""
        write_atomic(self.folder / TRACKER, json.dumps(self.identity, indent=1) + "\n")

    def path(self, video: Video) -> Path:
        """The file of one sequence."""
        return self.folder / SEQUENCES / f"{video.name}.json"

    def read(self, video: Video) -> Pass | None:
        """The answers for a sequence; None where there are none, or they are of another one (its first box or its length differs)."""
        path = self.path(video)
        if not path.is_file():
            return None
        held = _read(path)
        try:
            boxes = np.array(held["boxes"], np.float64).reshape(-1, 4)
            scores, seconds = (np.array(held[name], np.float64) for name in ("scores", "seconds"))
            whole = len(boxes) == len(video.frames) == len(scores) == len(seconds) == len(held["states"]) and np.isfinite(boxes).all()
            if not whole or np.abs(boxes[0] - video.truth[0]).max() > 1e-6:
                return None
            return Pass((held["size"][0], held["size"][1]), boxes, scores, tuple(held["states"]), seconds, tuple(held["skipped"]))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise RunError(f"{path}: expected the answers of a tracker, found others ({error}); remove the file") from error

    def read_all(self, videos: Iterable[Video]) -> dict[str, Pass]:
        """The answers that there are, by sequence."""
        return {video.name: held for video in videos if (held := self.read(video)) is not None}

    def write(self, video: Video, answered: Pass) -> None:
        """Keeps the answers for a sequence. RunError: one box a frame, finite, is not what they are."""
        if answered.boxes.shape != (len(video.frames), 4) or not np.isfinite(answered.boxes).all():
            raise RunError(f"{video.name}: expected a finite box for each of {len(video.frames)} frames, found {len(answered.boxes)} boxes")
        content = {
            "size": list(answered.size),
            "skipped": list(answered.skipped),
            "states": list(answered.states),
            "boxes": answered.boxes.tolist(),
            "scores": _listed(answered.scores),
            "seconds": _listed(answered.seconds),
        }
        write_atomic(self.path(video), json.dumps(content, allow_nan=False) + "\n")


def _listed(numbers: np.ndarray) -> list[float | None]:
    """As JSON has them: no number where there is none."""
    return [float(number) if np.isfinite(number) else None for number in numbers]


def _read(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path}: expected JSON, found other text ({error}); remove the file") from error
    if not isinstance(held, dict):
        raise RunError(f"{path}: expected a JSON object, found {type(held).__name__}; remove the file")
    return held


def _differences(held: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> str:
    """`key: held, not wanted` of what differs."""
    lines = []
    for key in dict.fromkeys((*wanted, *held)):
        one, other = held.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            lines += [inner] if (inner := _differences(one, other, f"{prefix}{key}.")) else []
        elif one != other:
            lines.append(f"{prefix}{key}: {one!r:.70}, not {other!r:.70}")
    return "; ".join(lines)
