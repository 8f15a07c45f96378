"""A textured object of the demonstration data that moves, turns, changes scale and deforms.

Local coordinates: the object's parts lie within radius 1 or so of the origin; one unit is `scale` pixels on the screen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from precompute.demo.texture import Recipe, look_alike, paint

TEXTURE_SIDE = 160
ANGLES = 256
REACH = 1.75  # no part of an object lies further from its centre, in local units


@dataclass(frozen=True)
class Part:
    """A star-shaped region: radius (ANGLES,) around `center` (2,), swinging about it by `swing` radians."""

    radius: np.ndarray
    center: np.ndarray
    swing: float


@dataclass(frozen=True)
class Look:
    """What an object is: its parts, its texture, how strongly it wobbles, and the light on it."""

    parts: tuple[Part, ...]
    recipe: Recipe
    wobble: float
    rim: float


@dataclass(frozen=True)
class Pose:
    """Where an object is in one frame: centre (pixels), pixels a unit, turn (radians), aspect (x over y), phase of the deformation."""

    x: float
    y: float
    scale: float
    turn: float
    aspect: float
    phase: float


def draw_outline(rng: np.random.Generator) -> np.ndarray:
    """Radius over ANGLES angles of an ellipse, rounded box, polygon, star or irregular blob, largest value 1."""
    angle = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    aspect = rng.uniform(0.5, 1.0)
    match int(rng.integers(5)):
        case 0:
            radius = 1 / np.hypot(np.cos(angle), np.sin(angle) / aspect)
        case 1:
            power = rng.uniform(3, 7)
            radius = (np.abs(np.cos(angle)) ** power + np.abs(np.sin(angle) / aspect) ** power) ** (-1 / power)
        case 2:
            sides = int(rng.integers(3, 7))
            radius = 1 / np.cos((angle % (2 * np.pi / sides)) - np.pi / sides)
        case 3:
            radius = 1 + rng.uniform(0.15, 0.38) * np.cos(int(rng.integers(3, 7)) * angle)
        case _:
            radius = np.ones(ANGLES)
    for harmonic in range(2, 6):
        radius = radius * (1 + rng.uniform(0, 0.22) / harmonic * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi)))
    return (radius / radius.max()).astype(np.float32)


def draw_look(rng: np.random.Generator, recipe: Recipe) -> Look:
    """A body and, in two of three objects, one or two limbs that swing."""
    parts = [Part(draw_outline(rng) * np.float32(rng.uniform(0.8, 1.0)), np.zeros(2), 0.0)]
    for _ in range(int(rng.integers(0, 3))):
        side = rng.uniform(0, 2 * np.pi)
        limb = Part(
            draw_outline(rng) * np.float32(rng.uniform(0.35, 0.55)),
            np.array([np.cos(side), np.sin(side)]) * rng.uniform(0.6, 0.8),
            float(rng.uniform(0.2, 0.7)),
        )
        parts.append(limb)
    return Look(tuple(parts), recipe, float(rng.uniform(0.04, 0.12)), float(rng.uniform(0, 0.6)))


def draw_look_alike(rng: np.random.Generator, look: Look) -> Look:
    """The same kind of object with a slightly other texture; one in two keeps the outline, else one part gets a new one."""
    parts = list(look.parts)
    if rng.random() < 0.5:
        index = int(rng.integers(len(parts)))
        parts[index] = replace(parts[index], radius=draw_outline(rng) * parts[index].radius.max())
    return replace(look, parts=tuple(parts), recipe=look_alike(rng, look.recipe))


class Painter:
    """Renders one object; its texture is painted once."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self.texture = paint(look.recipe, TEXTURE_SIDE, TEXTURE_SIDE)

    def render(self, pose: Pose) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Colour (h, w, 3) and alpha (h, w), float32 in [0, 1], of the window around the object, and its left and top pixel."""
        reach = REACH * pose.scale * max(pose.aspect, 1 / pose.aspect)
        left, top = int(np.floor(pose.x - reach)), int(np.floor(pose.y - reach))
        side = int(np.ceil(2 * reach)) + 2
        u, v = self._local(pose, left, top, side)
        alpha = np.zeros((side, side), np.float32)
        for part in self.look.parts:
            alpha = np.maximum(alpha, _cover(part, u, v, pose))
        rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
        if not rows.size:
            return np.zeros((1, 1, 3), np.float32), np.zeros((1, 1), np.float32), left, top
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        u, v, alpha = u[window], v[window], alpha[window]
        middle = np.float32(TEXTURE_SIDE / 2 / REACH)
        colour = cv2.remap(self.texture, (u + REACH) * middle, (v + REACH) * middle, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        colour *= self._light(u, v, pose)[..., None]
        return np.clip(colour, 0, 1), alpha, left + int(columns[0]), top + int(rows[0])

    def _local(self, pose: Pose, left: int, top: int, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Local coordinates of the pixels of a window: turned, scaled, then bent by two slow waves (the deformation)."""
        x = (np.arange(left, left + side, dtype=np.float32) - np.float32(pose.x))[None, :]
        y = (np.arange(top, top + side, dtype=np.float32) - np.float32(pose.y))[:, None]
        cos, sin = np.float32(np.cos(pose.turn) / pose.scale), np.float32(np.sin(pose.turn) / pose.scale)
        stretch = np.float32(np.sqrt(pose.aspect))
        u, v = (cos * x + sin * y) / stretch, (cos * y - sin * x) * stretch
        wobble, phase = np.float32(self.look.wobble), np.float32(pose.phase)
        return u + wobble * np.sin(2.6 * v + phase), v + wobble * np.sin(2.3 * u + 1.7 * phase + 1)

    def _light(self, u: np.ndarray, v: np.ndarray, pose: Pose) -> np.ndarray:
        """Shading as of a round body lit from the upper left of the screen, darker towards its rim."""
        cos, sin = np.float32(np.cos(pose.turn)), np.float32(np.sin(pose.turn))
        x, y = cos * u - sin * v, sin * u + cos * v
        return np.float32(1.08) - np.float32(0.22) * (x + y) - np.float32(self.look.rim * 0.35) * (u * u + v * v)


def _cover(part: Part, u: np.ndarray, v: np.ndarray, pose: Pose) -> np.ndarray:
    """How much of each pixel a part covers, from its distance to the outline along the ray."""
    swing = part.swing * np.sin(pose.phase * 1.3 + part.center[0] * 5)
    u, v = u - np.float32(part.center[0]), v - np.float32(part.center[1])
    index = (np.arctan2(v, u) + np.float32(swing)) * np.float32(ANGLES / (2 * np.pi))
    low = np.floor(index)
    share = index - low
    first = low.astype(np.int32) % ANGLES
    radius = part.radius[first] * (1 - share) + part.radius[(first + 1) % ANGLES] * share
    return np.clip((radius - np.hypot(u, v)) * np.float32(pose.scale) + np.float32(0.5), 0, 1)
