"""Whatever stands on a command line: it ends with code 0, 1 or 2, an error is one line, and nothing is written that was not asked for.

TEACHONCE_FUZZ=20000 sets how many lines are tried in all (`make test`: a few hundred, always the same).
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bench.__main__
import cache.__main__
import models.__main__
import precompute.__main__
import precompute.check
import precompute.demo.generate
import teachonce
import tracking.__main__
import train.__main__
from tests.fuzz.strategies import STRANGE

COUNT = int(os.environ.get("TEACHONCE_FUZZ", "160"))
SECONDS = 10
WORDS = (
    *("", " ", "0", "-1", "1", "2", "1e3", "1e400", "nan", "-inf", "9" * 40, "1/2", "0-1", "3,1", "1,2,3,4", "a=b", "--", "-x", "=", "[1]"),
    *("gt", "atom_cfkd", "drnet_cfkd", "all", "none", "iou", "demo", "got10k nope", "cpu", "cuda", "cuda:9", "train", "val", "text.txt"),
    *("no/such/file.pth", "x.safetensors", "x.h5", "x.onnx", "x.html", "s3://", "s3://a/b", "../x", "\u2460", "a\u0301", "\ud800"),
    *(os.fsdecode(word) for word in STRANGE if word != b"/"),
)
FIELDS = ("train.epochs", "pairs.count", "losses.fidelity", "tracking.size", "train.name", "cache_dir", "like", "phases.0.epochs", "x")


def commands(words: tuple[str, ...], parser: argparse.ArgumentParser) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Each command below these words, with the parser of its options."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield words, parser
    for action in below:
        for name, inner in action.choices.items():
            yield from commands((*words, name), inner)


COMMANDS = dict(
    [
        *commands(("train",), train.__main__.parser("")),
        *commands(("cache",), cache.__main__.parser("")),
        *commands(("models",), models.__main__.parser("")),
        *commands(("tracking",), tracking.__main__.parser("")),
        *commands(("bench",), bench.__main__.parser("")),
        *commands(("bench", "staleness"), bench.__main__.staleness_parser("")),
        *commands(("precompute",), precompute.__main__.parser("")),
        (("precompute", "check"), precompute.check.parser("")),
        (("precompute", "demo-data"), precompute.demo.generate.parser("")),
    ]
)


def _option(action: argparse.Action) -> st.SearchStrategy[list[str]]:
    """An option with what may stand behind it, or a positional argument."""
    known = [str(choice) for choice in action.choices or ()]
    value = st.one_of(st.sampled_from((*WORDS, *known)), st.text(max_size=8))
    values = st.lists(value, max_size=2) if action.nargs in ("+", "*") else value.map(lambda word: [word])
    if action.nargs == 0:
        values = st.just([])
    names = st.sampled_from(action.option_strings or ("",))
    return st.builds(lambda name, given: [*([name] if name else []), *given], names, values)


def lines(words: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    """Command lines of one command: some of its options and arguments, overrides, anything else."""
    actions = [action for action in COMMANDS[words]._actions if action.dest not in ("help", "overrides", "debug")]
    override = st.builds(lambda key, value: [f"{key}={value}"], st.sampled_from(FIELDS), st.sampled_from(WORDS))
    piece = st.one_of(*map(_option, actions), override, st.sampled_from(WORDS).map(lambda word: [word]))
    # what is required, mostly
    needed = [_option(action) for action in actions if action.required]
    head = st.one_of(st.tuples(*needed).map(list), st.just([])) if needed else st.just([])
    return st.builds(lambda first, rest: [*words, *itertools.chain(*first, *rest)], head, st.lists(piece, max_size=4))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_line_ends_well_or_in_one_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEACHONCE_INDEX", str(tmp_path / "index"))
    for name in [name for name in os.environ if name.endswith(("_ROOT", "_DIR")) or name == "DATASETS"]:
        monkeypatch.delenv(name)
    (tmp_path / "text.txt").write_text("no weights")
    # what a right request would do
    monkeypatch.setattr("bench.speed.measure", lambda *arguments: None)
    monkeypatch.setattr(precompute.demo.generate, "generate", lambda *arguments: True)

    @settings(
        max_examples=max(2, COUNT // len(COMMANDS)), derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(lines(words))
    def holds(line: list[str]) -> None:
        began = time.monotonic()
        try:
            code = teachonce.main(line)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        said = capsys.readouterr().err
        assert code in (0, 1, 2)
        assert code == 0 or (said.count("\n") == 1 and said[:-1].isprintable() and len(said) < 2500), said
        assert code == 0 or [path for path in tmp_path.iterdir() if path.name != "index"] == [tmp_path / "text.txt"]
        assert time.monotonic() - began < SECONDS

    holds()
    assert Path.cwd() == tmp_path
