"""What a scan of a data set gives, as flat arrays; and its file form."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from configs.files import atomic_writer
from precompute.datasets.text import Problem


@dataclass
class Table:
    """Annotations of the sequences without fault, and the faults of the others.

    S sequences, F frames: names, folders and frames (packed names) are S strings; offsets (S + 1,) int64; boxes (F, 4) float64;
    visible (F,) bool. extra: arrays that a kind keeps besides (polygons of COCO). listed: sequences before faulty ones were left out.
    """

    names: list[str]
    folders: list[str]
    frames: list[str]
    offsets: np.ndarray
    boxes: np.ndarray
    visible: np.ndarray
    problems: list[Problem]
    listed: int
    extra: dict[str, np.ndarray] = field(default_factory=dict)

    def save(self, path: Path, signature: str) -> None:
        """Writes an .npz without pickled objects; atomic."""
        text = {
            "signature": signature,
            "names": self.names,
            "folders": self.folders,
            "frames": self.frames,
            "problems": [[p.file, p.line, p.what] for p in self.problems],
            "listed": self.listed,
        }
        encoded = np.frombuffer(json.dumps(text).encode("ascii"), np.uint8)
        extra: dict[str, Any] = {f"extra_{name}": array for name, array in self.extra.items()}
        with atomic_writer(path) as stream:
            np.savez(stream, text=encoded, offsets=self.offsets, boxes=self.boxes, visible=self.visible, **extra)

    @classmethod
    def load(cls, path: Path, signature: str) -> Table | None:
        """The table that `save` wrote with this signature; None where the file is missing, damaged or of another signature."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                text = json.loads(stored["text"].tobytes())
                if text["signature"] != signature:
                    return None
                extra = {name[6:]: stored[name] for name in stored.files if name.startswith("extra_")}
                offsets, boxes, visible = stored["offsets"], stored["boxes"], stored["visible"]
        # whatever is wrong with an index, scanning again is the answer; np.load names a dozen error types for a damaged file
        except Exception:
            return None
        problems = [Problem(*problem) for problem in text["problems"]]
        return cls(text["names"], text["folders"], text["frames"], offsets, boxes, visible, problems, text["listed"], extra)
