"""`python -m kdlosses`: the table of targets, what each takes and which losses need it. The README's is what this prints by default."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import configs
import models
from configs import Config, RequestError
from configs.cli import Parser, run
from kdlosses.targets import Row, table

SETTINGS = "atom_cfkd drnet_cfkd"


def main(arguments: Sequence[str]) -> None:
    """The command line; see `python -m kdlosses --help`."""
    options = parser().parse_mixed(arguments)
    names = options.setting.split()
    if not names:
        raise RequestError("--setting: expected names of settings, found none; e.g. --setting atom_cfkd")
    print("\n".join(markdown([configs.load(name, options.overrides) for name in dict.fromkeys(names)])))


def parser() -> Parser:
    """Every option."""
    top = Parser(
        prog="python -m kdlosses",
        description="Prints the table of targets as Markdown: what each is, which losses need it, and its bytes a pair before compression"
        " for the teacher, the student and the pair set of each setting.",
    )
    top.add_argument("--setting", default=SETTINGS, help="names of settings, separated by spaces: a column each (default: %(default)s)")
    top.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="overrides of the configuration, in every column, e.g. pairs.crop_size=144 student.architecture=atom_resnet18tiny",
    )
    return top


def rows_of(config: Config) -> list[Row]:
    """The table for the networks and the pair set of a setting. RequestError without a teacher."""
    if config.teacher is None:
        raise RequestError(f"--setting: expected a setting with a teacher, found {config.setting} without; choose another")
    channels, numbers = models.network_sizes(config.teacher.architecture)
    student_channels, _ = models.network_sizes(config.student.architecture)
    return table(channels, numbers, config.pairs.proposals, config.pairs.crop_size, student_channels=student_channels)


def markdown(settings: Sequence[Config]) -> list[str]:
    """The lines of a Markdown table: one target a line, one column of bytes a pair for each setting."""
    columns = [rows_of(config) for config in settings]
    heads = [f"bytes a pair, {config.teacher.architecture} (`{config.setting}`)" for config in settings if config.teacher is not None]
    lines = [["target", "what it is", "needed by", *heads], ["---", "---", "---", *("---:" for _ in heads)]]
    lines += [
        [f"`{same[0].name}`", same[0].doc, ", ".join(same[0].needed_by), *(f"{row.bytes:,}" for row in same)]
        for same in zip(*columns, strict=True)
    ]
    return [f"| {' | '.join(line)} |" for line in lines]


if __name__ == "__main__":
    sys.exit(run(main))
