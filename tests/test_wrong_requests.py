"""Wrong requests, made from the schema: each is one line with exit code 2, soon, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import configs
import train.__main__
from configs.cli import run
from configs.schema import Config, PhaseConfig

ROOT = Path(__file__).parents[1]
WRONG: dict[Any, tuple[str, ...]] = {
    int: ("few", "true", "1.5", ".nan", ".inf", "[1]", "{a: 1}"),
    float: ("few", "false", ".nan", ".inf", "-.inf", "[1]"),
    bool: ("1", "often", "null"),
    str: ("3", "true", "[a]", "''", "' '", '"a\\x1b[31mb"'),
    Literal: ("nearly", "3", "true"),
    Union: ("nearly", "3", ".inf", "[true]"),  # bool or a word
    tuple: ("3", "nearly", "[nearly]", "[true]", "[.nan]"),
}
"""Type of a field -> what is of no such type, as YAML."""
CLASHES = (
    "train.augment=fresh train.teacher=cached",
    "train.mix=0.5 train.teacher=cached",
    "train.mix=0.5 train.augment=none",
    "pairs.proposals=8 train.proposals=9",
    "losses.mutual_students=1",
    "second_student.architecture=atom_resnet18",
    "losses.ground_truth=null",
    "train.freeze=[backbone,head]",
    "train.freeze=[backbone] train.backbone_lr=0.1",
    "train.batch=1",
    "train.fresh=[flip]",
    "like=nothing",
    "phases.0.epochs=1",
    "train",
    "=1",
    "train.=1",
    "train.epochs={",
    "train.epochs.deep.er=1",
)


def kinds(field: FieldInfo) -> tuple[Any, list[Any]]:
    """(the plain type of a field, all its constraints), without None and Annotated."""
    annotation, found = field.annotation, list(field.metadata)
    if type(None) in get_args(annotation):
        (annotation,) = (part for part in get_args(annotation) if part is not type(None))
    while hasattr(annotation, "__metadata__"):
        found += [constraint for each in annotation.__metadata__ for constraint in getattr(each, "metadata", [each])]
        annotation = annotation.__origin__
    return Union if get_origin(annotation) is UnionType else get_origin(annotation) or annotation, found


def beyond(constraints: list[Any]) -> Iterator[str]:
    """Values below and above the range of a number."""
    for each in constraints:
        for name, outside in (("ge", lambda end: end - 1), ("le", lambda end: 2 * end), ("gt", lambda end: end), ("lt", lambda end: end)):
            if hasattr(each, name):
                yield str(outside(getattr(each, name)))


def wrong_fields(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Overrides that are wrong, of every field of a section and of those below it."""
    for name, field in model.model_fields.items():
        kind, constraints = kinds(field)
        if name in ("setting", "doc", "phases"):
            continue
        yield f"{prefix}{name}x=1"
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield f"{prefix}{name}=nearly"
            yield from wrong_fields(kind, f"{prefix}{name}.")
            continue
        yield from (f"{prefix}{name}={value}" for value in (*WRONG[kind], *beyond(constraints)))


REQUESTS = [
    # the name of a cache is wrong only where none has it
    *(("gt", override) for override in wrong_fields() if override != "train.caches=[nearly]"),
    *(("sep", override) for override in wrong_fields(PhaseConfig, "phases.1.")),
    *(("gt", clash) for clash in CLASHES),
]


def test_the_schema_gives_enough_of_them():
    assert len(REQUESTS) > 600 and len(set(REQUESTS)) == len(REQUESTS)
    fields = [name for name, default, _ in configs.field_help() if default != "section"]
    asked = {override.partition("=")[0] for _, override in REQUESTS}
    assert not {name for name in fields if name not in asked} - {"setting", "doc", "phases"}


def _load(setting: str, *overrides: str) -> None:
    configs.load(setting, overrides)


def test_each_is_one_line_with_code_2_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wrong = []
    for setting, override in REQUESTS:
        words = override.split(" train") if " train" in override else [override]
        code = run(lambda given: _load(*given), [setting, words[0], *(f"train{word}" for word in words[1:])])
        said = capsys.readouterr()
        fine = code == 2 and said.err.startswith("error: ") and said.err.count("\n") == 1 and not said.out
        if not (fine and said.err[:-1].isprintable() and len(said.err) < 900):
            wrong.append((setting, override, code, said.err))
    assert not wrong and not list(tmp_path.iterdir())


@pytest.mark.parametrize("request_", ["run --setting atom_cfk", "study gt tss", "study gt --seeds x", "run --setting gt train.lr=.inf"])
def test_train_looks_at_the_request_before_it_looks_for_caches(request_, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(train.__main__.main, request_.split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and request_.split()[-1].rpartition("=")[2].lstrip(".") in said and "caches" not in said
    assert not list(tmp_path.iterdir())


PROBE = """
import re, sys, time, teachonce
try:
    code = teachonce.main(sys.argv[1:])
except SystemExit as end:
    code = end.code
heavy = sorted({"torch", "zarr", "matplotlib", "nvidia", "torchvision"} & set(sys.modules))
with open("/proc/self/status") as status:
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1])
print("PROBE", code, time.process_time(), peak / 1e3, *heavy)
"""
SOON = {
    "--help": 0.5,
    "precompute --help": 1,
    "precompute cache --help": 1,
    "precompute check": 1.5,
    "precompute demo-data --help": 1.5,
    "precompute cache --dataset demo --setting gtt": 1,
    "precompute cache --dataset dmeo": 1,
    "train --help": 1,
    "train run --help": 1,
    "train study --help": 1,
    "train run --setting atom_cfk": 1,
    "train run --setting gt train.epoch=1": 1,
    "train study gt tss": 1,
    "train study gt --epochs 0": 1,
    "train run --setting gt student.weights=none.pth": 1,
    "precompute cache --dataset demo --teacher none.pth": 1,
    "precompute cache --dataset demo --device gpu": 1,
    "models --help": 1,
    "models show none.pth": 1,
    "models convert none.pth x.safetensors": 1,
    "losses --help": 1,
    "losses --setting gtt": 1,
    "losses --setting gt": 1,
    "bench --help": 1,
    "bench staleness --help": 1,
    "bench staleness none none.pth": 1,
}
"""Command -> seconds of processor time that it may take on a quiet machine."""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' record of a process")
@pytest.mark.parametrize("words", SOON)
def test_a_request_is_answered_before_anything_heavy_is_imported(words, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COVERAGE_PROCESS_START": ""}
    said = subprocess.run(
        [sys.executable, "-c", PROBE, *words.split()], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    code, seconds, megabytes, *heavy = said.stdout.rpartition("PROBE ")[2].split()
    assert (code, heavy) == ("0" if "--help" in words else "2", [])
    # twice: another test may be running beside this one
    assert float(seconds) < 2 * SOON[words] and float(megabytes) < 150
    assert not list(tmp_path.iterdir())
