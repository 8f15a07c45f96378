"""Looking at pairs: a contact sheet of crops with boxes and proposals."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from cache.store import Cache
from configs.errors import RequestError, RunError

_CELL, _MARGIN, _CAPTION = 288, 6, 22  # pixels
_GREEN, _YELLOW, _GREY, _DARK = (80, 220, 80), (60, 200, 250), (210, 210, 210), (24, 24, 24)  # BGR
_LEGEND = (("left: ref crop, right: test crop", _GREY), ("green: annotated box", _GREEN), ("yellow: proposals", _YELLOW))
_BOXES = ("ref_box", "test_box", "proposals")


def contact_sheet(cache: Cache, pairs: Sequence[int], columns: int = 4) -> np.ndarray:
    """A BGR picture (H, W, 3) uint8: for each pair the ref crop beside the test crop, as stored (without photometry).

    Each crop fills a cell, whatever its size. The caption names the pair, its sequence and frames where the cache has them;
    the last line says what the colours mean.
    """
    tiles = [_tile(cache, pair) for pair in pairs]
    columns = min(columns, len(tiles))
    height, width = tiles[0].shape[:2]
    tiles += [_blank(height, width)] * (-len(tiles) % columns)
    legend, left = _blank(_CAPTION, columns * width), 4
    for text, colour in _LEGEND:
        left += _write(legend, text, left, colour) + 24
    return np.vstack([*(np.hstack(tiles[row : row + columns]) for row in range(0, len(tiles), columns)), legend])


def _blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), _DARK, np.uint8)


def _write(image: np.ndarray, text: str, left: int, colour: tuple[int, int, int]) -> int:
    """Writes on the first line of a picture; the width of the text in pixels."""
    cv2.putText(image, text, (left, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
    return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)[0][0]


def _tile(cache: Cache, pair: int) -> np.ndarray:
    known = cache.pairs.arrays
    if any(name not in known for name in _BOXES):
        raise RequestError(
            f"{cache.path}: expected arrays {list(_BOXES)} to draw, found {sorted(known)}; view a cache made by `make cache`"
        )
    row = {name: value[0] for name, value in cache.pairs.read(pair, pair + 1).items()}
    tile = _blank(_CELL + _CAPTION + _MARGIN, 2 * (_CELL + _MARGIN))
    refs, tests = cache.read_crops(pair, pair + 1)
    for side, (jpeg, name) in enumerate(((refs[0], "ref_box"), (tests[0], "test_box"))):
        image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        if image is None:
            raise RunError(f"crops, pair {pair}: expected a JPEG file, found other bytes; run `python -m cache verify {cache.path} --deep`")
        scale = _CELL / max(image.shape[:2])
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        for box in row["proposals"] if side else ():
            _draw(image, box * scale, _YELLOW, 1)
        _draw(image, row[name] * scale, _GREEN, 2)
        left = side * (_CELL + _MARGIN)
        tile[_CAPTION : _CAPTION + size[1], left : left + size[0]] = image
    _write(tile, _caption(cache, pair, row), 4, _GREY)
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
