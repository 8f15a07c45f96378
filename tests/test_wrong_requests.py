"""Wrong requests, made from the schema: each is one line with exit code 2, soon, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import cv2
import numpy as np
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import configs
import teachonce
import train.__main__
from cache import Array, Cache, PairSetSpec
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
import contextlib, io, json, re, sys, time

import teachonce

for words in json.load(sys.stdin):
    said, began = io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            code = teachonce.main(words)
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            code = repr(error)
    with open("/proc/self/status") as status:
        peak = int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1]) / 1e3
    heavy = sorted({"torch", "torchvision", "matplotlib", "nvidia", "scipy", "onnx", "zarr", "numcodecs"} & set(sys.modules))
    print(json.dumps([code if not heavy else heavy, said.getvalue(), time.process_time() - began, peak]), flush=True)
"""
ALONE = {"--help": 0.5, "train run --setting atom_cfk": 1, "train run --setting gt": 1, "precompute cache --dataset x --targets y": 1}
"""Command -> seconds of processor time that it may take on a quiet machine, from the beginning of a process."""
TOGETHER = """
nonsense
precompute
precompute cache --dataset dmeo
precompute cache --dataset got10k --setting gtt
precompute cache --dataset got10k --targets nonsense
precompute cache --dataset got10k --targets iou\\ nonsense
precompute cache --dataset got10k --targets ''
precompute cache --dataset got10k --setting gt --targets all
precompute cache --dataset ''
precompute cache --dataset 'got10k nope'
precompute cache --dataset got10k
precompute cache --dataset 'got10k lasot' --split train
precompute cache --dataset got10k --split train --pairs 1000000000
precompute cache --dataset got10k --split train --pairs 1e3
precompute cache --dataset got10k --split train --pairs -1
precompute cache --dataset got10k --split train --pairs 1000000000000
precompute cache --dataset got10k --split train pairs.min_frames=99
precompute cache --dataset got10k --split test
precompute cache --dataset got10k --share 4/4
precompute cache --dataset got10k --pairs 5 pairs.count=6
train run --setting gt setting=ts
train study gt train.seed=3
precompute cache --dataset got10k --device cuda:99999
precompute cache --dataset got10k --threads 0
precompute cache --dataset got10k --teacher none.pth
precompute cache --dataset got10k --teacher .
precompute cache --dataset got10k --split train --setting drnet_cfkd --targets iou
precompute cache --dataset got10k --split train --setting drnet_cfkd
precompute check
precompute check nope
precompute check got10k --decode -5
precompute demo-data --out x --frames 1
precompute demo-data --out text.pth
train run
train run --setting gt
train run --setting atom_cfkd
train run --setting gt cache_dir=held
train run --setting atom_cfkd dataset=other cache_dir=held
cache info held/smal
cache view held/small --pairs 9
cache gc held/small --target atom/iou
train run --setting gt dataset=nope
train run --setting gt dataset=got10k
train run --setting gt val_dataset=nope dataset=got10k
train run --setting gt train.caches=[nope]
train run --setting gt student.weights=none.pth
train run --setting atom_cfkd teacher.weights=none.pth
train run --setting gt train.epoch=1
train run --setting gt train.name=../x
train run --setting gt train.device=gpu
train study gt ts
train study gt tss
train study gt gt
train study gt --epochs 0
train study gt --seeds x
train study gt --out text.pth/study
train study gt dataset=nope
train report none --out r
cache ls
cache ls nowhere
cache info nope
cache verify nope
cache verify .
cache view nope
cache export nope x.h5
cache gc nope --unfinished
cache gc nope
models show none.pth
models show .
models convert none.pth x.safetensors
models convert text.pth x.safetensors
models convert weights.safetensors x.txt
models convert weights.safetensors text.pth/x.safetensors
models export weights.safetensors text.pth
models deploy weights.safetensors text.pth/x.onnx
models convert weights.safetensors x.pth --dtype float16
models export none.pth x
models deploy weights.safetensors x.txt
models bench none.onnx
models bench weights.safetensors --threads 0
losses --setting gtt
losses --setting gt
losses --setting ''
tracking eval --dataset nope
tracking eval --dataset got10k --split nope
tracking eval --dataset got10k --baselines nope
tracking eval --dataset got10k --baselines none
tracking eval --dataset got10k --checkpoint none.pth
tracking eval --dataset got10k --device gpu
tracking eval --dataset got10k train.epochs=2
tracking eval --dataset got10k --split train --sequences nope
tracking eval --dataset got10k --split train --baselines still --out text.pth
tracking track --video got10k/train/one --checkpoint weights.safetensors --box 9,9,20,20 --out text.pth/x
tracking track --video none.mp4
tracking track --video none.mp4 --checkpoint none.pth
tracking track --video none.mp4 --checkpoint weights.safetensors
tracking track --video got10k/train/one --checkpoint weights.safetensors --box 1,2,3
tracking vot
bench --setting gtt
bench --size 33
bench --device gpu
bench --only nope
bench --batch 0
bench train.batch=-1
bench --json text.pth/x.json
bench --json got10k
bench --trace ''
bench --setting drnet_cfkd --only public
models convert weights.safetensors folder.safetensors
models deploy weights.safetensors folder.onnx
bench staleness none none.pth
bench staleness none weights.safetensors
bench staleness none weights.safetensors --pairs 0
bench guard none --reference none
"""


@pytest.fixture
def place(tmp_path) -> Path:
    """A data set of GOT-10k's layout without validation, a file that begins as weights do, and a cache without parts below held/."""
    folder = tmp_path / "got10k" / "train" / "one"
    folder.mkdir(parents=True)
    for number in range(40):
        cv2.imwrite(str(folder / f"{number:08}.jpg"), np.zeros((48, 64, 3), np.uint8))
    (folder / "groundtruth.txt").write_text("9,9,20,20\n" * 40)
    for label in ("absence.label", "cover.label"):
        (folder / label).write_text("0\n" * 40 if label == "absence.label" else "8\n" * 40)
    (folder.parent / "list.txt").write_text("one\n")
    (tmp_path / "weights.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    (tmp_path / "text.pth").write_text("no weights")
    boxes = Array("box", (4,), "float32", "a box")
    Cache.create(tmp_path / "held" / "small", PairSetSpec({"dataset": "other", "split": "train"}, 4, (boxes,), 100, 4, 2, {}))
    for folder in ("folder.safetensors", "folder.onnx"):
        (tmp_path / folder).mkdir()
    return tmp_path


def _answers(place: Path, commands: list[list[str]]) -> list[tuple[object, str, float, float]]:
    """(exit code or what heavy was imported, stderr, seconds of processor time, peak MB) of each command, in turn, in one process."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith(("_ROOT", "_DIR"))}
    environment |= {"PYTHONPATH": str(ROOT), "COVERAGE_PROCESS_START": "", "GOT10K_ROOT": "got10k", "TEACHONCE_INDEX": str(place / "index")}
    said = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=place, env=environment, input=json.dumps(commands), capture_output=True, text=True, check=True
    )
    return [tuple(json.loads(line)) for line in said.stdout.splitlines()]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' record of a process")
@pytest.mark.parametrize("words", ALONE)
def test_a_request_is_answered_before_anything_heavy_is_imported(words, place):
    ((code, _, seconds, megabytes),) = _answers(place, [words.split()])
    assert code == (0 if "--help" in words else 2)
    # twice: another test may be running beside this one
    assert seconds < 2 * ALONE[words] and megabytes < 150


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' record of a process")
def test_every_command_refuses_wrong_requests_in_one_line_without_torch_and_writes_nothing(place):
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    commands = [shlex.split(line) for line in TOGETHER.strip().splitlines()]
    helps = [[*words, "--help"] for words in ([], *map(str.split, teachonce.COMMANDS), ["train", "run"], ["bench", "guard"])]
    answers = _answers(place, [*commands, *helps])
    wrong = [
        (words, answer)
        for words, answer in zip(commands, answers, strict=False)
        if answer[0] != 2 or answer[1].count("\n") != 1 or not answer[1][:-1].isprintable()
    ]
    assert not wrong
    assert len(answers) == len(commands) + len(helps) and all(answer[0] == 0 for answer in answers[len(commands) :])
    assert max(answer[2] for answer in answers) < 3 and answers[-1][3] < 150
    left = {path: path.read_bytes() for path in place.rglob("*") if path.is_file() and (place / "index") not in path.parents}
    assert left == before
