"""From labels to a teacher, from the teacher to a cache, from the cache to a student: each command takes what the one before has left."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import precompute.__main__ as precompute
import train.__main__ as training
from configs.cli import run

TINY = "atom_resnet18tiny"
SMALL = ("pairs.count=32", "pairs.val_count=8", "pairs.ref.size=64", "pairs.test.size=64", "train.feed=torch")
SHORT = ("train.batch=4", "train.batches=4", "train.epochs=1", "train.val_batches=1", "train.device=cpu", "train.pictures=0")


@pytest.fixture
def teacher(demo_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """(overrides) -> the weights that setting atom_paper leaves, always at the same path."""
    torch.set_num_threads(1)
    folders = {
        "DEMO_ROOT": demo_video,
        "CACHE_DIR": tmp_path / "caches",
        "RUN_DIR": tmp_path / "runs",
        "TEACHONCE_INDEX": tmp_path / "index",
    }
    for name, value in folders.items():
        monkeypatch.setenv(name, str(value))
    assert cache("atom_paper") == 0

    def trained(*overrides: str) -> Path:
        folder = tmp_path / "runs" / "atom_paper" / "teacher"
        shutil.rmtree(folder, ignore_errors=True)
        own = (f"student.architecture={TINY}", "student.weights=null", "train.name=teacher")
        assert train("atom_paper", *own, *overrides) == 0
        return folder / "student.safetensors"

    return trained


def cache(setting: str, *arguments: str) -> int:
    given = ["cache", "--dataset", "demo", "--setting", setting, "--device", "cpu", "--threads", "1", *SMALL, *arguments]
    return run(precompute.main, given)


def train(setting: str, *overrides: str) -> int:
    return run(training.main, ["run", "--setting", setting, "dataset=demo", *SMALL, *SHORT, *overrides])


def test_a_trained_teacher_fills_the_cache_that_its_student_is_trained_from(teacher, tmp_path, capsys):
    weights = teacher()
    assert cache("ts", "--teacher", str(weights), f"teacher.architecture={TINY}") == 0
    capsys.readouterr()
    options = (f"teacher.architecture={TINY}", f"student.architecture={TINY}", "train.teacher=cached", "train.check_pairs=6")
    # the weights need not be named again: the cache's history says where they lie
    assert train("ts", *options) == 0
    said = capsys.readouterr().out
    assert "check: 6 pairs of demo-train-" in said and "largest relative error" in said
    assert "demo teacher" not in said, "the bundled teacher must not have stood in"
    assert (tmp_path / "runs" / "ts" / "seed0" / "student.safetensors").is_file()


def test_a_teacher_that_was_trained_again_is_refused_by_cache_and_training(teacher, capsys):
    weights = teacher()
    options = (f"teacher.architecture={TINY}", f"student.architecture={TINY}", f"teacher.weights={weights}")
    assert cache("ts", *options) == 0
    assert teacher("train.seed=1") == weights
    for command in (cache, train):
        capsys.readouterr()
        assert command("ts", *options) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
        assert "weights_sha256: cached" in said and "wanted" in said
        assert "teacher.name=" in said, "what to do about it"
    # without the file the cache's numbers are as good as before; that they cannot be checked is said
    assert train("ts", *options[:2], "train.teacher=cached") == 0
    assert "check: the teacher's weights are not at hand" in capsys.readouterr().out
