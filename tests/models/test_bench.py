"""`models deploy` and `models bench` from the command line."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import models
from configs.cli import run
from models.__main__ import main


def test_an_int8_file_says_how_far_it_is_and_is_timed_beside_its_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    weights, file, frames = tmp_path / "w.safetensors", tmp_path / "w.onnx", tmp_path / "frames"
    models.save_weights(models.build("atom_resnet18tiny").eval(), weights)
    deploy = ["deploy", str(weights), str(file), "--crop-size", "64", "--precision", "int8"]
    assert run(main, deploy) == 2
    assert "int8: expected crops to calibrate on, found none; give --images DIR" in capsys.readouterr().err
    assert not file.exists()
    frames.mkdir()
    assert run(main, [*deploy, "--images", str(frames)]) == 2
    assert "--images: expected a folder with two images or more, found 0" in capsys.readouterr().err
    for number in range(4):
        picture = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        cv2.imwrite(str(frames / f"{number}.png"), cv2.resize(picture, (80, 64)))
    assert run(main, [*deploy, "--images", str(frames)]) == 0
    line = capsys.readouterr().out
    assert "atom_resnet18tiny, int8" in line and "on 4 frames of" in line
    away = float(line.rpartition("predicted IoU ")[2].split(",")[0])
    assert 1e-6 < away < 0.2
    threads = torch.get_num_threads()
    try:
        assert run(main, ["bench", str(weights), str(file), "--crop-size", "64"]) == 0
    finally:
        torch.set_num_threads(threads)
    head, first, second, note = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "file" and first.startswith(str(weights)) and second.startswith(str(file))
    assert all("atom_resnet18tiny at 64" in row and float(row.split()[-1]) > 0 for row in (first, second))
    assert "1 thread, torch" in note
