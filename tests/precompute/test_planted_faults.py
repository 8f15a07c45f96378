"""The doctor, `make check`: every planted fault is found, with its file and line, and nothing else is."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from precompute import check, environment


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch) -> None:
    monkeypatch.setattr(environment, "driver_cuda", lambda: 0)


def _line(path: Path, number: int, text: str) -> None:
    lines = path.read_text().split("\n")
    lines[number - 1] = text
    path.write_text("\n".join(lines))


def _huge(path: Path) -> None:
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""
    content = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + content[24:29]
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


# file below the sequence -> (how it is spoiled, line, words of what is said); "" is the sequence's folder
PLANTED: tuple[tuple[str, Callable[[Path], object], int, str], ...] = (
    ("groundtruth.txt", lambda f: _line(f, 4, "1,1,nan,4"), 4, "expected finite numbers"),
    ("groundtruth.txt", lambda f: _line(f, 7, "1,1,x,4"), 7, "expected four numbers"),
    ("groundtruth.txt", lambda f: f.write_text("1,1,4,4\n" * 19), 20, "expected a line for each of the 20 frames, found 19"),
    ("groundtruth.txt", lambda f: f.write_bytes(b"1,1,4,4\n\xff\xfe"), 2, "expected text"),
    ("groundtruth.txt", lambda f: f.unlink(), 0, "expected this file, found none"),
    ("cover.label", lambda f: _line(f, 12, "?"), 12, "expected whole numbers, found '?'"),
    ("absence.label", lambda f: f.write_text("0\n" * 3), 0, "expected 20 labels, one a frame, found 3"),
    ("", shutil.rmtree, 0, "expected a folder of frames, found none"),
    ("00000003.jpg", lambda f: f.write_bytes(f.read_bytes()[:-20]), 0, "found a truncated file"),
    ("00000020.jpg", lambda f: f.write_bytes(b""), 0, "found an empty file"),
    ("00000001.jpg", _huge, 0, "found 60000 x 60000"),
    ("00000011.jpg", _pipe, 0, "(a pipe or a device)"),
)


def _problems(name: str, capsys, *options: str) -> list[tuple[str, int, str]]:
    assert check.main([name, "--split", "train", "--decode", "-1", "--json", *options]) == 1
    (report,) = json.loads(capsys.readouterr().out)["data"]
    return [(problem["file"], problem["line"], problem["what"]) for problem in report["problems"]]


def _same(found: list[tuple[str, int, str]], wanted: list[tuple[str, int, str]]) -> None:
    """Each wanted one is among the found ones, and there is no other."""
    missing = [want for want in wanted if not any(want[:2] == (file, line) and want[2] in what for file, line, what in found)]
    assert not missing and len(found) == len(wanted), (missing, found)


def test_twelve_planted_faults_are_all_found(tmp_path, write_got10k, monkeypatch, capsys):
    folder = write_got10k(tmp_path, [20] * (len(PLANTED) + 1), size=(16, 16))
    wanted = []
    for number, (name, spoil, line, words) in enumerate(PLANTED, 1):
        path = folder / f"GOT-10k_Train_{number:06d}" / name
        spoil(path)
        wanted.append((str(path), line, words))
    monkeypatch.setenv("GOT10K_ROOT", str(tmp_path))
    _same(_problems("got10k", capsys), wanted)
    check.main(["got10k", "--split", "train", "--decode", "-1"])
    said = capsys.readouterr().out
    assert "warning: 3 frames with a faulty label; they count as invisible" in said and "\n  12 problems\n" in said


def test_faults_of_coco_are_all_found(tmp_path, write_coco, monkeypatch, capsys):
    whole = {"image_id": 1, "iscrowd": 0, "bbox": [0, 0, 5, 5]}
    annotations = [{**whole, "id": 1}, {**whole, "id": 2, "bbox": [0, 0, 5]}, {**whole, "id": 3, "image_id": 9}]
    annotations += [{**whole, "id": 4, "image_id": 2}, {**whole, "id": 5, "image_id": 3}, {**whole, "id": 1}]
    annotations += [{**whole, "id": 6, "bbox": [1, 1, -2, 4]}, {**whole, "id": 7, "bbox": [1, 1, 0, 4]}]
    file = write_coco(tmp_path, {1: ("a.jpg", 8, 8), 2: ("b.jpg", 8, 8), 3: ("c.jpg", 8, 8)}, annotations)
    images = tmp_path / "images" / "train2014"
    (images / "b.jpg").unlink()
    (images / "c.jpg").write_bytes(b"nothing")
    monkeypatch.setenv("COCO_ROOT", str(tmp_path))
    found = _problems("coco", capsys)
    _same(
        found,
        [
            (str(file), 0, "annotation 2: expected COCO's fields"),
            (str(file), 0, "annotation 1: expected COCO's fields, found id 1 of another annotation of its image"),
            (str(file), 0, "expected image 9 of an annotation among the images, found none"),
            (str(images / "b.jpg"), 0, "expected this image, found none"),
            (str(images / "c.jpg"), 0, "expected an image, found none"),
        ],
    )
    check.main(["coco", "--split", "train"])
    # one of no size at all is none
    assert "warning: 1 frames with a box of negative width or height" in capsys.readouterr().out


def test_faults_of_trackingnet_are_all_found(tmp_path, write_frames, monkeypatch, capsys):
    (tmp_path / "TRAIN_0" / "anno").mkdir(parents=True)
    for name in ("a", "b", "c"):
        write_frames(tmp_path / "TRAIN_0" / "frames" / name, [f"{number}.jpg" for number in range(20)], (16, 16))
        (tmp_path / "TRAIN_0" / "anno" / f"{name}.txt").write_text("1,1,4,4\n" * 20)
    anno = tmp_path / "TRAIN_0" / "anno"
    _line(anno / "a.txt", 3, "1,1,1e308,4")
    (anno / "b.txt").write_text("1,1,4,4\n" * 21)
    shutil.rmtree(tmp_path / "TRAIN_0" / "frames" / "c")
    (tmp_path / "mine.yaml").write_text(f"mine: {{kind: trackingnet, root: {tmp_path}, train: {{sets: [0, 4]}}}}")
    monkeypatch.setenv("DATASETS", str(tmp_path / "mine.yaml"))
    _same(
        _problems("mine", capsys),
        [
            (str(tmp_path), 0, "expected the sets [0, 4], found no TRAIN_4"),
            # the sets that are there are looked at all the same
            (str(anno / "a.txt"), 3, "expected numbers up to 1,000,000"),
            (str(anno / "b.txt"), 21, "expected a line for each of the 20 frames, found 21"),
            (str(tmp_path / "TRAIN_0" / "frames" / "c"), 0, "expected a folder of frames, found none"),
        ],
    )
