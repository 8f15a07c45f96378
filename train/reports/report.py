"""Runs as a page to read: Markdown with tables and figures, every number measured by the runs or by the cache's own history."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cache import Cache
from configs import RequestError
from configs.files import write_atomic
from train.reports.plots import Curve, agreement_curves, loss_curves
from train.reports.run_folder import RunRecord, read_run

PAGE = "report.md"


def report(folders: Sequence[Path], out: Path) -> Path:
    """Writes the report of some runs into `out`; returns its Markdown file.

    Raises:
        RequestError: a folder is no run, or one that has not logged anything yet.
    """
    runs = [read_run(folder) for folder in folders]
    for run in runs:
        if not run.train:
            raise RequestError(f"{run.folder}: expected a run with metrics, found none yet; wait for its first log point")
    return write_page([f"# Report of {len(runs)} run{'s' * (len(runs) > 1)}"], runs, out)


def write_page(head: Sequence[str], runs: Sequence[RunRecord], out: Path, tail: Sequence[str] = ()) -> Path:
    """Writes a page into `out`: the parts of `head`, all tables and figures of the runs (of which there may be none), those of `tail`."""
    out.mkdir(parents=True, exist_ok=True)
    parts = list(head)
    if runs:
        curves = [Curve(run.config.setting, run.label, run.train, run.val) for run in runs]
        loss_curves(curves, out / "loss.png")
        agreement_curves(curves, out / "agreement.png")
        parts += [agreement_section(runs), "![IoU error, correlation and refinement gain over epochs](agreement.png)"]
        parts += [runs_section(runs), "![Loss over steps](loss.png)", terms_section(runs), cache_section(runs), pictures_section(runs, out)]
    page = out / PAGE
    write_atomic(page, "\n\n".join(part for part in (*parts, *tail) if part) + "\n")
    return page


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def number(value: Any, form: str = ".4f") -> str:
    """A number as text, `-` where there is none."""
    return "-" if value is None or (isinstance(value, float) and not math.isfinite(value)) else format(value, form)


TEACHER = (("iou_error", ".4f"), ("correlation", ".3f"), ("refinement_gain", "+.3f"))
"""Measures that the first validation of a run has of its teacher, and how they are written."""


def agreement_section(runs: Sequence[RunRecord]) -> str:
    """Student before and after training, beside its teacher."""
    rows = []
    for run in runs:
        first, last = run.before, run.after
        teacher = [number(first.get(f"teacher_{key}"), form) for key, form in TEACHER]
        rows.append(
            [
                run.label,
                number(first.get("iou_error")),
                number(last.get("iou_error")),
                teacher[0],
                number(first.get("correlation"), ".3f"),
                number(last.get("correlation"), ".3f"),
                teacher[1],
                number(first.get("refinement_gain"), "+.3f"),
                number(last.get("refinement_gain"), "+.3f"),
                teacher[2],
                str(last.get("epoch", "-")),
            ]
        )
    head = (
        "run",
        "IoU error before",
        "after",
        "teacher",
        "correlation before",
        "after",
        "teacher",
        "refinement gain before",
        "after",
        "teacher",
        "after epoch",
    )
    text = (
        "On the validation pairs. IoU error: mean |predicted - true IoU| over all proposals, in IoU units (DRNet: mean of 1 - IoU of the"
        " refined box). Correlation: Pearson's, of predicted with true IoU. Refinement"
        " gain: what the mean IoU of the proposals gains where they are refined as the online tracker refines its boxes."
    )
    return f"## Student against teacher\n\n{text}\n\n{table(head, rows)}"


def runs_section(runs: Sequence[RunRecord]) -> str:
    """What each run is and how fast it went."""
    rows = []
    for run in runs:
        wait = statistics.fmean(record["wait_share"] for record in run.train)
        online = statistics.fmean(record["online_share"] for record in run.train)
        result = run.result or {}
        rows.append(
            [
                run.label,
                " + ".join(section.architecture for section in (run.config.student, run.config.second_student) if section is not None),
                number(result.get("parameters"), ","),
                number(result.get("mflops"), ",.0f"),
                f"{run.train[-1]['step']:,}",
                f"{run.train[-1]['step'] * run.config.train.batch:,}",
                number(result.get("pairs_per_s"), ",.1f"),
                f"{wait:.0%}",
                f"{online:.0%}",
                number(result["seconds"] / 3600 if result else None, ".3g"),
            ]
        )
    head = ("run", "student", "parameters", "MFLOPs a pair", "steps", "pairs seen", "pairs/s", "waits for data", "online teacher", "hours")
    devices = sorted({f"{run.result['device']}, torch {run.result['torch']}" for run in runs if run.result})
    unfinished = [run.label for run in runs if run.result is None]
    text = "Hours and pairs/s are of training alone (validation left out)" + (f", on {'; '.join(devices)}." if devices else ".")
    if unfinished:
        text += f" Not finished: {', '.join(unfinished)}."
    return f"## Runs\n\n{text}\n\n{table(head, rows)}"


def terms_section(runs: Sequence[RunRecord]) -> str:
    """The weighted terms of the last validation."""
    shown = [run for run in runs if run.after]
    names = list(dict.fromkeys(name for run in shown for name in run.after["terms"]))
    rows = []
    for run in shown:
        terms = [number(run.after["terms"].get(name), ".4g") for name in names]
        rows.append([run.label, *terms, number(run.after["loss"], ".4g")])
    if not rows:
        return ""
    return f"## Weighted loss terms at the last validation\n\n{table(('run', *names, 'sum'), rows)}"


def open_caches(runs: Sequence[RunRecord]) -> tuple[dict[str, Cache], list[str]]:
    """The caches of finished runs that are still there, by path, and the paths of those that are not."""
    there: dict[str, Cache] = {}
    gone: list[str] = []
    for path in dict.fromkeys(path for run in runs if run.result for split in ("train", "val") for path in run.result["caches"][split]):
        try:
            there[path] = Cache.open(path)
        except RequestError:
            gone.append(path)
    return there, gone


def cache_section(runs: Sequence[RunRecord]) -> str:
    """Bytes a pair, the times of making the caches, and when they have paid for themselves."""
    caches, gone = open_caches(runs)
    if not caches and not gone:
        return ""
    parts = ["## Cache"]
    if caches:
        rows = [row for cache in caches.values() for row in _bytes_rows(cache)]
        parts.append(table(("cache", "what", "bytes a pair"), rows))
        times = [row for cache in caches.values() for row in _time_rows(cache)]
        if times:
            head = ("cache", "targets", "pairs", "seconds", "of these teacher", "decoder", "device")
            parts.append("Work on the caches, from their own history:\n\n" + table(head, times))
        parts += [line for run in _one_a_setting(runs) if (line := break_even(run, list(caches.values())))]
    parts += [f"{path}: no longer there." for path in gone]
    return "\n\n".join(parts)


def _bytes_rows(cache: Cache) -> list[list[str]]:
    published = {"pairs": cache.pairs.nbytes()} | {f"{teacher}: {name}": unit.nbytes() for (teacher, name), unit in cache.targets().items()}
    crops = sum(size for name, size in published["pairs"].items() if "crops" in name)
    totals = {"crops": crops, "boxes and photometry": sum(published.pop("pairs").values()) - crops}
    totals |= {name: sum(sizes.values()) for name, sizes in published.items()}
    return [[cache.path.name, name, f"{size / cache.count:,.0f}"] for name, size in totals.items()]


def _time_rows(cache: Cache) -> list[list[str]]:
    return [
        [
            cache.path.name,
            ", ".join(record.get("targets") or ()) or "crops alone",
            number(record.get("pairs"), ","),
            number(record.get("seconds"), ",.1f"),
            number(record.get("teacher_seconds"), ",.1f"),
            record.get("decoder") or "-",
            record.get("device") or "-",
        ]
        for record in cache.history()
        if "seconds" in record
    ]


def _one_a_setting(runs: Sequence[RunRecord]) -> list[RunRecord]:
    return list({run.config.setting: run for run in reversed(runs)}.values())[::-1]


def cache_seconds(caches: Iterable[Cache]) -> float:
    """Seconds of all work that their histories record."""
    return sum(record.get("seconds", 0.0) for cache in caches for record in cache.history())


def break_even(run: RunRecord, caches: Sequence[Cache]) -> str | None:
    """How many runs like this one the caches need to have paid for themselves, in a line.

    None if the run needs no teacher number, or nothing was measured.
    """
    teacher = run.result["teacher"] if run.result else None
    records = [record for cache in caches for record in cache.history() if record.get("teacher") == teacher]
    pairs = sum(record.get("teacher_pairs", 0) for record in records)
    seconds = sum(record.get("teacher_seconds", 0.0) for record in records)
    distils = any(line["cached_share"] + line["online_share"] > 0 for line in run.train)
    if teacher is None or not distils or not pairs or not seconds or run.result is None:
        return None
    a_pair, seen = seconds / pairs, run.result["pairs"]
    made = cache_seconds(caches)
    return (
        f"Break-even, {run.config.setting}: the caches took {made:,.1f} s; the teacher {1e3 * a_pair:,.2f} ms a pair, so one run over"
        f" {seen:,} pairs saves {seen * a_pair:,.1f} s of online teacher: paid for after **{made / (seen * a_pair):.2f} runs**."
    )


def pictures_section(runs: Sequence[RunRecord], out: Path) -> str:
    """The first and the last pictures of each setting, copied beside the report."""
    lines = []
    for run in _one_a_setting(runs):
        pictures = run.pictures()
        for picture in dict.fromkeys(pictures[:1] + pictures[-1:]):
            name = f"pairs-{run.config.setting}-{run.folder.name}-{picture.stem}.png"
            write_atomic(out / name, picture.read_bytes())
            lines.append(f"{run.label}, after epoch {int(picture.stem.removeprefix('epoch'))}:\n\n![pairs]({name})")
    return "## Pairs\n\n" + "\n\n".join(lines) if lines else ""
