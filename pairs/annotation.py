"""The small text files of data sets: lists, boxes, labels; and names of frames. The same for caching and for tracking.

Every function returns its value or raises `Fault` with the file and line, so that one scan can collect all of them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from configs.errors import printable
from configs.files import read_regular

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
FARTHEST = 1_000_000  # pixels; no frame is as large
_JOINT = "\0"  # the one character that no file name holds, beside the slash
_COUNTED = re.compile(r"(.*?)(\d+)(\D*)")


class Problem(NamedTuple):
    """One thing wrong with a data set: the file, the line (from 1; 0 = the file as a whole) and what is wrong."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}{f':{self.line}' if self.line else ''}: {self.what}"


class Fault(Exception):
    """Carries a `Problem` up to whoever scans a data set; no user sees it as it is."""

    def __init__(self, file: str, line: int, what: str, rest: Mapping[str, Any] | None = None) -> None:
        """rest: options with which the rest of the data set can be read all the same."""
        super().__init__(file, line, what)
        self.problem, self.rest = Problem(file, line, what), rest


@contextmanager
def expecting(path: Path | str, what: str, remedy: str) -> Iterator[None]:
    """Turns an error of the operating system about this file or folder into a `Fault`."""
    try:
        yield
    except OSError as error:
        raise Fault(str(path), 0, f"expected {what}, found none ({error.strerror}); {remedy}") from error
    except ValueError as error:  # a path that no file can have
        raise Fault(printable(path), 0, f"expected {what}, found none ({error}); {remedy}") from error


def read_text(path: str) -> str:
    """The text of a small file, `\\n` line ends, without a byte-order mark."""
    with expecting(path, "this file", "restore it"):
        content = read_regular(Path(path))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Fault(path, content.count(b"\n", 0, error.start) + 1, "expected text, found other bytes; restore the file") from error
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def require(path: Path, root: Path, what: str, remedy: str) -> None:
    """`Fault` where nothing lies at `path`: it says what lies in the deepest folder above it that is there, at most in `root`."""
    if path.exists():
        return
    above = next((folder for folder in path.parents if folder.is_dir()), root)
    names = sorted(name for name in os.listdir(above) if not name.startswith("."))
    held = ", ".join(f"{name!r:.40}" for name in names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
    raise Fault(str(path), 0, f"expected {what}, found none, {above} holds {held or 'nothing'}; correct the root ({root}) or {remedy}")


def read_list(path: str) -> dict[str, int]:
    """The non-empty lines of a list file, in order, each with its number (from 1). A line that comes twice is a fault."""
    names: dict[str, int] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if (name := line.strip()) in names:
            raise Fault(path, number, f"expected each name once, found '{name[:60]}' in lines {names[name]} and {number}; drop one")
        if name:
            names[name] = number
    if not names:
        raise Fault(path, 0, "expected one name a line, found an empty file; restore it")
    return names


def find_split_file(root: Path, name: str) -> Path:
    """A split file: absolute, relative to the data set's root, or relative to the working folder, in this order."""
    return root / name if (root / name).exists() else Path(name) if Path(name).exists() else root / name


def sequences_named(split_file: str, names: Sequence[str], root: Path) -> list[int]:
    """Indices of the sequences that a split file picks, in its order: names, or 0-based indices into the whole list, one a line."""
    path = str(find_split_file(root, split_file))
    by_name = {name: index for index, name in enumerate(names)}
    require(Path(path), root, "this file", "restore it")
    picked: dict[int, int] = {}
    for text, line in read_list(path).items():
        index = by_name.get(text, int(text) if text.isdecimal() and len(text) < 10 else len(names))
        if index >= len(names):
            raise Fault(path, line, f"expected a sequence name or an index below {len(names)}, found '{text[:60]}'; mend the line")
        if index in picked:
            what = f"expected each sequence once, found {names[index][:60]} in lines {picked[index]} and {line}; drop one"
            raise Fault(path, line, what)
        picked[index] = line
    return list(picked)


class Labels(NamedTuple):
    """What a file says of the frames, one row each, and what is wrong with some of the rows (whose values are zero)."""

    values: np.ndarray
    faults: dict[int, Problem]


def box_rows(path: str) -> Labels:
    """Boxes (n, 4) float64, one `x,y,w,h` a line, separated by commas, tabs, semicolons or spaces.

    Blank lines at the end are dropped. A zero-size box is a value like any other (an invisible frame), and so is a row of four NaN
    (UAV123, NfS: the target is absent), which becomes 0,0,0,0. A line that does not hold four finite numbers is a faulty row, and so is
    one with a number of more than `FARTHEST`.
    """
    text = read_text(path).rstrip()
    lines = text.split("\n") if text else []
    # one pass over the whole file where every line has three commas; anything else, faults too, is read line by line
    if lines and all(line.count(",") == 3 for line in lines):
        with suppress(ValueError):
            boxes = np.array(list(map(float, text.replace("\n", ",").split(","))), np.float64).reshape(-1, 4)
            if plausible(boxes):
                return Labels(boxes, {})
    rows = [_box(path, number, line) for number, line in enumerate(lines, 1)]
    boxes = np.array([[0.0] * 4 if isinstance(row, Problem) else row for row in rows], np.float64).reshape(-1, 4)
    return Labels(boxes, {index: row for index, row in enumerate(rows) if isinstance(row, Problem)})


def read_boxes(path: str) -> np.ndarray:
    """As `box_rows`, of a file whose rows are all needed: a faulty one is a `Fault`."""
    return _faultless(box_rows(path))


def _faultless(labels: Labels) -> np.ndarray:
    for fault in labels.faults.values():
        raise Fault(*fault)
    return labels.values


def _box(path: str, number: int, line: str) -> list[float] | Problem:
    values: list[float] = []
    with suppress(ValueError):
        values = [float(field) for field in re.split(r"[,;\s]+", line) if field]
    if len(values) != 4:
        return Problem(path, number, f"expected four numbers x,y,w,h, found '{line.strip()[:60]}'; mend the line")
    if all(map(math.isnan, values)):
        return [0.0] * 4
    if not all(map(math.isfinite, values)):
        return Problem(path, number, f"expected finite numbers, found '{line.strip()[:60]}'; mend the line")
    if not plausible(values):
        return Problem(path, number, f"expected numbers up to {FARTHEST:,}, found '{line.strip()[:60]}', beyond any frame; mend the line")
    return values


def plausible(numbers: ArrayLike) -> bool:
    """Whether all numbers are finite and within +-FARTHEST, as those of a box in a frame are."""
    return bool((np.abs(numbers) <= FARTHEST).all())


def real(boxes: np.ndarray) -> np.ndarray:
    """Which boxes (n, 4) are of a pixel and more on both sides, (n,) bool: of a smaller one nothing can be seen."""
    return np.asarray((boxes[:, 2] >= 1) & (boxes[:, 3] >= 1))


def with_area(boxes: np.ndarray) -> np.ndarray:
    """Which boxes (n, 4) have an area, (n,) bool: where trackers are evaluated, the others say that there is no target."""
    return np.asarray((boxes[:, 2:] > 0).all(axis=1))


def label_rows(path: str) -> Labels:
    """Integers (n,) int64, one a line or all on one comma-separated line. One of more than nine digits, or none, is a faulty row."""
    text = read_text(path)
    with suppress(ValueError, OverflowError):
        return Labels(np.array(list(map(int, text.replace(",", " ").split())), np.int64), {})
    fields = [(number, field) for number, line in enumerate(text.split("\n"), 1) for field in line.replace(",", " ").split()]
    whole = [re.fullmatch(r"[-+]?[0-9]{1,9}", field) is not None for _, field in fields]
    faults = {
        index: Problem(path, number, f"expected whole numbers, found '{field[:40]}'; mend the line")
        for index, (number, field) in enumerate(fields)
        if not whole[index]
    }
    return Labels(np.array([int(field) if fine else 0 for (_, field), fine in zip(fields, whole, strict=True)], np.int64), faults)


def read_labels(path: str) -> np.ndarray:
    """As `label_rows`, of a file whose rows are all needed: a faulty one is a `Fault`."""
    return _faultless(label_rows(path))


def natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that reads decimal digits as numbers: 2.jpg before 10.jpg. Others, as a circled or a raised one, are letters."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]


def sort_names(names: list[str]) -> list[str]:
    """Names in natural order (which is the plain order where all have their last dot at one place)."""
    return sorted(names) if len({name.rfind(".") for name in names}) <= 1 else sorted(names, key=natural)


def frame_names(folder: str) -> list[str]:
    """Names of the frames in a folder, of any kind of image, in natural order; hidden files (`._1.jpg` of macOS) are none."""
    with expecting(folder, "a folder of frames", "unpack the sequence or drop it"):
        names = os.listdir(folder)
    return sort_names([name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")])


def pack_names(names: list[str]) -> str:
    """One string for the frame names of a sequence: the first name where the others count up from it, else all, joined by NUL."""
    if names and (match := _COUNTED.fullmatch(names[0])):
        head, digits, tail = match.groups()
        start, width = int(digits), len(digits)
        if all(name == f"{head}{number:0{width}d}{tail}" for number, name in enumerate(names, start)):
            return names[0]
    return _JOINT.join(names)


def unpack_name(packed: str, frame: int) -> str:
    """Name of frame `frame` (from 0) of a sequence packed by `pack_names`."""
    if _JOINT in packed:
        return packed.split(_JOINT)[frame]
    if frame == 0:
        return packed
    if (match := _COUNTED.fullmatch(packed)) is None:
        raise IndexError(frame)
    head, digits, tail = match.groups()
    return f"{head}{int(digits) + frame:0{len(digits)}d}{tail}"
