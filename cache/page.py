"""Looking at a cache in a browser: one HTML file that needs no network. What it shows is what training reads.

Letters: n pairs, N proposals a pair, H W of a map. Boxes (x, y, w, h) in crop pixels.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from cache import figures
from cache.store import Cache
from cache.unit import Unit
from configs.errors import RequestError, RunError

SIDE = 288  # pixels that a crop is drawn with
GREEN, LOW, EQUAL, HIGH = "#35c55c", (49, 108, 244), (190, 190, 190), (224, 46, 46)
BOXES = ("ref_box", "test_box", "proposals")
_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:24px;color:#222;background:#fff}h1{font-size:20px}h2{font-size:16px;margin-top:28px}
svg text{font:11px system-ui,sans-serif;fill:#444}figure{margin:0 18px 14px 0;display:inline-block;vertical-align:top}
figcaption{font-size:12px;color:#444}table{border-collapse:collapse}th{text-align:left;font-weight:500;padding:1px 14px 1px 0}
.pair{display:inline-block;margin:0 14px 18px 0;vertical-align:top}.pair p{margin:0 0 3px;font-size:12px}
.crop{position:relative;display:inline-block;margin-right:4px}.crop img,.crop svg{position:absolute;left:0;top:0}
.map{opacity:0;image-rendering:auto}nav{position:sticky;top:0;background:#fff;padding:6px 0;border-bottom:1px solid #ddd;z-index:2}
label{margin-right:14px}.key i{display:inline-block;width:12px;height:12px;margin:0 4px 0 12px;border-radius:2px}"""
_SCRIPT = """
const strength=document.getElementById('strength'),shown=document.getElementById('shown'),boxes=document.getElementById('boxes');
function draw(){document.querySelectorAll('.map').forEach(m=>m.style.opacity=m.dataset.layer===shown.value?strength.value:0);
document.querySelectorAll('.crop svg').forEach(s=>s.style.display=boxes.checked?'':'none');}
[strength,shown,boxes].forEach(e=>e.addEventListener('input',draw));
const asked=decodeURIComponent(location.hash.slice(1));if([...shown.options].some(o=>o.value===asked))shown.value=asked;draw();"""


class Numbers(NamedTuple):
    """What is known of all readable pairs: their numbers (n,), boxes, the true IoU (n, N), and the teacher's (n, N) or None."""

    pairs: np.ndarray
    rows: dict[str, np.ndarray]
    true: np.ndarray
    teacher: np.ndarray | None

    @property
    def disagreement(self) -> np.ndarray:
        """Mean distance (n,) of the teacher's IoU from the true one."""
        return np.zeros(len(self.pairs)) if self.teacher is None else np.abs(self.teacher - self.true).mean(axis=1)


def overlap(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """IoU (n, N) of boxes (n, N, 4) with one box a pair (n, 4).

    What `pairs.boxes.box_iou` gives: this room knows no other (a test holds them equal).
    """
    box = box[:, None]
    low, high = np.maximum(boxes[..., :2], box[..., :2]), np.minimum(boxes[..., :2] + boxes[..., 2:], box[..., :2] + box[..., 2:])
    inter = np.maximum(high - low, 0).prod(axis=-1)
    union = boxes[..., 2:].prod(axis=-1) + box[..., 2:].prod(axis=-1) - inter
    return np.asarray(inter / np.where(union > 0, union, 1))


def numbers_of(cache: Cache, teacher: str | None) -> Numbers:
    """The numbers of every pair that is there, of a teacher where it has been cached. RequestError: no pair, or none of our boxes."""
    if any(name not in cache.pairs.arrays for name in BOXES):
        raise RequestError(f"{cache.path}: expected arrays {list(BOXES)} to draw, found {sorted(cache.pairs.arrays)}; view another cache")
    unit = None if teacher is None else cache.target(teacher, "iou")
    needed = [cache.pairs, *([unit] if unit is not None else [])]
    missing = {part for one in needed for part in one.missing()}
    bounds = [cache.bounds(part) for part in range(cache.parts) if part not in missing]
    if not bounds:
        raise RequestError(f"{cache.path}: expected a finished part to show, found none; run the same `make cache` again")
    parts = [cache.pairs.read(*bound) for bound in bounds]
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    labels = None if unit is None else np.concatenate([unit.read(*bound)["iou"] for bound in bounds]).astype(np.float64)
    true = overlap(rows["proposals"].astype(np.float64), rows["test_box"].astype(np.float64))
    # four numbers a proposal (DRNet) are no IoU
    said = (labels + 1) / 2 if labels is not None and labels.shape == true.shape else None
    return Numbers(np.concatenate([np.arange(*bound) for bound in bounds]), rows, true, said)


def chosen_teacher(cache: Cache, name: str | None) -> str | None:
    """The teacher to show: the one named, else the first with IoUs; None where no teacher has any. RequestError: no such teacher."""
    with_iou = [teacher for teacher, target in cache.target_names() if target == "iou"]
    if name is not None and name not in cache.teachers():
        raise RequestError(
            f"--teacher: expected one of {', '.join(cache.teachers()) or 'none'} of {cache.path}, found '{name}'; correct it"
        )
    return name or next(iter(with_iou), None)


def page(cache: Cache, pairs: Sequence[int] | None, worst: int | None = None, teacher: str | None = None) -> str:
    """The page of some pairs, or of the `worst` ones: those in which the teacher is furthest from the true IoU.

    RequestError: nothing to show, a pair that is not there, or no teacher to rank by.
    """
    teacher = chosen_teacher(cache, teacher)
    numbers = numbers_of(cache, teacher)
    if worst is not None:
        if numbers.teacher is None:
            raise RequestError(f"{cache.path}: expected a teacher's IoUs to find where it is worst, found none; leave --worst out")
        places = np.argsort(-numbers.disagreement, kind="stable")[:worst].tolist()
    else:
        where = {int(pair): place for place, pair in enumerate(numbers.pairs)}
        if lost := [pair for pair in pairs or () if pair not in where]:
            raise RequestError(f"{cache.path}: expected pairs that are finished, found none of {lost[:5]}; run the same `make cache` again")
        places = [where[pair] for pair in pairs or ()]
    maps = _maps(cache, teacher)
    tiles = "".join(_tile(cache, numbers, place, maps) for place in places)
    name = html.escape(cache.path.name if hasattr(cache.path, "name") else str(cache.path))
    heading = "Pairs in which the teacher is furthest from the truth" if worst is not None else "Pairs"
    layers = "".join(f"<option>{html.escape(layer)}</option>" for layer in ("none", *dict.fromkeys(key.rpartition("_")[0] for key in maps)))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style><h1>{name}</h1>'
        f"{_facts(cache, numbers, teacher)}<h2>Distributions</h2>{_distributions(numbers)}<h2>{heading}</h2>"
        f'<nav><label>teacher energy <select id="shown">{layers}</select></label><label>strength '
        f'<input id="strength" type="range" min="0" max="1" step="0.05" value="0.55"></label>'
        f'<label><input id="boxes" type="checkbox" checked> boxes</label>{_key(numbers)}</nav>'
        f"<p>Left: ref crop, right: test crop, as stored (without brightness and grey).</p>{tiles}<script>{_SCRIPT}</script></html>\n"
    )


def _facts(cache: Cache, numbers: Numbers, teacher: str | None) -> str:
    identity = cache.identity
    rows: list[tuple[str, object]] = [(key, identity[key]) for key in ("dataset", "split", "seed") if key in identity]
    rows += [("pairs", f"{len(numbers.pairs):,} of {cache.count:,}"), ("teacher", teacher or "none"), ("fingerprint", cache.fingerprint)]
    if teacher is not None and numbers.teacher is None:
        rows.append(("note", "this teacher gives four numbers a proposal, no IoU: proposals are coloured by the truth alone"))
    return figures.table(rows)


def _distributions(numbers: Numbers) -> str:
    rows, size = numbers.rows, np.sqrt(np.maximum(numbers.rows["test_box"][:, 2:].prod(axis=1), 0))
    parts = [figures.histogram(numbers.true.ravel(), "true IoU of the proposals", 0, 1)]
    if numbers.teacher is not None:
        parts.append(figures.histogram(numbers.teacher.ravel(), "the teacher's IoU", 0, 1))
        parts.append(figures.histogram((numbers.teacher - numbers.true).ravel(), "the teacher's IoU less the true one", -1, 1))
    parts.append(figures.histogram(size, "size of the target in the test crop, sqrt(w h), pixels", 0, float(size.max(initial=1))))
    if "frame" in rows:
        apart = np.diff(rows["frame"].astype(np.int64), axis=1)[:, 0]
        reach = float(max(np.abs(apart).max(initial=1), 1))
        parts.append(figures.histogram(apart.astype(float), "test frame less ref frame", -reach, reach))
    if "brightness" in rows:
        parts.append(figures.histogram(rows["brightness"].ravel(), "brightness factors", 0.5, 1.5))
    if numbers.teacher is not None:
        parts.append(figures.density(numbers.true.ravel(), numbers.teacher.ravel(), ("true IoU", "the teacher's IoU")))
    return "".join(parts)


def _key(numbers: Numbers) -> str:
    if numbers.teacher is None:
        return f'<span class="key"><i style="background:{GREEN}"></i>annotated box; proposals from grey to red by true IoU</span>'
    names = (("annotated box", GREEN), ("teacher too low", _rgb(LOW)), ("teacher right", _rgb(EQUAL)), ("teacher too high", _rgb(HIGH)))
    return '<span class="key">' + "".join(f'<i style="background:{ink}"></i>{name}' for name, ink in names) + "</span>"


def _maps(cache: Cache, teacher: str | None) -> Mapping[str, Unit]:
    """`layer_image` -> the target that has the teacher's energy map of that layer and image."""
    held: dict[str, Unit] = {}
    for target in ("abs_sum_shallow", "abs_sum"):
        unit = None if teacher is None else cache.target(teacher, target)
        if unit is not None:
            held |= dict.fromkeys((name for name, array in unit.arrays.items() if len(array.shape) == 2), unit)
    return held


def _tile(cache: Cache, numbers: Numbers, place: int, maps: Mapping[str, Unit]) -> str:
    pair = int(numbers.pairs[place])
    refs, tests = cache.read_crops(pair, pair + 1)
    row = {name: values[place] for name, values in numbers.rows.items()}
    part = pair // cache.part
    energy = {name: unit.read(pair, pair + 1)[name][0] for name, unit in maps.items() if unit.published(part)}
    images = []
    for side, jpeg in (("ref", refs[0]), ("test", tests[0])):
        content = jpeg.tobytes()
        scale = SIDE / _side(content, pair, cache)
        drawn = "" if side == "ref" else _proposals(numbers, place, scale)
        drawn += figures.box(row[f"{side}_box"], scale, GREEN, 2.5, "annotated box")
        images.append(
            _crop(content, drawn, {name.rpartition("_")[0]: values for name, values in energy.items() if name.endswith(f"_{side}")})
        )
    return f'<div class="pair"><p>{_caption(cache, numbers, place, row)}</p>{"".join(images)}</div>'


def _side(content: bytes, pair: int, cache: Cache) -> int:
    """Pixels of a crop's side."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise RunError(f"crops, pair {pair}: expected a JPEG file, found other bytes; run `python -m cache verify {cache.path} --deep`")
    return max(image.shape[:2])


def _crop(jpeg: bytes, drawn: str, energy: Mapping[str, np.ndarray]) -> str:
    """A crop with the teacher's energy by layer and the boxes on top of it."""
    size = f'width="{SIDE}" height="{SIDE}"'
    layers = ""
    for name, values in energy.items():
        layer, picture = html.escape(name, quote=True), figures.data(figures.heat(values.astype(np.float32)))
        layers += f'<img class="map" data-layer="{layer}" alt="energy of {layer}" {size} src="{picture}">'
    picture = f'<img alt="crop" {size} src="{figures.data(jpeg, "jpg")}">'
    return f'<div class="crop" style="width:{SIDE}px;height:{SIDE}px">{picture}{layers}{figures.svg(SIDE, SIDE, drawn, "boxes")}</div>'


def _proposals(numbers: Numbers, place: int, scale: float) -> str:
    """The proposals, the one with the greatest distance on top; coloured by the teacher's IoU less the true one."""
    true, said = numbers.true[place], None if numbers.teacher is None else numbers.teacher[place]
    apart = true if said is None else said - true
    drawn = []
    for number in np.argsort(np.abs(apart), kind="stable"):
        title = f"proposal {number}: true IoU {true[number]:.2f}" + ("" if said is None else f", teacher {said[number]:.2f}")
        drawn.append(figures.box(numbers.rows["proposals"][place][number], scale, _ink(float(apart[number])), 1.4, title))
    return "".join(drawn)


def _ink(apart: float) -> str:
    """Blue below zero, grey at it, red above; full at 0.5."""
    share = min(abs(apart) / 0.5, 1)
    end = HIGH if apart > 0 else LOW
    return _rgb(tuple(round(grey + share * (colour - grey)) for grey, colour in zip(EQUAL, end, strict=True)))


def _rgb(colour: Sequence[int]) -> str:
    return f"rgb({','.join(map(str, colour))})"


def _caption(cache: Cache, numbers: Numbers, place: int, row: Mapping[str, np.ndarray]) -> str:
    words = [f"<b>pair {numbers.pairs[place]}</b>"]
    names = cache.metadata.get("sequences", [])
    if "sequence" in row and 0 <= int(row["sequence"]) < len(names):
        words.append(html.escape(str(names[int(row["sequence"])])))
    if "frame" in row:
        words.append("frames {} &rarr; {}".format(*row["frame"].tolist()))
    if "grey" in row and bool(row["grey"]):
        words.append("grey")
    if numbers.teacher is not None:
        words.append(f"teacher off by {numbers.disagreement[place]:.3f}")
    return ", ".join(words)
