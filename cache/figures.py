"""Pieces of an HTML page that need nothing from a network: figures as SVG, pictures as data."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

_INK = "#1f6fb2"


def svg(width: float, height: float, body: str, label: str) -> str:
    """An SVG element; label: what it shows, for those who hear it."""
    return (
        f'<svg role="img" aria-label="{html.escape(label, quote=True)}" width="{width:g}" height="{height:g}"'
        f' viewBox="0 0 {width:g} {height:g}">{body}</svg>'
    )


def histogram(values: np.ndarray, title: str, low: float, high: float, bins: int = 40) -> str:
    """A figure of how numbers are spread between low and high; those outside are in the outermost bars."""
    width, height, left, bottom = 300, 150, 34, 22
    counts, edges = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    most, step = max(int(counts.max(initial=0)), 1), (width - left) / bins
    scale = (height - bottom - 8) / most
    bars = "".join(
        f'<rect x="{left + place * step:.1f}" y="{height - bottom - count * scale:.1f}" width="{max(step - 1, 1):.1f}"'
        f' height="{count * scale:.1f}" fill="{_INK}"><title>{edges[place]:.3g} to {edges[place + 1]:.3g}: {count:,}</title></rect>'
        for place, count in enumerate(counts)
    )
    ticks = "".join(
        f'<text x="{left + share * (width - left):.0f}" y="{height - 6}" text-anchor="{anchor}">{low + share * (high - low):.3g}</text>'
        for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    )
    axis = f'<line x1="{left}" x2="{width}" y1="{height - bottom}" y2="{height - bottom}" stroke="#999"/>'
    mean = f"mean {values.mean():.3g}, median {np.median(values):.3g}" if values.size else "none"
    most_text = f'<text x="{left - 4}" y="14" text-anchor="end">{most:,}</text>'
    return _figure(svg(width, height, bars + axis + ticks + most_text, title), f"{html.escape(title)}<br>{mean}")


def density(x: np.ndarray, y: np.ndarray, titles: tuple[str, str], cells: int = 50) -> str:
    """A figure of pairs of numbers in [0, 1]: how many fall into each cell, on a log scale, and the diagonal where both are equal."""
    side, left = 300, 34
    counts, _, _ = np.histogram2d(np.clip(y, 0, 1), np.clip(x, 0, 1), bins=cells, range=((0, 1), (0, 1)))
    shade = (255 - 255 * np.log1p(counts) / np.log1p(max(counts.max(), 1))).astype(np.uint8)[::-1]
    picture = cv2.applyColorMap(shade, cv2.COLORMAP_BONE)
    body = f'<image x="{left}" y="0" width="{side}" height="{side}" href="{data(picture)}" style="image-rendering:pixelated"/>'
    body += f'<line x1="{left}" y1="{side}" x2="{left + side}" y2="0" stroke="#d55" stroke-dasharray="4 3"/>'
    body += f'<rect x="{left}" y="0" width="{side}" height="{side}" fill="none" stroke="#999"/>'
    ends = ((0, side, 0), (1, 10, 1))
    body += "".join(f'<text x="{left - 4}" y="{at}" text-anchor="end">{number}</text>' for number, at, _ in ends)
    body += "".join(
        f'<text x="{left + share * side}" y="{side + 15}" text-anchor="{"end" if share else "start"}">{n}</text>' for n, _, share in ends
    )
    title = f"{titles[1]} over {titles[0]}"
    error, spread = np.abs(x - y).mean(), x.std() * y.std()
    correlation = f", correlation {((x - x.mean()) * (y - y.mean())).mean() / spread:.3f}" if spread > 0 else ""
    caption = f"across: {titles[0]}, up: {titles[1]}, {len(x):,} proposals<br>mean distance {error:.3f}{correlation}"
    return _figure(svg(left + side, side + 20, body, title), caption)


def _figure(drawing: str, caption: str) -> str:
    return f"<figure>{drawing}<figcaption>{caption}</figcaption></figure>"


def data(picture: np.ndarray | bytes, kind: str = "png") -> str:
    """A data URL of a BGR picture (H, W, 3) or (H, W) uint8, or of the bytes of a file."""
    content = picture if isinstance(picture, bytes) else cv2.imencode(f".{kind}", picture)[1].tobytes()
    return f"data:image/{kind.replace('jpg', 'jpeg')};base64,{base64.b64encode(content).decode()}"


def heat(values: np.ndarray) -> np.ndarray:
    """A map (H, W) as a BGR picture, from its least to its greatest number."""
    low, high = float(values.min()), float(values.max())
    shade = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return cv2.applyColorMap((255 * shade).round().astype(np.uint8), cv2.COLORMAP_TURBO)


def box(numbers: Sequence[float] | np.ndarray, scale: float, ink: str, width: float, title: str) -> str:
    """A box (x, y, w, h) of a crop as an SVG rectangle. Pixel j is centred at j, so a picture begins at -0.5."""
    x, y, w, h = (float(number) * scale for number in numbers)
    place = f'x="{x + scale / 2:.1f}" y="{y + scale / 2:.1f}" width="{max(w, 0):.1f}" height="{max(h, 0):.1f}"'
    return f'<rect {place} fill="none" stroke="{ink}" stroke-width="{width}"><title>{html.escape(title)}</title></rect>'


def table(rows: Iterable[tuple[str, object]]) -> str:
    """Names and values."""
    cells = (f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>" for name, value in rows)
    return f"<table>{''.join(cells)}</table>"
