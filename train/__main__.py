"""`python -m train run | report | study`: students from the cache, and what became of them."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import configs
from configs import RequestError
from configs.budget import at_budget
from configs.cli import Parser, run
from configs.gpu import require_device
from configs.machine import require_place
from configs.process import settle


def main(arguments: Sequence[str], prog: str = "python -m train") -> int:
    """The command line; see `python -m train --help`."""
    options = parser(prog).parse_args(arguments)
    if options.command == "report":
        from train.reports.run_folder import read_run

        for folder in options.runs:
            read_run(folder)
        require_place(options.out, "--out")
        from train.reports.report import report  # matplotlib takes a second to import

        print(f"report: {report(options.runs, options.out)}")
    elif options.command == "study":
        _alone("study")
        require_place(options.out, "--out")
        seeds = parse_seeds(options.seeds)
        for setting in options.settings:
            at_budget(configs.load(setting, options.overrides, strict=False), options.epochs, options.batches)
        from train.request import understood_study  # brings OpenCV

        members = understood_study(options.settings, seeds, options.overrides, options.epochs, options.batches)
        settle()
        from train.reports.study import study  # brings torch: only once the request is understood

        print(f"report: {study(members, options.out)}")
    else:
        config = configs.load(options.setting, options.overrides)
        require_device(config.train.device, "train.device")
        from train.request import understood

        request = understood(config)
        settle()
        import train.run  # brings torch

        train.run.carry_out(request)
    return 0


def _alone(command: str) -> None:
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise RequestError(f"{command}: expected one process, found torchrun's {os.environ['WORLD_SIZE']}; run it without torchrun")


def parse_seeds(words: Sequence[str]) -> list[int]:
    """`0,1,2` or `0 1 2`."""
    seeds = [word for text in words for word in re.split(r"[,\s]+", text) if word]
    if not seeds or not all(re.fullmatch("[0-9]{1,20}", seed) for seed in seeds):
        raise RequestError(f"--seeds: expected whole numbers such as 0,1,2, found '{' '.join(words)}'; correct them")
    return [int(seed) for seed in seeds]


def parser(prog: str) -> Parser:
    """Every option of the three commands."""
    top = Parser(prog=prog, description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    known, overridden = ", ".join(configs.settings()), "fields of the configuration, listed below"
    own = commands.add_parser(
        "run",
        help="train the student of a setting (make train)",
        description="Trains the student of a setting from its caches; the same command goes on with a run that was interrupted.",
        epilog=fields(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own.add_argument("--setting", required=True, help=f"one of {known}, or a YAML file of that form")
    own.add_overrides(overridden)
    page = commands.add_parser(
        "report",
        help="tables and figures of some runs, as Markdown",
        description="Tables and figures of runs: loss, IoU error and correlation against the teacher, the cache's cost, pairs.",
    )
    page.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, as `run: PATH` names it")
    page.add_argument("--out", required=True, type=Path, help="folder that the report is written to")
    many = commands.add_parser(
        "study",
        help="several settings at equal budget from one cache, one report (make study)",
        description="Runs settings one after the other at equal budget and compares them; finished runs are kept.",
        epilog=fields(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    many.add_argument("settings", nargs="+", metavar="SETTING", help=f"of {known}, or YAML files")
    many.add_argument("--seeds", nargs="+", default=["0"], help="train.seed of each setting's runs (default: 0)")
    many.add_argument("--epochs", type=int, help="epochs of every run; phases and lr_step shrink in proportion")
    many.add_argument("--batches", type=int, help="steps an epoch of every run (default: 1000; with like=NAME that setting's)")
    many.add_argument("--out", type=Path, default=Path("reports/study"), help="folder of the report (default: reports/study)")
    many.add_overrides(overridden)
    return top


def fields() -> str:
    """Every field of the configuration with its default and what it is."""
    lines = ["fields of the configuration, overridden by key=value (train.epochs=2 losses.fidelity=null):"]
    lines += [f"  {name} = {default}\n      {text}" for name, default, text in configs.field_help() if name not in ("setting", "doc")]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(main))
