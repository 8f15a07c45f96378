"""COCO's annotation (arXiv:1405.0312): every non-crowd annotation with a real box is a sequence of one frame.

The JSON is read object by object with the standard library: a file of several hundred MB needs little more than its own size in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.errors import printable
from pairs.annotation import FARTHEST, Fault, Problem, expecting, plausible, read_text, real, require
from pairs.layouts import Options
from precompute.datasets.table import Outlines, Survey, Table

OPTIONS = ("annotations", "images")
_SPACE = re.compile(r"[ \t\n\r]*")


class _Object(NamedTuple):
    """An annotation that is used: its id, that of its image, its box and its outline."""

    id: Any
    image: Any
    box: list[float]
    rings: list[np.ndarray]


def survey(root: Path, split: str, options: Options, *, outlines: bool = False, sizes: bool = False) -> Survey:
    """The annotation file and the folder of images of a split; COCO 2014 by default.

    outlines: the table keeps polygons too; sizes: an image without its width and height is a problem. The signature notices another size
    or modification time of the file, and an image added to, removed from or renamed in the folder.
    """
    file = root / str(options.get("annotations", f"annotations/instances_{split}2014.json"))
    folder = root / str(options.get("images", f"images/{split}2014"))
    require(file, root, "this file", "set `annotations`")
    require(folder, root, "a folder of images", "set `images`")
    with expecting(file, "this file", "restore it or set `annotations`"):
        status = file.stat()
    with expecting(folder, "a folder of images", "restore it or set `images`"):
        modified = folder.stat().st_mtime_ns
    text = repr((str(file), str(folder), status.st_size, status.st_mtime_ns, modified))
    signature = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return Survey(signature, max(status.st_mtime_ns, modified), partial(_scan, root, file, folder, outlines, sizes))


def _scan(root: Path, file: Path, folder: Path, outlines: bool, sizes: bool) -> Table:
    """Reads the annotation. A malformed one, one of an unknown image and a missing image file are problems."""
    images: dict[Any, tuple[str, int, int]] = {}
    objects: list[_Object] = []
    known: set[tuple[Any, Any]] = set()
    problems: list[Problem] = []
    for key, item in _items(str(file), ("images", "annotations")):
        try:
            if key == "images":
                # without them in the file, 0 does where nobody asks
                width, height = (item[side] if sizes else 0 for side in ("width", "height"))
                if sizes and not (type(width) is type(height) is int and 0 < width <= FARTHEST and 0 < height <= FARTHEST):
                    raise ValueError(f"width {width!r:.20} and height {height!r:.20}")
                if item["id"] in images:
                    raise ValueError(f"id {item['id']!r:.20} of another image")
                images[item["id"]] = str(item["file_name"]), width, height
            elif not item.get("iscrowd") and (box := _box(item["bbox"])) is not None:
                if (ids := (item["image_id"], item["id"])) in known:  # a list is no id: a TypeError
                    raise ValueError(f"id {item['id']!r:.20} of another annotation of its image")
                known.add(ids)
                objects.append(_Object(item["id"], item["image_id"], box, _polygons(item) if outlines else []))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            name = item.get("id") if isinstance(item, dict) else None
            problems.append(Problem(str(file), 0, f"{key[:-1]} {name}: expected COCO's fields, found {_short(error)}; mend it or drop it"))
    if not images and not problems:
        raise Fault(str(file), 0, "expected COCO's `images` and `annotations`, found no image; restore the file or set `annotations`")
    missing = _missing(file, folder, images, objects)
    kept = [item for item in objects if item.image not in missing]
    names = [images[item.image][0] for item in kept]
    extents = np.array([images[item.image][1:] for item in kept], np.int32).reshape(-1, 2)
    boxes = np.array([item.box for item in kept], np.float64).reshape(-1, 4)
    return Table(
        sequences=[f"{name}/{item.id}" for name, item in zip(names, kept, strict=True)],
        folders=[os.path.relpath(folder, root)] * len(kept),
        frames=names,
        offsets=np.arange(len(kept) + 1, dtype=np.int64),
        boxes=boxes,
        visible=real(boxes),
        problems=[*problems, *missing.values()],
        dropped=len(problems) + len(objects) - len(kept),
        outlines=Outlines.of([item.rings for item in kept], extents) if outlines else None,
    )


def _missing(file: Path, folder: Path, images: dict[Any, tuple[str, int, int]], objects: list[_Object]) -> dict[Any, Problem]:
    """Images that annotations need and that are not there."""
    present = {f"{os.path.relpath(top, folder)}/{name}".removeprefix("./") for top, _, names in os.walk(folder) for name in names}
    missing: dict[Any, Problem] = {}
    for image in dict.fromkeys(item.image for item in objects):
        if image not in images:
            missing[image] = Problem(str(file), 0, f"expected image {image} of an annotation among the images, found none; mend the file")
        elif images[image][0] not in present:
            missing[image] = Problem(str(folder / images[image][0]), 0, "expected this image, found none; restore it")
    return missing


def _box(values: Any) -> list[float] | None:
    """The box as floats, one of negative size too (it counts as invisible); None for one of no size.

    ValueError: no list of four finite numbers, or beyond any frame.
    """
    if not isinstance(values, list) or len(values) != 4 or not all(type(v) in (int, float) for v in values) or not plausible(values):
        raise ValueError(f"bbox {values!r:.60}")
    return list(map(float, values)) if values[2] and values[3] else None


def _polygons(item: dict[str, Any]) -> list[np.ndarray]:
    """The outline rings (n, 2) float32 of three points and more; run-length masks give none (the box stands in for them)."""
    rings = item.get("segmentation")
    if not isinstance(rings, list):
        return []
    points = [np.array(ring[: len(ring) // 2 * 2], np.float32).reshape(-1, 2) for ring in rings if len(ring) >= 6]
    if not all(map(plausible, points)):
        raise ValueError("an outline beyond any frame")
    return points


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
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
        raise Fault(path, 0, f"expected JSON, found {printable(error, 120)}; restore the file") from error
