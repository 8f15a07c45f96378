"""Looking at pairs: a contact sheet of crops with boxes and proposals."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from cache.store import Cache
from configs.errors import RequestError, RunError

_CELL, _MARGIN, _CAPTION = 288, 6, 22  # pixels
_GREEN, _YELLOW, _GREY = (80, 220, 80), (60, 200, 250), (210, 210, 210)  # BGR
_BOXES = ("ref_box", "test_box", "proposals")


def contact_sheet(cache: Cache, pairs: Sequence[int], columns: int = 4) -> np.ndarray:
    """A BGR picture (H, W, 3) uint8: for each pair the ref crop beside the test crop, as stored (without photometry).

    Boxes are green, proposals yellow; the caption names the pair, its sequence and frames where the cache has them.
    """
    tiles = [_tile(cache, pair) for pair in pairs]
    columns = min(columns, len(tiles))
    blank = np.full_like(tiles[0], 24)
    tiles += [blank] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[row : row + columns]) for row in range(0, len(tiles), columns)])


def _tile(cache: Cache, pair: int) -> np.ndarray:
    known = cache.pairs.arrays
    if any(name not in known for name in _BOXES):
        raise RequestError(
            f"{cache.path}: expected arrays {list(_BOXES)} to draw, found {sorted(known)}; view a cache made by `make cache`"
        )
    row = {name: value[0] for name, value in cache.pairs.read(pair, pair + 1).items()}
    tile = np.full((_CELL + _CAPTION + _MARGIN, 2 * (_CELL + _MARGIN), 3), 24, np.uint8)
    refs, tests = cache.read_crops(pair, pair + 1)
    for side, (jpeg, name) in enumerate(((refs[0], "ref_box"), (tests[0], "test_box"))):
        image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        if image is None:
            raise RunError(f"crops, pair {pair}: expected a JPEG file, found other bytes; run `python -m cache verify {cache.path} --deep`")
        scale = _CELL / image.shape[0]
        image = cv2.resize(image, (_CELL, _CELL), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        for box in row["proposals"] if side else ():
            _draw(image, box * scale, _YELLOW, 1)
        _draw(image, row[name] * scale, _GREEN, 2)
        left = side * (_CELL + _MARGIN)
        tile[_CAPTION : _CAPTION + _CELL, left : left + _CELL] = image
    cv2.putText(tile, _caption(cache, pair, row), (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, _GREY, 1, cv2.LINE_AA)
    return tile


def _draw(image: np.ndarray, box: np.ndarray, colour: tuple[int, int, int], thickness: int) -> None:
    x, y, w, h = (float(side) for side in box)
    cv2.rectangle(image, (round(x), round(y)), (round(x + w), round(y + h)), colour, thickness, cv2.LINE_AA)


def _caption(cache: Cache, pair: int, row: dict[str, np.ndarray]) -> str:
    words = [f"pair {pair}"]
    names = cache.metadata.get("sequences", [])
    if "sequence" in row:
        index = int(row["sequence"])
        words.append(str(names[index])[-36:] if 0 <= index < len(names) else f"sequence {index}")
    if "frame" in row:
        words.append("frames {} -> {}".format(*row["frame"].tolist()))
    if "grey" in row and bool(row["grey"]):
        words.append("grey")
    return "  ".join(words)
