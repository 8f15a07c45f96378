"""Seeded textures and colours of the demonstration data. Images are (H, W, 3) float32 in [0, 1], BGR."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np


@dataclass(frozen=True)
class Recipe:
    """All that a texture is made from, so that a look-alike is a small change of it.

    palette (K, 3): colours; frequency: pattern periods over the image's side; angle: of the pattern, radians; warp: how far noise
    bends the pattern, in periods; seed: of everything random in it.
    """

    family: str
    palette: np.ndarray
    frequency: float
    angle: float
    warp: float
    seed: int


def draw_recipe(rng: np.random.Generator, vivid: bool = True) -> Recipe:
    """A random recipe; vivid: strong colours (objects), else muted ones (backgrounds)."""
    return Recipe(
        family=FAMILIES[rng.integers(len(FAMILIES))],
        palette=draw_palette(rng, int(rng.integers(2, 5)), vivid),
        frequency=float(rng.uniform(3, 8)),
        angle=float(rng.uniform(0, np.pi)),
        warp=float(rng.uniform(0, 0.5)),
        seed=int(rng.integers(2**31)),
    )


def look_alike(rng: np.random.Generator, recipe: Recipe) -> Recipe:
    """The same family in slightly other colours, or at another scale and angle of the pattern, or both."""
    alike = replace(recipe, seed=int(rng.integers(2**31)))
    change = int(rng.integers(3))
    if change != 1:
        alike = replace(alike, palette=turn_hue(recipe.palette, float(rng.choice([-1, 1]) * rng.uniform(15, 40))))
    if change != 0:
        factor = float(rng.uniform(1.35, 1.8) ** rng.choice([-1, 1]))
        alike = replace(alike, frequency=recipe.frequency * factor, angle=recipe.angle + float(rng.uniform(0.5, 1.2)))
    return alike


def draw_palette(rng: np.random.Generator, count: int, vivid: bool) -> np.ndarray:
    """(count, 3) colours around one or two hues, of clearly different lightness."""
    hue = rng.uniform(0, 360)
    hues = hue + rng.choice([0, 25, 120, 180], count) + rng.normal(0, 8, count)
    light = rng.permutation(np.linspace(0.2, 0.9, count)) + rng.uniform(-0.06, 0.06, count)
    saturation = rng.uniform(0.35, 0.95, count) if vivid else rng.uniform(0.05, 0.45, count)
    hls = np.stack([hues % 360, np.clip(light, 0.08, 0.95), saturation], axis=-1).astype(np.float32)
    return cv2.cvtColor(hls[None], cv2.COLOR_HLS2BGR)[0]


def turn_hue(palette: np.ndarray, degrees: float) -> np.ndarray:
    """The palette with every hue turned."""
    hls = cv2.cvtColor(np.ascontiguousarray(palette[None], np.float32), cv2.COLOR_BGR2HLS)
    hls[..., 0] = (hls[..., 0] + degrees) % 360
    return cv2.cvtColor(hls, cv2.COLOR_HLS2BGR)[0]


def noise(rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 4) -> np.ndarray:
    """Multi-octave value noise (height, width) float32, mean 0, range about [-1, 1]; cell: pixels of the coarsest octave's grid."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        step = max(cell / 2**octave, 1.0)
        grid = rng.uniform(-1, 1, (int(height / step) + 3, int(width / step) + 3)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(0.55**octave)
    return total


def paint(recipe: Recipe, height: int, width: int) -> np.ndarray:
    """The texture of a recipe, with fine grain on top."""
    rng = np.random.default_rng(recipe.seed)
    value = _PATTERNS[recipe.family](rng, recipe, height, width)
    image = _colour(value, recipe.palette)
    grain = noise(rng, height, width, 12, 3)
    return np.clip(image * (1 + 0.12 * grain[..., None]), 0, 1)


def _colour(value: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Piecewise linear colour of value (H, W) in [0, 1]."""
    position = np.clip(value, 0, 1) * (len(palette) - 1)
    low = np.minimum(position.astype(np.int64), len(palette) - 2)
    part = (position - low)[..., None].astype(np.float32)
    return palette[low] * (1 - part) + palette[low + 1] * part


def _phase(rng: np.random.Generator, recipe: Recipe, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Two coordinates in pattern periods, turned by the recipe's angle and bent by noise."""
    side = max(height, width)
    y, x = np.mgrid[:height, :width].astype(np.float32) / side
    bend = side / 3
    x = x + noise(rng, height, width, bend, 2) * recipe.warp / recipe.frequency
    y = y + noise(rng, height, width, bend, 2) * recipe.warp / recipe.frequency
    cos, sin = np.float32(np.cos(recipe.angle)), np.float32(np.sin(recipe.angle))
    return (cos * x + sin * y) * recipe.frequency, (cos * y - sin * x) * recipe.frequency


def _noise_pattern(rng: np.random.Generator, recipe: Recipe, height: int, width: int) -> np.ndarray:
    return 0.5 + 0.45 * noise(rng, height, width, max(height, width) / recipe.frequency, 5)


def _stripes(rng: np.random.Generator, recipe: Recipe, height: int, width: int) -> np.ndarray:
    u, _ = _phase(rng, recipe, height, width)
    return np.clip(0.5 + 1.2 * np.sin(2 * np.pi * u), 0, 1)


def _checks(rng: np.random.Generator, recipe: Recipe, height: int, width: int) -> np.ndarray:
    u, v = _phase(rng, recipe, height, width)
    return np.clip(0.5 + 3 * np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v), 0, 1)


def _rings(rng: np.random.Generator, recipe: Recipe, height: int, width: int) -> np.ndarray:
    u, v = _phase(rng, recipe, height, width)
    shift = rng.uniform(0.3, 0.7, 2) * recipe.frequency
    return np.clip(0.5 + 1.2 * np.sin(2 * np.pi * np.hypot(u - shift[0], v - shift[1] * 0.5)), 0, 1)


def _cells(rng: np.random.Generator, recipe: Recipe, height: int, width: int) -> np.ndarray:
    """Voronoi cells of random value with dark joints."""
    count = int(max(6, (recipe.frequency * 1.3) ** 2))
    seeds = np.full((height, width), 255, np.uint8)
    seeds[rng.integers(0, height, count), rng.integers(0, width, count)] = 0
    far, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    value = rng.uniform(0.25, 1, int(label.max()) + 1).astype(np.float32)[label]
    return value * np.clip(1.25 - far / (max(height, width) / recipe.frequency) * 1.6, 0, 1)


def _spots(rng: np.random.Generator, recipe: Recipe, height: int, width: int) -> np.ndarray:
    side = max(height, width)
    image = np.full((height, width), 0.15, np.float32) + 0.1 * noise(rng, height, width, side / 3, 2)
    for _ in range(int((recipe.frequency * 1.6) ** 2)):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        radius = max(1, int(side / recipe.frequency * rng.uniform(0.12, 0.35)))
        cv2.circle(image, center, radius, float(rng.uniform(0.6, 1)), -1, cv2.LINE_AA)
    return image


def _patches(rng: np.random.Generator, recipe: Recipe, height: int, width: int) -> np.ndarray:
    """Overlapping turned rectangles."""
    side = max(height, width)
    image = np.full((height, width), 0.4, np.float32)
    for _ in range(int((recipe.frequency * 1.5) ** 2)):
        center = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
        size = (float(side / recipe.frequency * rng.uniform(0.4, 1.4)), float(side / recipe.frequency * rng.uniform(0.2, 0.8)))
        corners = cv2.boxPoints((center, size, float(np.degrees(recipe.angle) + rng.choice([0, 90]) + rng.normal(0, 10))))
        cv2.fillConvexPoly(image, corners.astype(np.int32), float(rng.uniform(0, 1)), cv2.LINE_AA)
    return image


_PATTERNS = {
    "noise": _noise_pattern,
    "stripes": _stripes,
    "checks": _checks,
    "cells": _cells,
    "spots": _spots,
    "rings": _rings,
    "patches": _patches,
}
FAMILIES = tuple(_PATTERNS)
