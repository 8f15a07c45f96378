"""The figures of reports: matplotlib without a display, one colour a setting."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours, told apart by most eyes, and a few more.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#7F7F7F",
    "#B8A000",
    "#000000",
    "#5D3A9B",
    "#8C510A",
    "#66C2A5",
)
TEACHER_INK = "#444444"
MEASURES = (
    ("iou_error", "IoU error (lower is better)"),
    ("correlation", "Correlation with true IoU"),
    ("refinement_gain", "Refinement gain, IoU"),
)


class Curve(NamedTuple):
    """What is drawn of one run."""

    setting: str
    label: str
    train: list[dict[str, Any]]
    """records of kind train (see train.log)"""
    val: list[dict[str, Any]]


def colours(settings: Sequence[str]) -> dict[str, str]:
    """A colour for each setting, in order of first appearance."""
    return {setting: COLOURS[index % len(COLOURS)] for index, setting in enumerate(dict.fromkeys(settings))}


def loss_curves(curves: Sequence[Curve], path: Path) -> None:
    """Loss over steps: lines are training (means between log points), dots validation. Log scale."""
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    inks = colours([curve.setting for curve in curves])
    named: set[str] = set()
    for curve in curves:
        ink = inks[curve.setting]
        name = None if curve.setting in named else curve.setting
        named.add(curve.setting)
        # another phase is another objective: its curve starts anew
        for phase in sorted({r["phase"] for r in curve.train}):
            points = [(r["step"], r["loss"]) for r in curve.train if r["phase"] == phase]
            axes.plot(*zip(*points, strict=True), color=ink, lw=1, alpha=0.7, label=name if phase == 1 else None)
        axes.plot([r["step"] for r in curve.val], [r["loss"] for r in curve.val], "o", color=ink, ms=4, mec="white", mew=0.5)
    axes.set(yscale="log", xlabel="step", ylabel="loss (weighted sum)")
    axes.set_title("Loss: lines training, dots validation (settings have different objectives)", fontsize=10, loc="left")
    _finish(axes)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def agreement_curves(curves: Sequence[Curve], path: Path) -> None:
    """IoU error, correlation and refinement gain on the validation pairs over epochs, with the teacher's as a dashed line."""
    figure, panels = plt.subplots(1, len(MEASURES), figsize=(5 * len(MEASURES), 3.8), layout="constrained")
    inks = colours([curve.setting for curve in curves])
    for panel, (key, title) in zip(panels, MEASURES, strict=True):
        named: set[str] = set()
        teacher: float | None = None
        for curve in curves:
            points = [(r["epoch"], r[key]) for r in curve.val if r.get(key) is not None]
            name = None if curve.setting in named else curve.setting
            named.add(curve.setting)
            panel.plot(
                [x for x, _ in points], [y for _, y in points], "o-", color=inks[curve.setting], ms=4, lw=1.4, alpha=0.85, label=name
            )
            teacher = next((r[f"teacher_{key}"] for r in curve.val if r.get(f"teacher_{key}") is not None), teacher)
        if teacher is not None:
            panel.axhline(teacher, color=TEACHER_INK, ls="--", lw=1, label="teacher")
        panel.set(xlabel="epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_title(title, fontsize=10, loc="left")
        _finish(panel)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def compared(values: dict[str, dict[str, list[float]]], teacher: dict[str, float | None], titles: dict[str, str], path: Path) -> None:
    """One panel a measure: a dot a seed, a bar at the mean of each setting; dashed: the teacher.

    values: measure -> setting -> one number a seed; titles: measure -> heading.
    """
    settings = list(dict.fromkeys(setting for by_setting in values.values() for setting in by_setting))
    inks = colours(settings)
    height = 1.3 + 0.42 * len(settings)
    figure, panels = plt.subplots(1, len(values), figsize=(4.2 * len(values), height), layout="constrained", sharey=True, squeeze=False)
    for panel, (measure, by_setting) in zip(panels[0], values.items(), strict=True):
        for row, setting in enumerate(settings):
            seeds = by_setting.get(setting, [])
            panel.plot(seeds, [row] * len(seeds), "o", color=inks[setting], ms=6, alpha=0.65, mec="white")
            if seeds:
                panel.plot([statistics.fmean(seeds)] * 2, [row - 0.3, row + 0.3], color=inks[setting], lw=2.5)
        if teacher.get(measure) is not None:
            panel.axvline(teacher[measure], color=TEACHER_INK, ls="--", lw=1, label="teacher")
            panel.legend(frameon=False, fontsize=8)
        panel.set_yticks(range(len(settings)), settings)
        panel.set_ylim(len(settings) - 0.4, -0.6)
        panel.set_title(titles[measure], fontsize=10, loc="left")
        panel.grid(axis="x", color="#DDDDDD", lw=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _finish(axes: Axes) -> None:
    axes.grid(color="#DDDDDD", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8, ncols=2)
