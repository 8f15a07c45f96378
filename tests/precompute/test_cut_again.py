"""Frames and boxes that change after a cache was made: it does not grow, nothing trains from it, and `verify --frames` names the pairs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import cache.__main__
import configs
import precompute.__main__
import precompute.crops
import precompute.frames
import precompute.request
from cache import Cache
from cache.backends.base import writable
from configs import RequestError
from configs.cli import run
from precompute.frames import at_hand, cut_again, spread
from tests.compare import digests
from train.caches import open_caches
from train.inputs import open_inputs

ARGS = ["pairs.ref.size=32", "pairs.test.size=32", "pairs.count=40", "pairs.val_count=8", "pairs.min_frames=5"]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch, write_got10k) -> Path:
    """Two small sequences of 8 and 12 frames for training, one for validation; parts of 16 pairs."""
    monkeypatch.setattr(precompute.request, "PART", 16)
    monkeypatch.setattr(precompute.request, "CHUNK", 8)
    monkeypatch.setenv("GOT10K_ROOT", str(tmp_path / "got10k"))
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "caches"))
    write_got10k(tmp_path / "got10k", [8, 12], size=(64, 48))
    write_got10k(tmp_path / "got10k", [9], "val", size=(64, 48))
    return tmp_path / "got10k"


def fill(*arguments: str) -> int:
    return run(precompute.__main__.main, ["cache", "--dataset", "got10k", "--setting", "gt", "--device", "cpu", *arguments, *ARGS])


def made(tmp_path: Path, split: str = "train") -> list[Path]:
    return sorted((tmp_path / "caches").glob(f"got10k-{split}-*"))


def verify(path: Path, *options: str) -> int:
    return run(cache.__main__.main, ["verify", str(path), *options])


def frame_of(cache: Cache, root: Path, pair: int) -> Path:
    """The file of the test image of a pair."""
    rows = cache.pairs.read(pair, pair + 1)
    return root / "train" / f"GOT-10k_Train_{rows['sequence'][0] + 1:06d}" / f"{rows['frame'][0, 1] + 1:08d}.jpg"


def test_one_overwritten_frame_is_found_by_every_pair_that_shows_it(root, tmp_path, capsys):
    assert fill() == 0
    (path,) = made(tmp_path)
    assert verify(path, "--frames") == 0
    store = Cache.open(path)
    frame = frame_of(store, root, 17)
    image = cv2.imread(str(frame))
    assert image is not None and cv2.imwrite(str(frame), cv2.flip(image, 0))
    before = digests(path)
    capsys.readouterr()
    assert fill() == 2
    error = capsys.readouterr().err
    assert f"expected the frames that it was cut from, found others in {root}: of 40 pairs cut again" in error
    assert str(frame) in error and error.count("\n") == 1 and digests(path) == before
    assert verify(path) == 0
    assert verify(path, "--frames") == 1
    rows = store.pairs.read(0, 40)
    shown = (rows["sequence"] == int(frame.parent.name[-6:]) - 1)[:, None] & (rows["frame"] == int(frame.stem) - 1)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("frames, part")]
    assert [f"(pairs {pair})" in line for pair, line in zip(np.flatnonzero(shown.any(1)), said, strict=True)] == [True] * len(said)
    # a caller who knows better says so
    assert fill("recut_pairs=0") == 0


def test_frames_that_are_gone_are_told_from_others(root, tmp_path):
    assert fill() == 0
    (path,) = made(tmp_path)
    store, dataset = Cache.open(path), at_hand("got10k", "train")
    assert dataset is not None
    frame = frame_of(store, root, 3)
    frame.write_bytes(b"")
    (again,) = cut_again(store, dataset, [3])
    assert again.kind == "other" and "found an empty file" in again.what
    frame.unlink()
    assert [pair.kind for pair in cut_again(store, dataset, [3])] == ["gone"]
    # of this layout the number of frames belongs to the annotation: the data set cannot be opened
    assert verify(path, "--frames") == 2
    assert [cache.path for cache in open_caches(wanted(tmp_path), "train")] == [path]


def test_another_build_of_opencv_is_no_other_frame(root, tmp_path, monkeypatch, capsys):
    assert fill() == 0

    def smaller(crop: np.ndarray, quality: int) -> bytes:
        return cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1])[1].tobytes()

    monkeypatch.setattr(precompute.crops, "encode", smaller)
    # the parts say that this very build made them: then not a byte may differ
    capsys.readouterr()
    assert fill() == 2
    assert "of 40 pairs cut again 40 differ" in capsys.readouterr().err
    monkeypatch.setattr(precompute.frames, "crops_made", lambda: {"opencv": "another"})
    assert fill() == 0
    said = capsys.readouterr().out
    assert (
        f"frames: 40 pairs of {made(tmp_path)[0].name} cut again from {root} are the cached ones, 40 of them but for the rounding" in said
    )


def test_a_sample_is_spread_over_all_finished_parts(tmp_path):
    assert fill() == 0
    store = Cache.open(made(tmp_path)[0])
    assert spread(store, 100) == list(range(40)) and spread(store, 4) == [0, 13, 26, 39] and spread(store, 0) == []
    writable(store.backend).retract("pairs", [1])
    assert spread(store, 5) == [0, 5, 11, 33, 39]


def wanted(tmp_path: Path, *overrides: str) -> configs.Config:
    return configs.load("gt", ["dataset=got10k", f"cache_dir={tmp_path}/caches", *ARGS, *overrides])


def test_training_takes_the_cache_of_the_boxes_as_they_are(root, tmp_path, monkeypatch):
    assert fill() == 0
    (old,) = made(tmp_path)
    truth = root / "train" / "GOT-10k_Train_000001" / "groundtruth.txt"
    truth.write_text(truth.read_text().replace("8.5000", "9.5000"))
    message = r"expected a cache of the data set got10k as it lies here \(content_sha256 .*make cache DATASET=got10k .*train\.caches=\["
    with pytest.raises(RequestError, match=message):
        open_caches(wanted(tmp_path), "train")
    assert [cache.path for cache in open_caches(wanted(tmp_path, f"train.caches=[{old.name}]"), "train")] == [old]
    assert fill() == 0
    (new,) = set(made(tmp_path)) - {old}
    assert [cache.path for cache in open_caches(wanted(tmp_path), "train")] == [new]
    # on a machine without the data set nobody can tell
    monkeypatch.delenv("GOT10K_ROOT")
    with pytest.raises(
        RequestError, match=rf"several that differ in content_sha256: \[.*{old.name}.*choose one with train\.caches=\[NAME\]"
    ):
        open_caches(wanted(tmp_path), "train")
    # not even where one has the wanted count and the other does not
    with pytest.raises(RequestError, match="several that differ in content_sha256"):
        open_caches(wanted(tmp_path, "pairs.count=39"), "train")
    for path in (old, new):
        assert [cache.path for cache in open_inputs(wanted(tmp_path, f"train.caches=[{path.name}]")).train] == [path]
    with pytest.raises(RequestError, match=r"train\.caches: expected caches that fit this run, found strange beside"):
        open_inputs(wanted(tmp_path, f"train.caches=[{new.name}, strange]"))
