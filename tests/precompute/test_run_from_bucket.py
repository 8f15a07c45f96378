"""From frames to a trained student with the cache in a bucket: the same commands, and the same bytes as on a disk."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import cache.__main__
import models
import precompute.__main__
import precompute.request
import train.__main__
from cache.address import Address
from cache.backends import open_place
from cache.locate import caches_below
from configs.cli import run
from tests.compare import digests

TEACHER = "atom_resnet18tiny"
WORDS = [
    "pairs.ref.size=32",
    "pairs.test.size=32",
    "pairs.proposals=4",
    "pairs.min_frames=4",
    "pairs.count=12",
    "pairs.val_count=4",
    "recut_pairs=2",
]
WORDS += [f"teacher.architecture={TEACHER}", "teacher.batch=4", "train.feed=torch"]
RUN = ["dataset=got10k", f"student.architecture={TEACHER}", "train.batch=4", "train.batches=2", "train.epochs=1", "train.val_batches=1"]
RUN += ["train.device=cpu", "train.feed_threads=1", "train.pictures=0", "train.check_pairs=4"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, write_got10k) -> None:
    """A small data set, and parts of 8 pairs."""
    torch.set_num_threads(1)
    for name, value in (("PART", 8), ("CHUNK", 4)):
        monkeypatch.setattr(precompute.request, name, value)
    monkeypatch.setenv("GOT10K_ROOT", str(tmp_path / "got10k"))
    monkeypatch.setenv("RUN_DIR", str(tmp_path / "runs"))
    for split in ("train", "val"):
        write_got10k(tmp_path / "got10k", [9, 9], split, size=(64, 48))


def test_make_cache_verify_train_and_export(bucket, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    models.save_weights(models.build(TEACHER), tmp_path / "teacher.safetensors")
    make = [
        "cache",
        "--dataset",
        "got10k",
        "--setting",
        "ts",
        "--device",
        "cpu",
        "--teacher",
        str(tmp_path / "teacher.safetensors"),
        *WORDS,
    ]
    for folder in (str(tmp_path / "caches"), str(bucket)):
        monkeypatch.setenv("CACHE_DIR", folder)
        assert run(precompute.__main__.main, make) == 0
    told = capsys.readouterr()
    made = list(caches_below(bucket))
    assert [line for line in told.out.splitlines() if line.startswith("cache: s3:")] == [f"cache: {path}" for path in (made[0], made[1])]
    path = made[0]
    assert isinstance(path, Address) and run(cache.__main__.main, ["verify", str(path)]) == 0
    assert {key for key, _ in open_place(path).walk() if "/history/" not in key} == set(digests(tmp_path / "caches" / path.name))
    capsys.readouterr()
    assert run(train.__main__.main, ["run", "--setting", "ts", *WORDS, *RUN]) == 0
    told = capsys.readouterr()
    (folder,) = re.findall(r"^run: (.+)$", told.out, re.MULTILINE)
    assert (Path(folder) / "student.safetensors").is_file() and str(path) in told.out and "secret-of-test" not in told.out + told.err
    place = open_place(path)
    for key in ("crops/jpeg/c.1", f"targets/{TEACHER}/iou/iou/c.0.0"):
        place.put(key, place.get(key)[:-1] + b"?")
    assert run(cache.__main__.main, ["verify", str(path), "--repair"]) == 0
    assert run(cache.__main__.main, ["export", str(path), str(tmp_path / "back")]) == 0
    assert digests(tmp_path / "back") == digests(tmp_path / "caches" / path.name)
