"""Writers of small data sets in the exact official layouts. Boxes are (x, y, w, h) in frame pixels."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _index_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHONCE_INDEX", str(tmp_path_factory.mktemp("index")))


@pytest.fixture
def boxes() -> Callable[[int], np.ndarray]:
    """n different boxes inside 64 x 48."""
    return lambda n: np.stack([np.arange(n) * 0.5, np.arange(n) * 0.25, 10 + np.arange(n) * 0.125, np.full(n, 8.5)], axis=1)


@pytest.fixture
def write_frames() -> Callable[..., None]:
    """(folder, names, size): one small different JPEG a name; empty files with size None (enough where no pixel is read)."""

    def write(folder: Path, names: Sequence[str], size: tuple[int, int] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(names):
            if size is None:
                (folder / name).touch()
            else:
                image = np.random.default_rng(number).integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
                assert cv2.imwrite(str(folder / name), cv2.resize(image, size))

    return write


@pytest.fixture
def write_got10k(write_frames: Callable[..., None], boxes: Callable[[int], np.ndarray]) -> Callable[..., Path]:
    """(root, lengths, ...): GOT-10k layout with list.txt and all label files; returns the split's folder."""

    def write(root: Path, lengths: Sequence[int], split: str = "train", size: tuple[int, int] | None = None) -> Path:
        folder = root / split
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"GOT-10k_{split.title()}_{index + 1:06d}" for index in range(len(lengths))]
        (folder / "list.txt").write_text("\n".join(names) + "\n")
        for name, length in zip(names, lengths, strict=True):
            write_frames(folder / name, [f"{i + 1:08d}.jpg" for i in range(length)], size)
            lines = ["{:.4f},{:.4f},{:.4f},{:.4f}".format(*box) for box in boxes(length)]
            (folder / name / "groundtruth.txt").write_text("\n".join(lines) + "\n")
            for label, value in (("absence", 0), ("cover", 8), ("cut_by_image", 0)):
                (folder / name / f"{label}.label").write_text(f"{value}\n" * length)
            (folder / name / "meta_info.ini").write_text("[METAINFO]\nurl: none\n")
        return folder

    return write


@pytest.fixture
def write_coco() -> Callable[..., Path]:
    """(root, images, annotations): images as {id: (name, w, h)} of one colour each, annotations as COCO's dicts; returns the JSON file."""

    def write(root: Path, images: dict[int, tuple[str, int, int]], annotations: list[dict[str, Any]], split: str = "train") -> Path:
        folder = root / "images" / f"{split}2014"
        folder.mkdir(parents=True, exist_ok=True)
        for number, (name, width, height) in images.items():
            assert cv2.imwrite(str(folder / name), np.full((height, width, 3), 40 * number % 256, np.uint8))
        file = root / "annotations" / f"instances_{split}2014.json"
        file.parent.mkdir(exist_ok=True)
        entries = [{"id": i, "file_name": name, "width": w, "height": h} for i, (name, w, h) in images.items()]
        file.write_text(json.dumps({"info": {"x": [1]}, "images": entries, "licenses": [], "annotations": annotations, "categories": []}))
        return file

    return write


@pytest.fixture
def settle() -> Callable[[Path], None]:
    """Makes every file and folder below a root an hour old, so that an index of it is kept."""

    def set_back(root: Path) -> None:
        for top, folders, files in os.walk(root, topdown=False):
            for name in (*files, *folders, "."):
                path = os.path.join(top, name)  # noqa: PTH118 - os.walk gives strings
                old = os.stat(path).st_mtime_ns - 3_600_000_000_000  # noqa: PTH116
                os.utime(path, ns=(old, old))

    return set_back
