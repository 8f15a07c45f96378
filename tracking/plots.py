"""Success and precision of trackers over their thresholds, as PNG and SVG: matplotlib without a display."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

from tracking.metrics import PIXELS, SIZES
from tracking.scores import Score, Scores

INKS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#B8A000", "#000000", "#5D3A9B")
"""Okabe and Ito's colours, told apart by most eyes, and a few more."""
STYLES = ("-", "--", ":", "-.")
PLOTS = (
    ("success", np.linspace(0, 1, 21), "IoU threshold", "share of frames above it", "auc", "Success, AUC"),
    ("precision", PIXELS, "distance of the centres, pixels", "share of frames within it", "precision", "Precision at 20 pixels"),
    ("norm_precision", SIZES, "distance, target sizes", "share of frames within it", "norm_precision", "Normalised precision at 0.2"),
)
"""measure and file name, thresholds, both axes, number in the legend, title; all by the rule of PyTracking."""


def curves(scores: Scores, folder: Path) -> list[Path]:
    """Writes NAME.png and NAME.svg of each of `PLOTS`; the paths of the PNGs."""
    written = []
    for name, thresholds, across, upwards, number, title in PLOTS:
        figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
        ranked = sorted(scores.trackers, key=lambda score: -score.numbers["pytracking", number].value)
        for place, score in enumerate(ranked):
            _curve(axes, score, name, thresholds, f"{score.name} [{100 * score.numbers['pytracking', number].value:.1f}]", place)
        axes.set(xlabel=across, ylabel=upwards, xlim=(thresholds[0], thresholds[-1]), ylim=(0, 1.02))
        axes.set_title(f"{title}, {len(scores.sequences)} sequences, {scores.frames:,} frames", fontsize=10, loc="left")
        axes.grid(color="#DDDDDD", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in ("png", "svg"):
            figure.savefig(folder / f"{name}.{suffix}", dpi=110)
        plt.close(figure)
        written.append(folder / f"{name}.png")
    return written


def _curve(axes: plt.Axes, score: Score, measure: str, thresholds: np.ndarray, label: str, place: int) -> None:
    whole = score.measures["pytracking"][measure]
    heights = whole.over(np.ones(len(whole.weights)))
    axes.plot(thresholds, heights, color=INKS[place % len(INKS)], ls=STYLES[place // len(INKS) % len(STYLES)], lw=1.6, label=label)
