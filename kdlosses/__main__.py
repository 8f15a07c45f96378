"""`python -m kdlosses`: the table of targets, what each takes and which losses need it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import configs
from configs import Config, RequestError
from configs.cli import Parser, run

if TYPE_CHECKING:
    from configs.arrays import TargetSpec

SETTINGS = "atom_cfkd drnet_cfkd"


def main(arguments: Sequence[str], prog: str = "python -m kdlosses") -> None:
    """The command line; see `python -m kdlosses --help`."""
    parser = Parser(
        prog=prog,
        description="Prints the table of targets as Markdown: what each is, which losses need it, and its bytes a pair before compression"
        " for the teacher, the student and the pair set of each setting.",
    )
    parser.add_argument("--setting", default=SETTINGS, help="names of settings, separated by spaces: a column each (default: %(default)s)")
    parser.add_overrides("overrides of the configuration, in every column, e.g. pairs.test.size=256 student.architecture=atom_resnet18tiny")
    options = parser.parse_args(arguments)
    names = options.setting.split()
    if not names:
        raise RequestError("--setting: expected names of settings, found none; e.g. --setting atom_cfkd")
    print("\n".join(markdown([configs.load(name, options.overrides) for name in dict.fromkeys(names)])))


def markdown(settings: Sequence[Config]) -> list[str]:
    """The lines of a Markdown table: one target a line, one column of bytes a pair for each setting. RequestError without a teacher."""
    taught = [(config, config.teacher) for config in settings if config.teacher is not None]
    if without := [config.setting for config in settings if config.teacher is None]:
        raise RequestError(f"--setting: expected settings with a teacher, found {', '.join(without)} without; choose others")
    from kdlosses import TARGETS, sizes_of, target_spec  # brings torch

    heads, columns = ["target", "what it is", "needed by"], []
    for config, teacher in taught:
        heads.append(f"bytes a pair, {teacher.architecture} (`{config.setting}`)")
        sizes = sizes_of(config, teacher)
        columns.append([target_spec(name, sizes) for name in TARGETS])
    lines = [heads, ["---", "---", "---", *("---:" for _ in columns)], *map(_line, zip(*columns, strict=True))]
    return [f"| {' | '.join(line)} |" for line in lines]


def _line(specs: Sequence[TargetSpec]) -> list[str]:
    """One target in every setting."""
    about = specs[0].about
    return [f"`{specs[0].name}`", about["doc"], ", ".join(about["needed_by"]), *(f"{spec.pair_bytes:,}" for spec in specs)]


if __name__ == "__main__":
    sys.exit(run(main))
