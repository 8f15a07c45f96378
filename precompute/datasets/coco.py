"""COCO's annotation (arXiv:1405.0312): every non-crowd annotation with a real box is a sequence of one frame.

The JSON is read object by object with the standard library: a file of several hundred MB needs little more than its own size in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from precompute.datasets.table import Table
from precompute.datasets.text import Fault, Problem, read_text

OPTIONS = ("annotations", "images")
_SPACE = re.compile(r"[ \t\n\r]*")


def _flat(masks: list[list[np.ndarray]]) -> dict[str, np.ndarray]:
    """Outlines of S sequences, rings (n, 2) each, as flat arrays.

    points (P, 2) float32; ring r is points[rings[r] : rings[r + 1]]; the rings of sequence s are masks[s] ... masks[s + 1] - 1.
    """
    rings = [ring for mask in masks for ring in mask]
    return {
        "points": np.concatenate([np.empty((0, 2), np.float32), *rings]),
        "rings": np.cumsum([0, *map(len, rings)], dtype=np.int64),
        "masks": np.cumsum([0, *map(len, masks)], dtype=np.int64),
    }


def files(root: Path, split: str, options: dict[str, Any]) -> tuple[Path, Path]:
    """The annotation file and the folder of images; COCO 2014 by default."""
    annotations = root / str(options.get("annotations", f"annotations/instances_{split}2014.json"))
    return annotations, root / str(options.get("images", f"images/{split}2014"))


def signature(root: Path, split: str, options: dict[str, Any]) -> tuple[str, int]:
    """Notices another size or modification time of the JSON file, and an image added to, removed from or renamed in the folder."""
    annotations, images = files(root, split, options)
    try:
        status = annotations.stat()
    except OSError as error:
        raise Fault(str(annotations), 0, f"expected this file, found none ({error.strerror}); restore it or set `annotations`") from error
    try:
        modified = images.stat().st_mtime_ns
    except OSError as error:
        raise Fault(str(images), 0, f"expected a folder of images, found none ({error.strerror}); restore it or set `images`") from error
    text = repr((str(annotations), str(images), status.st_size, status.st_mtime_ns, modified))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest(), max(status.st_mtime_ns, modified)


def scan(root: Path, split: str, options: dict[str, Any], masks: bool) -> Table:
    """Reads the annotation; masks: keep image sizes and polygons too (`Table.extra`: size (S, 2) as w, h, and those of `_flat`).

    A malformed annotation, one of an unknown image and a missing image file are problems.
    """
    file, folder = files(root, split, options)
    images: dict[Any, tuple[str, int, int]] = {}
    found: list[tuple[Any, Any, list[float], list[np.ndarray]]] = []
    problems: list[Problem] = []
    for key, item in _items(str(file), ("images", "annotations")):
        try:
            if key == "images":
                images[item["id"]] = str(item["file_name"]), int(item["width"]), int(item["height"])
            elif not item.get("iscrowd") and (box := _box(item["bbox"])) is not None:
                found.append((item["id"], item["image_id"], box, _polygons(item) if masks else []))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            name = item.get("id") if isinstance(item, dict) else None
            problems.append(Problem(str(file), 0, f"{key[:-1]} {name}: expected COCO's fields, found {_short(error)}; mend it or drop it"))
    if not images:
        raise Fault(str(file), 0, "expected COCO's `images` and `annotations`, found no image; restore the file or set `annotations`")
    listed = len(found) + len(problems)
    problems += _missing(file, folder, images, found)
    return _table(root, folder, images, found, problems, listed, masks)


def _missing(file: Path, folder: Path, images: dict[Any, tuple[str, int, int]], found: list[Any]) -> list[Problem]:
    """Images that annotations need and that are not there; their annotations are taken out of `found`."""
    present = {f"{os.path.relpath(top, folder)}/{name}".removeprefix("./") for top, _, names in os.walk(folder) for name in names}
    absent: dict[Any, Problem] = {}
    for _, image, _, _ in found:
        if image in absent:
            continue
        if image not in images:
            absent[image] = Problem(str(file), 0, f"expected image {image} of an annotation among the images, found none; mend the file")
        elif images[image][0] not in present:
            absent[image] = Problem(str(folder / images[image][0]), 0, "expected this image, found none; restore it")
    found[:] = [one for one in found if one[1] not in absent]
    return list(absent.values())


def _table(
    root: Path, folder: Path, images: dict[Any, tuple[str, int, int]], found: list[Any], problems: list[Problem], listed: int, masks: bool
) -> Table:
    names = [images[image][0] for _, image, _, _ in found]
    extra: dict[str, np.ndarray] = {}
    if masks:
        sizes = np.array([images[image][1:] for _, image, _, _ in found], np.int32).reshape(-1, 2)
        extra = {"size": sizes, **_flat([rings for *_, rings in found])}
    return Table(
        names=[f"{name}/{annotation}" for name, (annotation, *_) in zip(names, found, strict=True)],
        folders=[os.path.relpath(folder, root)] * len(found),
        frames=names,
        offsets=np.arange(len(found) + 1, dtype=np.int64),
        boxes=np.array([box for _, _, box, _ in found], np.float64).reshape(-1, 4),
        visible=np.ones(len(found), bool),
        problems=problems,
        listed=listed,
        extra=extra,
    )


def _box(values: Any) -> list[float] | None:
    """The box as floats; None for one of zero size. ValueError: not four finite numbers."""
    box = [float(value) for value in values]
    if len(box) != 4 or not np.isfinite(box).all():
        raise ValueError(f"bbox {values}")
    return box if box[2] > 0 and box[3] > 0 else None


def _polygons(item: dict[str, Any]) -> list[np.ndarray]:
    """The outline rings (n, 2) float32 of three points and more; run-length masks give none (the box stands in for them)."""
    rings = item.get("segmentation")
    if not isinstance(rings, list):
        return []
    return [np.array(ring[: len(ring) // 2 * 2], np.float32).reshape(-1, 2) for ring in rings if len(ring) >= 6]


def _short(error: Exception) -> str:
    return f"{'no ' if isinstance(error, KeyError) else ''}{' '.join(str(error).split())[:80]}"


def _items(path: str, wanted: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """The elements of the wanted top-level arrays of a JSON file, one by one."""
    text, decoder = read_text(path), json.JSONDecoder()

    def skip(place: int) -> int:
        return _SPACE.match(text, place).end()  # type: ignore[union-attr]

    def expect(characters: str, place: int) -> int:
        if text[place : place + 1] not in tuple(characters):
            raise json.JSONDecodeError(f"expected {' or '.join(characters)}", text, place)
        return place

    try:
        place = expect("{", skip(0))
        start = skip(place + 1)
        place = start if text[start : start + 1] == "}" else place
        while text[place] != "}":
            key, place = decoder.raw_decode(text, skip(place + 1))
            place = skip(expect(":", skip(place)) + 1)
            if key in wanted and text[place : place + 1] == "[":
                start = skip(place + 1)
                place = start if text[start : start + 1] == "]" else place
                while text[place] != "]":
                    value, place = decoder.raw_decode(text, skip(place + 1))
                    yield key, value
                    place = expect(",]", skip(place))
                place += 1
            else:
                _, place = decoder.raw_decode(text, place)
            place = expect(",}", skip(place))
    except json.JSONDecodeError as error:
        raise Fault(path, error.lineno, f"expected JSON, found a fault at column {error.colno} ({error.msg}); restore the file") from error
