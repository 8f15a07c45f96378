"""`python -m train run | report | study`: students from the cache, and what became of them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import configs
from configs import RequestError
from configs.cli import Parser, run


def main(arguments: Sequence[str]) -> int:
    """The command line; see `python -m train --help`."""
    # what has an equals sign and no dash is an override, wherever it stands (also behind --)
    overridden = bool(arguments) and arguments[0] != "report"
    overrides = [word for word in arguments if overridden and "=" in word and not word.startswith("-")]
    options = parser().parse_args([word for word in arguments if word not in overrides and word != "--"])
    if options.command == "report":
        from train.report import report  # matplotlib takes a second to import

        print(f"report: {report(options.runs, options.out)}")
    elif options.command == "study":
        from train.study import parse_seeds, study

        _alone("study")
        page = study(options.settings, parse_seeds(options.seeds), options.out, overrides, options.epochs, options.batches)
        print(f"report: {page}")
    else:
        from train.run import run as train

        train(configs.load(options.setting, overrides))
    return 0


def _alone(command: str) -> None:
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise RequestError(f"{command}: expected one process, found torchrun's {os.environ['WORLD_SIZE']}; run it without torchrun")


def parser() -> argparse.ArgumentParser:
    """Every option of the three commands."""
    top = Parser(prog="python -m train", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    wide = argparse.RawDescriptionHelpFormatter
    one = commands.add_parser(
        "run",
        help="train the student of a setting (make train)",
        description="Trains the student of a setting from its caches; the same command goes on with a run that was interrupted.",
        usage="python -m train run --setting NAME [--debug] [key=value ...]",
        epilog=fields(),
        formatter_class=wide,
    )
    one.add_argument("--setting", required=True, help=f"one of {', '.join(known_settings())}, or a YAML file of that form")
    page = commands.add_parser(
        "report",
        help="tables and figures of some runs, as Markdown",
        description="Tables and figures of runs: loss, IoU error and correlation against the teacher, the cache's cost, pairs.",
        formatter_class=wide,
    )
    page.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, as `run: PATH` names it")
    page.add_argument("--out", required=True, type=Path, help="folder that the report is written to")
    many = commands.add_parser(
        "study",
        help="several settings at equal budget from one cache, one report (make study)",
        description="Runs settings one after the other at equal budget and compares them; finished runs are kept.",
        usage="python -m train study SETTING ... [--seeds 0,1,2] [--epochs E] [--batches K] [--out DIR] [--debug] [key=value ...]",
        epilog=fields(),
        formatter_class=wide,
    )
    many.add_argument("settings", nargs="+", metavar="SETTING", help=f"of {', '.join(known_settings())}, or YAML files")
    many.add_argument("--seeds", nargs="+", default=["0"], help="train.seed of each setting's runs (default: 0)")
    many.add_argument("--epochs", type=int, help="epochs of every run; phases and lr_step shrink in proportion")
    many.add_argument("--batches", type=int, help="steps an epoch of every run (default: 1000; with like=NAME that setting's)")
    many.add_argument("--out", type=Path, default=Path("reports/study"), help="folder of the report (default: reports/study)")
    return top


def known_settings() -> list[str]:
    """The names of the settings."""
    return list(configs.settings())


def fields() -> str:
    """Every field of the configuration with its default and what it is."""
    lines = ["fields of the configuration, overridden by key=value (train.epochs=2 losses.fidelity=null):"]
    lines += [f"  {name} = {default}\n      {text}" for name, default, text in configs.describe() if name not in ("setting", "doc")]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(main))
