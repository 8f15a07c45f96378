"""A study: several settings, each with several seeds, at one budget from one cache, and one report that compares them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs import Config, RunError
from train.reports import run_folder
from train.reports.plots import compared
from train.reports.report import TEACHER, cache_seconds, number, open_caches, table, write_page
from train.reports.run_folder import RunRecord
from train.run import prepare, run

# OTB-100 success AUC of the CFKD thesis (D. Duolikun, UCL 2020): full data, 50 epochs, 25 hours on one GTX Titan X.
THESIS = {
    "gt": 49.5,
    "ts": 52.5,
    "ts_ah": 53.1,
    "ts_ah_fid": 58.4,
    "sep": 59.5,
    "atom_cfkd": 62.4,
    "resnet18medium": 57.1,
    "resnet18small": 53.7,
    "resnet18tiny": 48.3,
    "atom_tskd": 55.1,
    "atom_compression": 10.0,
    "drnet_cfkd": 63.0,
}
THESIS_TEACHER = {"drnet_cfkd": 67.6}
ATOM_TEACHER = 66.6
THESIS_COLUMN = "thesis: OTB-100 AUC"
TITLES = {"iou_error": "IoU error (lower is better)", "correlation": "Correlation with true IoU", "refinement_gain": "Refinement gain, IoU"}


@dataclass(frozen=True)
class Member:
    """One run of a study, and what became of it."""

    config: Config
    failure: str | None = None


def study(configurations: Sequence[Config], out: Path) -> Path:
    """Runs every member one after the other and writes the report; finished members are not run again. Returns its Markdown file.

    Everything that can be refused is refused before the first run begins. A member that fails is reported and the others go on.
    configurations: as `train.request.study_members` gives them.

    Raises:
        RequestError: see `train.run.run`.
        RunError: at the end, naming the members that failed.
    """
    for config in configurations:
        prepare(config)
    done: list[Member] = []
    for place, config in enumerate(configurations, 1):
        print(f"study: run {place} of {len(configurations)}: {config.setting}, seed {config.train.seed}", flush=True)
        try:
            run(config)
            done.append(Member(config))
        except RunError as error:
            print(f"study: {config.setting}, seed {config.train.seed} failed: {error}", flush=True)
            done.append(Member(config, str(error)))
    page = write(done, out)
    failed = [f"{member.config.setting} seed {member.config.train.seed}" for member in done if member.failure]
    if failed:
        raise RunError(f"study: expected every run to finish, found failures in {', '.join(failed)}; see {page}")
    return page


def write(done: Sequence[Member], out: Path) -> Path:
    """The report of the finished members."""
    runs = [run_folder.read_run(run_folder.folder_of(member.config)) for member in done if member.failure is None]
    failures = [f"- {m.config.setting}, seed {m.config.train.seed}: {m.failure}" for m in done if m.failure]
    head = ["# Study: " + ", ".join(dict.fromkeys(member.config.setting for member in done))]
    if runs:
        out.mkdir(parents=True, exist_ok=True)
        by_setting = grouped(runs)
        values = {key: {name: _values(of_setting, key) for name, of_setting in by_setting.items()} for key in TITLES}
        compared(values, {key: _teacher(runs, key) for key in TITLES}, TITLES, out / "compared.png")
        head += [_summary(by_setting), "![settings compared](compared.png)"]
    return write_page(head, runs, out, ["## Failed\n\n" + "\n".join(failures)] if failures else [])


def grouped(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs by setting, in order."""
    return {
        setting: [run for run in runs if run.config.setting == setting] for setting in dict.fromkeys(run.config.setting for run in runs)
    }


def _values(runs: Sequence[RunRecord], key: str) -> list[float]:
    return [run.after[key] for run in runs if run.after.get(key) is not None]


def _teacher(runs: Sequence[RunRecord], key: str) -> float | None:
    return next((value for run in runs if (value := run.before.get(f"teacher_{key}")) is not None), None)


def spread(values: Sequence[float], form: str) -> str:
    """Mean and, of several values, sample standard deviation."""
    if not values:
        return "-"
    mean = format(statistics.fmean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form)}" if len(values) > 1 else mean


def _summary(by_setting: dict[str, list[RunRecord]]) -> str:
    first = next(iter(by_setting.values()))[0]
    steps, pairs = run_folder.budget(first.config)
    everyone = [run for runs in by_setting.values() for run in runs]
    caches, _ = open_caches(everyone)
    rows = []
    for setting, runs in by_setting.items():
        results = [run.result for run in runs if run.result is not None]
        rows.append(
            [
                setting,
                str(len(runs)),
                spread(_values(runs, "iou_error"), ".4f"),
                spread(_values(runs, "correlation"), ".3f"),
                spread(_values(runs, "refinement_gain"), "+.3f"),
                spread(_values(runs, "loss"), ".4g"),
                number(results[0]["parameters"] if results else None, ","),
                number(results[0]["mflops"] if results else None, ",.0f"),
                spread([result["pairs_per_s"] for result in results], ".1f"),
                spread([result["seconds"] / 3600 for result in results], ".3g"),
                number(THESIS.get(setting), ".1f"),
            ]
        )
    teacher = [number(_teacher(everyone, key), form) for key, form in TEACHER]
    if set(teacher) != {"-"}:
        rows.append(["teacher", "", *teacher, *["-"] * 5, number(_thesis_teacher(list(by_setting)), ".1f")])
    head = (
        "setting",
        "seeds",
        "IoU error",
        "correlation",
        "refinement gain",
        "loss",
        "parameters",
        "MFLOPs a pair",
        "pairs/s",
        "hours a run",
        THESIS_COLUMN,
    )
    counts = sorted({len(runs) for runs in by_setting.values()})
    over = f"; mean ± sample standard deviation over {' or '.join(map(str, counts))} seeds" if counts[-1] > 1 else ""
    text = (
        f"Equal budget: {steps:,} steps of {first.config.train.batch}, {pairs:,} pairs a run. Numbers are of the last validation"
        f"{over}. MFLOPs count a multiply-add once. Losses of different settings are different sums and do not"
        f" compare. Making the shared caches took {cache_seconds(caches.values()) / 3600:.3g} hours, once for all runs. The last column is"
        " reference, not measured here: success AUC on OTB-100 as the CFKD thesis states it, after 25 hours of training on full data."
    )
    return f"{text}\n\n{table(head, rows)}"


def _thesis_teacher(settings: Sequence[str]) -> float | None:
    """The published teacher's number, where all settings share one."""
    numbers = {THESIS_TEACHER.get(setting, ATOM_TEACHER if setting in THESIS else None) for setting in settings}
    return numbers.pop() if len(numbers) == 1 else None
