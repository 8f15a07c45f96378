"""`cache verify --repair`: a damaged byte in whatever file comes back from the frames and the teacher, and no sound file is touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import cache.__main__
import models
import precompute.__main__
import precompute.repair
import precompute.request
from cache import Cache
from configs.cli import run
from precompute.made import Made

TEACHER = "atom_resnet18tiny"
WORDS = ["pairs.ref.size=32", "pairs.test.size=32", "pairs.proposals=4", "pairs.min_frames=4", "pairs.count=20", "train.feed=torch"]
WORDS += [f"teacher.architecture={TEACHER}", "teacher.batch=3", "teacher.feature_bits=4", "student.architecture=atom_resnet18small"]
GROUPS = ("", "pairs", "crops", f"targets/{TEACHER}", *(f"targets/{TEACHER}/{name}" for name in ("iou", "features", "projected")))
Files = dict[Path, bytes]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to be filled once, by the first test."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def made(template, write_got10k, tmp_path, monkeypatch) -> Iterator[Path]:
    """A cache of 20 pairs in parts of 8, with three targets; the data set and the weights lie here."""
    torch.set_num_threads(1)
    monkeypatch.setenv("GOT10K_ROOT", str(template / "got10k"))
    for name, value in (("PART", 8), ("CHUNK", 4)):
        monkeypatch.setattr(precompute.request, name, value)
    monkeypatch.setattr("precompute.descriptions.PART", 8)
    monkeypatch.setattr("precompute.descriptions.CHUNK", 4)
    if not (template / "caches").exists():
        write_got10k(template / "got10k", [9, 9], size=(64, 48))
        torch.manual_seed(0)
        models.save_weights(models.build(TEACHER), template / "teacher.safetensors")
        words = ["--dataset", "got10k", "--split", "train", "--device", "cpu", "--targets", "iou features projected"]
        words += ["--teacher", str(template / "teacher.safetensors"), f"cache_dir={template / 'caches'}", *WORDS]
        assert run(precompute.__main__.main, ["cache", *words]) == 0
    (path,) = (template / "caches").iterdir()
    return shutil.copytree(path, tmp_path / "cache")


def files(path: Path) -> Files:
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def repair(path: Path, *options: str) -> int:
    return run(cache.__main__.main, ["verify", str(path), "--repair", *options])


def shards(whole: Files, part: int) -> list[Path]:
    return [file for file in whole if file.name.startswith(f"c.{part}") and "constants" not in file.parts]


def entries(whole: Files, part: int) -> list[Path]:
    return [file for file in whole if file.name == f"{part:05d}.json"]


DAMAGES: dict[str, Callable[[Files], list[Path]]] = {
    "every shard of a part": lambda whole: shards(whole, 1),
    "every shard and every entry of a part": lambda whole: [*shards(whole, 2), *entries(whole, 2)],
    "every entry of two parts": lambda whole: [file for part in range(2) for file in entries(whole, part)],
    "arrays and the ledger": lambda whole: [file for file in whole if file.name == "zarr.json" and b'"node_type": "array"' in whole[file]],
    "constants": lambda whole: [file for file in whole if "constants" in file.parts],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_byte_comes_back_and_nothing_sound_is_touched(made, damage, capsys):
    whole = files(made)
    damaged = DAMAGES[damage](whole)
    for file in damaged:
        flip(file)
    before = {file: file.stat().st_mtime_ns for file in whole if file not in damaged}
    assert len(damaged) >= 3 and repair(made) == 0
    assert files(made) == whole
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert "repaired: " in (told := capsys.readouterr().out) and told.endswith("whole and finished, 20 pairs, 3 parts\n")


@pytest.mark.parametrize("group", GROUPS)
def test_attributes_that_are_lost_follow_from_the_others(made, group):
    whole = files(made)
    (made / group / "zarr.json").write_bytes(b"")
    assert repair(made) == 0 and files(made) == whole


def test_a_damaged_record_is_dropped_and_a_whole_cache_is_left_alone(made, capsys):
    whole = files(made)
    assert repair(made) == 0 and files(made) == whole and "repaired" not in capsys.readouterr().out
    (record,) = (file for file in whole if file.parent.name == "history")
    flip(record)
    assert repair(made) == 0 and files(made) == {file: content for file, content in whole.items() if file != record}


def refused(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    before = files(path)
    capsys.readouterr()
    assert repair(path, *options) == 2 and files(path) == before
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_what_is_not_at_hand_or_is_another_is_refused(made, template, tmp_path, monkeypatch, capsys):
    (jpeg,), (iou,) = made.glob("crops/jpeg/c.1"), made.glob("targets/*/iou/iou/c.1.*")
    whole = files(made)
    flip(iou)
    hidden = (template / "teacher.safetensors").rename(template / "elsewhere.safetensors")
    said = refused(made, capsys)
    assert f"expected the weights of the teacher {TEACHER} (SHA-256 " in said and "name the file with --teacher" in said
    other = tmp_path / "other.safetensors"
    torch.manual_seed(1)
    models.save_weights(models.build(TEACHER), other)
    assert "expected the weights of the teacher" in refused(made, capsys, "--teacher", str(other))
    assert repair(made, "--teacher", str(hidden)) == 0 and files(made) == whole
    hidden.rename(template / "teacher.safetensors")
    flip(jpeg)
    monkeypatch.setenv("GOT10K_ROOT", str(tmp_path / "nothing"))
    assert "nothing" in refused(made, capsys)


def test_crops_of_other_frames_or_another_build_are_not_put_in_their_place(made, template, tmp_path, monkeypatch, capsys):
    root = shutil.copytree(template / "got10k", tmp_path / "got10k")
    monkeypatch.setenv("GOT10K_ROOT", str(root))
    flip(made / "crops/jpeg/c.1")
    monkeypatch.setattr("precompute.repair.crops_made", lambda: Made(opencv="another"))
    monkeypatch.setattr(
        "precompute.crops.encode", lambda crop, quality: cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 50])[1].tobytes()
    )
    monkeypatch.setattr(precompute.repair, "SAMPLE", 0)
    assert "pairs, part 1: expected the numbers of its checksums again, found others: it was made with opencv" in refused(made, capsys)
    monkeypatch.undo()
    monkeypatch.setenv("GOT10K_ROOT", str(root))
    rows = Cache.open(made).pairs.read(0, 8)
    frame = root / "train" / f"GOT-10k_Train_{rows['sequence'][0] + 1:06d}" / f"{rows['frame'][0, 0] + 1:08d}.jpg"
    cv2.imwrite(str(frame), np.zeros((48, 64, 3), np.uint8))
    assert f"expected the frames that it was cut from, found others in {root}" in refused(made, capsys)
