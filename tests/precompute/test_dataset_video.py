"""Video files as a data set: frame k is the k-th that decoding in order gives, whatever seeking says."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from configs.errors import RequestError
from configs.schema import PairsConfig
from pairs.frames import FrameError, frame_digest, read_frame, video_frames
from precompute import check
from precompute.crop_writer import CropWriter
from precompute.datasets import Dataset, open_entry, scan
from precompute.sampling import draw

CONTAINERS = {"clip.mp4": "mp4v", "clip.avi": "MJPG", "clip.mpg": "PIM1", "clip.mjpeg": "MJPG"}
"""OpenCV 5.0 seeks to wrong frames in 2 of these 4: clip.mpg and clip.mjpeg."""
LENGTH = 40


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """One clip in several containers, and its boxes: a square that moves over noise of its own in each frame."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    noise = [cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (128, 96)) for _ in range(LENGTH)]
    for number, frame in enumerate(noise):
        cv2.rectangle(frame, (10 + number, 20), (40 + number, 50), (0, 0, 255), -1)
    for name, code in CONTAINERS.items():
        writer = cv2.VideoWriter(str(folder / name), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), 25, (128, 96))
        if not writer.isOpened():
            pytest.skip(f"this OpenCV writes no {code}")
        for frame in noise:
            writer.write(frame)
        writer.release()
    (folder / "clip.txt").write_text("".join(f"{10 + number},20,30,30\n" for number in range(LENGTH)))
    return folder


@pytest.fixture
def entry(videos, tmp_path):
    """A data set of the clip in one container, twice, and a third in a subfolder."""

    def make(name: str = "clip.mp4") -> dict:
        (tmp_path / "sub").mkdir()
        suffix = Path(name).suffix
        for stem in ("b10", "b9", "sub/a"):
            os.link(videos / name, tmp_path / f"{stem}{suffix}")
            os.link(videos / "clip.txt", tmp_path / f"{stem}.txt")
        return {"kind": "video", "root": str(tmp_path), "train": {}, "val": {"folder": "sub"}}

    return make


def _wrong_seeks(path: Path, digests: list[int]) -> int:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    wrong = 0
    for number in reversed(range(len(digests))):
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        done, frame = capture.read()
        wrong += not done or frame_digest(frame) != digests[number]
    return wrong


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_frame_is_that_of_decoding_in_order(videos, name):
    whole = list(video_frames(videos / name))
    digests = list(map(frame_digest, whole))
    assert len(whole) == LENGTH and len(set(digests)) == LENGTH
    # the plain way is wrong where a stream has no index: that is what the digest is for
    assert name != "clip.mjpeg" or _wrong_seeks(videos / name, digests) > 0
    for number in (*np.random.default_rng(1).permutation(LENGTH)[:12].tolist(), LENGTH - 1, 0, 1, 2, 20, 22):
        np.testing.assert_array_equal(read_frame(videos / name / str(number), digests[number]), whole[number])
    np.testing.assert_array_equal(read_frame(videos / name / "7"), whole[7])
    for number, digest in ((LENGTH, None), (LENGTH, 0)):
        with pytest.raises(FrameError, match=rf"expected frame {LENGTH} \(from 0\) in .*{name}, found fewer"):
            read_frame(videos / name / str(number), digest)
    with pytest.raises(FrameError, match=r"expected frame 3 \(from 0\) of .* as it was when its boxes were read, found another"):
        read_frame(videos / name / "3", digests[4])


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mpg"])
def test_crops_are_those_of_the_same_frames_as_images(videos, entry, tmp_path, tmp_path_factory, name):
    data, images = open_entry("x", entry(name), "train"), tmp_path_factory.mktemp("images")
    assert (data.sequences, data.lengths.tolist(), data.still) == (["b9", "b10", "sub/a"], [LENGTH] * 3, False)
    assert data.boxes[:2].tolist() == [[10, 20, 30, 30], [11, 20, 30, 30]] and data.visible.all()
    for sequence in data.sequences:
        folder = images / sequence.replace("sub/a", "c")
        folder.mkdir()
        for number, frame in enumerate(video_frames(videos / name)):
            assert cv2.imwrite(str(folder / f"{number:04d}.png"), frame)
        (folder / "groundtruth.txt").write_text((videos / "clip.txt").read_text())
    plain = open_entry("x", {"kind": "folder", "root": str(images), "train": {}}, "train")
    pairs = PairsConfig.model_validate({"ref": {"size": 64}, "test": {"size": 64}, "proposals": 2})
    ways = []
    for dataset in (data, plain):
        writer = CropWriter(dataset, pairs, threads=3)
        rows, crops = writer.cut(0, 24)
        writer.close()
        assert not writer.faults
        ways.append((rows.frame.tolist(), [(crop.ref, crop.test) for crop in crops]))
    assert ways[0] == ways[1] and len(set(map(tuple, ways[0][0]))) > 12


def test_stills_and_mixtures_are_drawn_from_video_too(entry):
    data = open_entry("x", entry() | {"kind": "coco_synth", "layout": "video"}, "train")
    assert len(data.sequences) == 3 * LENGTH and data.sequences[1] == "b9/1"
    rows = draw(data, PairsConfig(proposals=2), 0, 3, True)
    for row in range(3):
        assert data.source.load(int(rows.sequence[row]), 0, rows.random[row, 0]).shape[2] == 3
    assert open_entry("y", entry_of_val(data), "val").sequences == ["a"]


def entry_of_val(data: Dataset) -> dict:
    """The split val of the same folder."""
    return {"kind": "video", "root": data.root, "val": {"folder": "sub"}}


def test_the_index_keeps_the_digests(entry, settle, tmp_path, monkeypatch):
    made = entry()
    settle(tmp_path)
    first = open_entry("x", made, "train")
    monkeypatch.setattr(scan, "scan", lambda *_: pytest.fail("decoded again"))
    second = open_entry("x", made, "train")
    assert first.digests is not None
    np.testing.assert_array_equal(first.digests, second.digests, strict=True)
    np.testing.assert_array_equal(first.files.load(2, 30), second.files.load(2, 30))


def test_faults_of_videos_are_said(entry, tmp_path, monkeypatch, capsys):
    made = entry()
    path = tmp_path / "b9.mp4"
    for change, message in (
        (lambda: (tmp_path / "b9.txt").unlink(), r"/b9.txt: expected this file, found none"),
        (lambda: (tmp_path / "b9.txt").write_text("1,2,3,4\n" * 39), r"/b9.txt:40: expected a line for each of the 40 frames, found 39"),
        (
            lambda: (path.unlink(), path.write_bytes(b"x" * 5000)),
            r"/b9.mp4: expected a video, found a file that FFmpeg cannot open at",
        ),
        (lambda: path.write_bytes(b""), r"/b9.mp4: expected a video, found an empty file at .*/b9.mp4"),
        (lambda: (path.unlink(), os.mkfifo(path)), r"/b9.mp4: expected a video, found none at .* \(a pipe or a device\)"),
        (lambda: os.link(tmp_path / "b10.mp4", tmp_path / "b10.MOV"), r"/b10.mp4: expected one video for b10.txt, found b10.MOV too"),
    ):
        change()
        with pytest.raises(RequestError, match=message):
            open_entry("x", made, "train", fresh=True)
    monkeypatch.setenv("DATASETS", str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text(f"mine: {{kind: video, root: {tmp_path}, val: {{folder: sub}}}}")
    assert check.main(["mine", "--decode", "-1"]) == 0
    assert "1 sequences, 1 usable (100.0 %), 40 frames, 100.0 % visible" in capsys.readouterr().out
    (tmp_path / "none").mkdir()
    with pytest.raises(RequestError, match=r"expected videos \(.mp4, .*\) with a .txt each, found none"):
        open_entry("x", made | {"train": {"folder": "none"}}, "train")
