"""One sequence of the demonstration data: a target among look-alikes before and behind it, on a moving background.

Frames are (H, W, 3) uint8, BGR. Boxes are (x, y, w, h), top-left corner, in frame pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from precompute.demo.moving import Painter, Pose, draw_look, draw_look_alike
from precompute.demo.texture import Recipe, draw_recipe, noise, paint, turn_hue

FRAME_SIZES = ((320, 240), (320, 240), (352, 240), (288, 288), (256, 320))
_MARGIN = 90  # pixels of background beyond each border that the camera may show


@dataclass(frozen=True)
class Annotation:
    """Box (x, y, w, h) of the whole target inside the frame, occluded parts included; cover: eighths visible; cut: touches the border."""

    box: tuple[int, int, int, int]
    cover: int
    cut: bool


@dataclass(frozen=True)
class Actor:
    """An object and its pose in every frame."""

    painter: Painter
    poses: list[Pose]


class Scene:
    """Everything of one sequence, drawn from `rng`; `frames` renders it."""

    def __init__(self, rng: np.random.Generator, count: int, every: int = 1) -> None:
        """count: frames to render; every: how many steps of motion lie between two of them."""
        self.rng, self.every = rng, every
        count = (count - 1) * every + 1
        self.width, self.height = FRAME_SIZES[rng.integers(len(FRAME_SIZES))]
        recipe = draw_recipe(rng)
        look = draw_look(rng, recipe)
        base = float(rng.uniform(21, 37))
        self.target = Actor(Painter(look), self._walk(count, base))
        alike = [
            Actor(Painter(draw_look_alike(rng, look)), self._walk(count, base * rng.uniform(0.8, 1.2))) for _ in range(rng.integers(2, 5))
        ]
        # one of three stays behind the target, the others may cover it
        self.behind, self.before = alike[::3], [actor for index, actor in enumerate(alike) if index % 3]
        self.background = self._background(recipe)
        self.camera = self._camera(count)
        self.bars = self._bars(count) if rng.random() < 0.6 else []
        self.gain, self.tint = self._light(count)
        self.noise = rng.normal(0, rng.uniform(0.004, 0.02), (self.height + 64, self.width + 64, 3)).astype(np.float32)
        self.shutter = float(rng.uniform(0.2, 0.9))
        self.shadow = float(rng.uniform(0.15, 0.5)) if rng.random() < 0.5 else 0.0

    def frames(self) -> Iterator[tuple[np.ndarray, Annotation]]:
        """Every frame with its annotation."""
        return (self._frame(index) for index in range(0, len(self.target.poses), self.every))

    def _walk(self, count: int, base: float) -> list[Pose]:
        """A smooth path inside the frame: two or three bends, changing size, turn and aspect."""
        rng, time = self.rng, np.arange(count)
        edge = base * 1.15
        x = _bend(rng, count, edge, self.width - edge)
        y = _bend(rng, count, edge, self.height - edge)
        scale = base * np.exp(_wave(rng, count, 0.3))
        turn = rng.uniform(0, 2 * np.pi) + _wave(rng, count, rng.choice([0.15, 0.6, 1.2])) + time * rng.choice([0, 0, 0.03, -0.03])
        aspect = np.exp(_wave(rng, count, 0.18))
        phase = rng.uniform(0, 2 * np.pi) + time * rng.uniform(0.08, 0.3)
        columns = np.stack([x, y, scale, turn, aspect, phase], axis=1)
        return [Pose(*row) for row in columns.tolist()]

    def _background(self, recipe: Recipe) -> np.ndarray:
        """Texture with slow shading and a litter of still objects, some of them in the target's colours."""
        rng = self.rng
        height, width = self.height + 2 * _MARGIN, self.width + 2 * _MARGIN
        image = paint(draw_recipe(rng, vivid=bool(rng.random() < 0.3)), height, width)
        if rng.random() < 0.5:
            part = np.clip(0.5 + 2.5 * noise(rng, height, width, 200, 2), 0, 1)[..., None]
            image = image * part + paint(draw_recipe(rng, vivid=False), height, width) * (1 - part)
        contrast = np.float32(rng.uniform(0.45, 0.9))
        image = image.mean(axis=(0, 1), dtype=np.float32) * (1 - contrast) + image * contrast
        image *= 1 + 0.35 * noise(rng, height, width, 260, 2)[..., None]
        for _ in range(int(rng.integers(4, 12))):
            own = draw_recipe(rng)
            if rng.random() < 0.35:
                own = Recipe(own.family, turn_hue(recipe.palette, float(rng.normal(0, 15))), own.frequency, own.angle, own.warp, own.seed)
            x, y = rng.uniform(0, [width, height]).tolist()
            pose = Pose(x, y, rng.uniform(10, 45), rng.uniform(0, 6.28), rng.uniform(0.6, 1.6), rng.uniform(0, 6.28))
            _lay(image, Painter(draw_look(rng, own)).render(pose))
        return np.clip(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 1.2))), 0, 1).astype(np.float32)

    def _camera(self, count: int) -> np.ndarray:
        """(count, 2, 3) affine maps from frame to background pixels: pan, slight zoom and roll."""
        rng = self.rng
        reach = rng.choice([0, 15, 45, 75])
        pan = np.stack([_wave(rng, count, reach), _wave(rng, count, reach * 0.6)], axis=1) + rng.normal(0, rng.choice([0, 0.8]), (count, 2))
        zoom, roll = np.exp(_wave(rng, count, 0.06)), _wave(rng, count, 0.04)
        cos, sin = zoom * np.cos(roll), zoom * np.sin(roll)
        middle = np.array([self.width, self.height]) / 2
        matrix = np.stack([np.stack([cos, -sin], axis=1), np.stack([sin, cos], axis=1)], axis=1)
        shift = middle + _MARGIN + np.clip(pan, -75, 75) - matrix @ middle
        return np.concatenate([matrix, shift[..., None]], axis=2)

    def _bars(self, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Posts in front of everything: a texture (height, thickness, 3), and its left pixel in each frame."""
        rng = self.rng
        bars = []
        for _ in range(int(rng.integers(1, 4))):
            thickness = int(rng.integers(10, 38))
            start, speed = rng.uniform(0, self.width), rng.uniform(-3, 3)
            left = start + speed * np.arange(count) - thickness / 2
            bars.append((paint(draw_recipe(rng, vivid=False), self.height, thickness), left))
        return bars

    def _light(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Brightness (count,) and colour (count, 3) factors, slow, with a sudden change of light in one of five sequences."""
        rng = self.rng
        gain = np.exp(_wave(rng, count, 0.18))
        if rng.random() < 0.2:
            gain[int(rng.integers(count)) :] *= rng.uniform(0.65, 0.85)
        return gain, 1 + np.stack([_wave(rng, count, 0.04) for _ in range(3)], axis=1)

    def _frame(self, index: int) -> tuple[np.ndarray, Annotation]:
        size = (self.width, self.height)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        image = cv2.warpAffine(self.background, self.camera[index], size, flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        step = self.camera[max(index, 1)][:, 2] - self.camera[max(index, 1) - 1][:, 2]
        image = _smear(image, step * self.shutter)
        for actor in self.behind:
            self._draw(image, actor, index)
        if self.shadow:
            self._cast(image, self.target, index)
        layer = self._draw(image, self.target, index)
        hidden = np.zeros((self.height, self.width), np.float32)
        for actor in self.before:
            _mark(hidden, self._draw(image, actor, index))
        for texture, left in self.bars:
            bar = texture, np.ones(texture.shape[:2], np.float32), round(float(left[index])), 0
            _lay(image, bar)
            _mark(hidden, bar)
        image *= (self.gain[index] * self.tint[index]).astype(np.float32)
        row, column = self.rng.integers(0, 64, 2)
        image = image + self.noise[row : row + self.height, column : column + self.width]
        return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), self._annotate(layer, hidden)

    def _draw(self, image: np.ndarray, actor: Actor, index: int) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Lays an object over the image, under motion blur, and returns it as it is without."""
        layer = actor.painter.render(actor.poses[index])
        _lay(image, self._blurred(layer, actor, index))
        return layer

    def _blurred(self, layer: tuple[np.ndarray, np.ndarray, int, int], actor: Actor, index: int) -> tuple[np.ndarray, np.ndarray, int, int]:
        """The layer smeared along the way the object moves while the shutter is open."""
        now, last = actor.poses[max(index, 1)], actor.poses[max(index, 1) - 1]
        step = np.array([now.x - last.x, now.y - last.y]) * self.shutter
        pad = int(np.abs(step).max() / 2) + 1
        if np.hypot(*step) < 1.5:
            return layer
        colour, alpha, left, top = layer
        both = np.concatenate([colour * alpha[..., None], alpha[..., None]], axis=2)
        both = _smear(cv2.copyMakeBorder(both, pad, pad, pad, pad, cv2.BORDER_CONSTANT), step)
        alpha = both[..., 3]
        return both[..., :3] / np.maximum(alpha, 1e-3)[..., None], alpha, left - pad, top - pad

    def _cast(self, image: np.ndarray, actor: Actor, index: int) -> None:
        """A soft shadow below and to the right."""
        _, alpha, left, top = actor.painter.render(actor.poses[index])
        alpha = cv2.GaussianBlur(cv2.copyMakeBorder(alpha, 8, 8, 8, 8, cv2.BORDER_CONSTANT), (0, 0), 3) * np.float32(self.shadow)
        shift = int(actor.poses[index].scale * 0.2)
        _lay(image, (np.zeros((*alpha.shape, 3), np.float32), alpha, left - 8 + shift, top - 8 + shift))

    def _annotate(self, layer: tuple[np.ndarray, np.ndarray, int, int], hidden: np.ndarray) -> Annotation:
        _, alpha, left, top = layer
        whole = alpha > 0.5
        rows, columns = np.flatnonzero(whole.any(axis=1)), np.flatnonzero(whole.any(axis=0))
        x0, x1 = left + int(columns[0]), left + int(columns[-1]) + 1
        y0, y1 = top + int(rows[0]), top + int(rows[-1]) + 1
        inner = _overlap(hidden, alpha, left, top)
        seen = 0.0 if inner is None else float((whole[inner[1]] * (1 - hidden[inner[0]])).sum())
        cx0, cx1 = np.clip([x0, x1], 0, self.width).tolist()
        cy0, cy1 = np.clip([y0, y1], 0, self.height).tolist()
        # a sliver of the target still counts as an eighth, a few stray pixels do not
        cover = 0 if seen < 8 else max(1, round(8 * seen / float(whole.sum())))
        cut = cx0 == 0 or cy0 == 0 or cx1 == self.width or cy1 == self.height
        return Annotation((cx0, cy0, cx1 - cx0, cy1 - cy0), cover, cut)


def _bend(rng: np.random.Generator, count: int, low: float, high: float) -> np.ndarray:
    """A smooth path (count,) in [low, high] with rests and dashes."""
    knots = rng.uniform(low, high, int(rng.integers(3, 6)))
    path = np.interp(np.linspace(0, len(knots) - 1, count), np.arange(len(knots)), knots)
    kernel = np.hanning(max(5, count // 4) | 1)[1:-1]
    padded = np.pad(path, len(kernel) // 2, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def _wave(rng: np.random.Generator, count: int, size: float) -> np.ndarray:
    """A slow curve (count,) of about this size: three sines of periods between 25 and 120 frames."""
    time = np.arange(count)[:, None]
    return (np.sin(2 * np.pi * time / rng.uniform(25, 120, 3) + rng.uniform(0, 2 * np.pi, 3)) * rng.uniform(0.3, 0.7, 3)).sum(axis=1) * size


def _smear(image: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Motion blur along `step` (x, y) in pixels; none below a pixel and a half."""
    length = float(np.hypot(*step))
    if length < 1.5:
        return image
    reach = int(np.ceil(length / 2))
    line = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for part in np.linspace(-0.5, 0.5, 4 * reach + 1):
        line[round(reach + part * step[1]), round(reach + part * step[0])] += 1
    return cv2.filter2D(image, -1, line / line.sum(), borderType=cv2.BORDER_REPLICATE)


def _overlap(image: np.ndarray, alpha: np.ndarray, left: int, top: int) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Where a window at (left, top) and the image meet: slices of the image, slices of the window."""
    x0, x1 = max(left, 0), min(left + alpha.shape[1], image.shape[1])
    y0, y1 = max(top, 0), min(top + alpha.shape[0], image.shape[0])
    if x0 >= x1 or y0 >= y1:
        return None
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def _lay(image: np.ndarray, layer: tuple[np.ndarray, np.ndarray, int, int]) -> None:
    """Lays a layer over the image, in place."""
    colour, alpha, left, top = layer
    if (both := _overlap(image, alpha, left, top)) is not None:
        outer, inner = both
        part = alpha[inner][..., None]
        image[outer] = image[outer] * (1 - part) + colour[inner] * part


def _mark(hidden: np.ndarray, layer: tuple[np.ndarray, np.ndarray, int, int]) -> None:
    """Adds what a layer covers to the mask of covered pixels, in place."""
    _, alpha, left, top = layer
    if (both := _overlap(hidden, alpha, left, top)) is not None:
        hidden[both[0]] = np.maximum(hidden[both[0]], alpha[both[1]])
