"""The measurements of `python -m bench`."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from bench import cutting, parts, report, steps
from bench.ground import Ground, ground
from bench.turns import Length, Measured, Work, take_turns
from configs.files import write_atomic
from train.run import processes

TRACED = 3
"""Steps of each kind in a trace"""


def measure(options: argparse.Namespace, machine: Sequence[str] = ()) -> None:
    """Measures what the options ask for and prints the tables; with --json the figures, with --trace a trace of the steps.

    machine: what was chosen of it before torch was imported, in words.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder, ground(Path(folder), options) as made, processes(made.config()):
        described = report.facts(options, made.device) | {"machine": list(machine)}
        print(report.head(described), flush=True)
        measured = measure_all(made, options)
        described |= {"measured": report.as_json(measured), "ratios": report.ratios(measured)}
    for name, value in described["ratios"].items():
        print(f"{name}: {value['value']:.3f} ({value['least']:.3f} to {value['most']:.3f})")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(options.json, json.dumps(described, indent=1) + "\n")


def measure_all(made: Ground, options: argparse.Namespace) -> dict[str, Measured]:
    """Every part that is asked for, each printed when it is there."""
    length = Length(options.warmup, options.steps, options.turns)
    measured: dict[str, Measured] = {}
    if "precompute" in options.only:
        measured |= shown("precompute", cutting.precompute_rates(made, options), "precompute")
    asked = [name for name in steps.KINDS if name in options.only]
    if asked or "reading" in options.only or "growth" in options.only:
        made.fill()
    if asked:
        with ExitStack() as place:
            kinds = steps.kinds(made, asked, place)
            measured |= shown("step", take_turns(kinds, length, made.device), asked[0])
            if options.trace:
                trace(kinds, options.trace, made.device)
    if "reading" in options.only:
        measured |= shown("cache", {"reading": cutting.reading(made, options.turns)}, "reading")
    if "objectives" in options.only:
        shown("losses alone", parts.objectives(made, length), "student")
    if "growth" in options.only:
        grown = parts.growth(made, options.turns)
        print(
            "\n".join(
                f"{name} added: {of.ms:.1f} ms a pair, {of.ms / grown['teacher'].ms:.2f} times the teacher" for name, of in grown.items()
            )
        )
    return measured


def shown(title: str, measured: dict[str, Measured], base: str) -> dict[str, Measured]:
    """Prints a table."""
    print(f"\n{report.table(title, measured, base)}\n", flush=True)
    return measured


def trace(kinds: Mapping[str, Work], path: Path, device: torch.device) -> None:
    """A trace of a few warm steps of each kind, for chrome://tracing or Perfetto."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for name, (work, _) in kinds.items():
            for _ in range(TRACED):
                with torch.profiler.record_function(name):
                    work()
    profiler.export_chrome_trace(str(path))
