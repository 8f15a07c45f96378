"""Whatever lies in a file or stands in an option, only the project's own error comes out, soon and in little memory.

TEACHONCE_FUZZ=20000 sets how many inputs are tried in all (`make test`: a few hundred, always the same).
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import configs
import precompute.__main__
import train.__main__
from cache import Array, Cache, PairSetSpec
from cache.export import export
from cache.inspect import cache_info
from cache.verify import verify
from configs.catalog import dataset_entry, members
from configs.errors import TeachOnceError
from models.checkpoint import read_state
from models.contents import contents_lines, file_contents
from pairs.frames import frame_digest, read_frame, video_frames
from precompute.datasets import open_entry
from tests.fuzz.strategies import almost
from train.reports.run_folder import read_run

COUNT = int(os.environ.get("TEACHONCE_FUZZ", "400"))
SECONDS, MEGABYTES = 10, 2000
"""What one input may take."""
BOXES = b"1,2,30,40\n2,3,30,40\n3,4,30,40\n"


class Parser(NamedTuple):
    """inputs: what is tried; read: (folder with what else is needed, input) -> reads it as a command does."""

    inputs: st.SearchStrategy[Any]
    read: Callable[[Path, Any], object]


def _of_file(name: str, read: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
    """Reads the input as the content of a file below the folder; `read` gets the folder."""

    def written(folder: Path, content: bytes) -> object:
        place = folder / name
        before = place.read_bytes() if place.is_file() else None
        place.write_bytes(content)
        try:
            return read(folder)
        finally:
            if before is not None:
                place.write_bytes(before)

    return written


def _opened(kind: str, **options: Any) -> Callable[[Path], object]:
    """Opens a data set below the folder."""

    def read(folder: Path) -> object:
        data = open_entry("x", {"kind": kind, "root": str(folder / kind), "train": options}, "train", fresh=True)
        return data.content_hash, data.usable(configs.load("gt").pairs)

    return read


def _catalog(folder: Path) -> object:
    for name in ("mine", "mixed"):
        for split in ("train", "val"):
            for member in members(name, split):
                open_entry(member, dataset_entry(member), split, fresh=True)
    return None


def _contents(folder: Path) -> object:
    facts = file_contents(folder / "weights")
    return json.dumps(facts), contents_lines(facts, "weights"), read_state(folder / "weights")


def _seeds(folder: Path, text: str) -> object:
    words = text.split("\n")
    return train.__main__.parse_seeds(words), precompute.__main__.share(text)


def _state() -> dict[str, Any]:
    return {"net": {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(0)}, "epoch": 3, "settings": SimpleNamespace(x=[1])}


def _saved(legacy: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(_state(), stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def _zipped(content: bytes) -> bytes:
    """The pickle of a checkpoint, whose sums the archive would guard, in a sound archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x/data.pkl", content)
        archive.writestr("x/data/0", struct.pack("<6f", *range(6)))
    return stream.getvalue()


def _data_pickle() -> bytes:
    with zipfile.ZipFile(io.BytesIO(_saved(False))) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def _image(suffix: str) -> bytes:
    return cv2.imencode(suffix, np.arange(3 * 16 * 24, dtype=np.uint8).reshape(16, 24, 3))[1].tobytes()


def _film(suffix: str, code: str) -> bytes:
    """A video of six frames."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/v{suffix}"
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*code), 25, (48, 32))
        for number in range(6):
            writer.write(np.full((32, 48, 3), 40 * number, np.uint8))
        writer.release()
        return Path(path).read_bytes()


def _copy() -> bytes:
    """A cache of four pairs as one file."""
    with tempfile.TemporaryDirectory() as folder:
        spec = PairSetSpec({"dataset": "x", "split": "train"}, 4, (Array("ref_box", (4,), "float32", "box"),), 5000, 4, 2)
        made = Cache.create(Path(folder) / "c", spec)
        made.pairs.write(0, {"ref_box": np.ones((4, 4))}, [(_image(".jpg"), _image(".jpg"))] * 4)
        export(made, Path(folder) / "c.h5")
        return (Path(folder) / "c.h5").read_bytes()


def _copied(folder: Path) -> object:
    made = Cache.open(folder / "copy.h5").check_before_use()
    return cache_info(made), verify(made), made.pairs.read(0, 4), made.read_crops(0, 4)


def _seen(folder: Path, name: str) -> object:
    digests = [frame_digest(frame) for frame in video_frames(folder / name)]
    return [read_frame(folder / name / str(number), digest) for number, digest in reversed([*enumerate(digests)][:3])]


CATALOG = b"""mine: {kind: got10k, root: ROOT/got10k, train: {folder: train}, val: {split_file: s.txt}}
films: {kind: trackingnet, root: ROOT/trackingnet, train: {sets: [0]}, val: {}, skip_faulty: true}
mixed: {kind: mixture, train: [mine, films], val: [mine]}
"""
COCO = json.dumps(
    {
        "images": [{"id": 1, "file_name": "a.png", "width": 24, "height": 16}],
        "annotations": [
            {"id": 7, "image_id": 1, "iscrowd": 0, "bbox": [1, 2, 3, 4.5], "segmentation": [[1, 2, 3, 2, 3, 4, 1, 4]]},
            {"id": 8, "image_id": 1, "iscrowd": 1, "bbox": [1, 2, 3, 4]},
        ],
    }
).encode()
METRICS = (
    b'{"kind": "train", "step": 2, "epoch": 1, "phase": 1, "loss": 1.5, "wait_share": 0.1, "cached_share": 1, "online_share": 0}\n'
    b'{"kind": "val", "step": 2, "epoch": 1, "loss": 2.0, "terms": {"ground_truth": 2.0}}\n'
)
_SETTINGS = (
    b"base: gt\nlosses: {teacher_soft: 1, fidelity: {weight: 3, layers: [layer2]}}\ntrain: {lr: 1e-3}\n",
    b"like: demo\nbase: sep\n",
)
_OVERRIDES = (
    *(b"train.epochs=2", b"losses.fidelity={weight: 2}", b"phases.0.epochs=1"),
    *(b"like=demo", b"pairs.ref.size=64", b"train.freeze=[head]"),
)


def _run(folder: Path) -> object:
    return read_run(folder / "run")


def _outlined(folder: Path) -> object:
    entry = {"kind": "coco_synth", "root": str(folder / "coco"), "train": {"annotations": "a.json", "images": "."}}
    return open_entry("x", entry, "train", fresh=True).content_hash


PARSERS: dict[str, Parser] = {
    "setting": Parser(almost(*_SETTINGS), _of_file("mine.yaml", lambda folder: configs.load(str(folder / "mine.yaml")))),
    "override": Parser(almost(*_OVERRIDES), lambda folder, text: [configs.load(name, [os.fsdecode(text)]) for name in ("gt", "sep")]),
    "catalog": Parser(almost(CATALOG), _of_file("catalog.yaml", _catalog)),
    "split file": Parser(almost(b"one\n0\n"), _of_file("got10k/s.txt", _opened("got10k", split_file="s.txt"))),
    "list": Parser(almost(b"one\ntwo\n"), _of_file("got10k/train/list.txt", _opened("got10k"))),
    "boxes": Parser(almost(BOXES), _of_file("got10k/train/one/groundtruth.txt", _opened("got10k"))),
    "labels": Parser(almost(b"8\n8\n0\n"), _of_file("got10k/train/one/cover.label", _opened("got10k"))),
    "LaSOT labels": Parser(almost(b"0,1,0"), _of_file("lasot/c/c-1/out_of_view.txt", _opened("lasot"))),
    "TrackingNet boxes": Parser(almost(BOXES), _of_file("trackingnet/TRAIN_0/anno/v.txt", _opened("trackingnet", sets=[0]))),
    "boxes in a folder": Parser(almost(BOXES), _of_file("folder/groundtruth.txt", _opened("folder"))),
    "COCO": Parser(
        almost(COCO),
        _of_file("coco/a.json", _opened("coco", annotations="a.json", images=".")),
    ),
    "outlines": Parser(almost(COCO), _of_file("coco/a.json", _outlined)),
    "metrics": Parser(almost(METRICS), _of_file("run/metrics.jsonl", _run)),
    "result": Parser(almost(b'{"steps": 2, "pairs": 4, "seconds": 1.0}'), _of_file("run/result.json", _run)),
    "configuration": Parser(almost(configs.dump(configs.load("gt")).encode()), _of_file("run/config.yaml", _run)),
    "checkpoint": Parser(almost(_saved(False), _saved(True), pickle.dumps({"a": 1})), _of_file("weights", _contents)),
    "pickle": Parser(almost(_data_pickle()), lambda folder, content: _of_file("weights", _contents)(folder, _zipped(content))),
    "safetensors": Parser(almost(safetensors.torch.save({"a": torch.ones(3)}, {"x": "y"})), _of_file("weights", _contents)),
    "image": Parser(almost(*map(_image, (".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm"))), _of_file("i", lambda f: read_frame(f / "i"))),
    "video": Parser(almost(_film(".mp4", "mp4v")), _of_file("v.mp4", lambda folder: _seen(folder, "v.mp4"))),
    "other video": Parser(almost(_film(".avi", "MJPG")), _of_file("v.avi", lambda folder: _seen(folder, "v.avi"))),
    "copy": Parser(almost(_copy()), _of_file("copy.h5", _copied)),
    "numbers of options": Parser(almost(b"0/4", b"1,2 3").map(os.fsdecode), _seeds),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Small data sets of every layout, and a run."""
    root = tmp_path_factory.mktemp("fuzz")
    for frames in ("got10k/train/one", "got10k/train/two", "lasot/c/c-1/img", "trackingnet/TRAIN_0/frames/v", "folder"):
        (root / frames).mkdir(parents=True)
        for number in range(3):
            (root / frames / f"{number}.jpg").touch()
    for folder in ("got10k/train/one", "got10k/train/two", "lasot/c/c-1", "folder"):
        (root / folder / "groundtruth.txt").write_bytes(BOXES)
        for label in ("absence.label", "cover.label", "full_occlusion.txt", "out_of_view.txt"):
            (root / folder / label).write_bytes(b"0\n0\n0\n")
    for folder in ("trackingnet/TRAIN_0/anno", "coco", "run"):
        (root / folder).mkdir(parents=True)
    (root / "trackingnet/TRAIN_0/anno/v.txt").write_bytes(BOXES)
    (root / "got10k/train/list.txt").write_text("one\ntwo\n")
    (root / "got10k/s.txt").write_text("one\n")
    (root / "lasot/training_set.txt").write_text("c-1\n")
    (root / "coco/a.png").write_bytes(_image(".png"))
    (root / "run/config.yaml").write_text(configs.dump(configs.load("gt")))
    return root


@pytest.mark.parametrize("name", PARSERS)
def test_nothing_but_our_own_error_comes_out(name, place, tmp_path, monkeypatch):
    monkeypatch.setenv("DATASETS", str(place / "catalog.yaml"))
    monkeypatch.setenv("TEACHONCE_INDEX", str(tmp_path))
    parser = PARSERS[name]

    @settings(
        max_examples=max(1, COUNT // len(PARSERS)), derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(parser.inputs)
    def holds(given_input: Any) -> None:
        content = given_input.replace(b"ROOT", os.fsencode(place)) if isinstance(given_input, bytes) else given_input
        began = time.monotonic()
        try:
            parser.read(place, content)
        except TeachOnceError as error:
            assert str(error).isprintable() and len(str(error)) <= 2010
        assert time.monotonic() - began < SECONDS

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    holds()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3 < MEGABYTES
