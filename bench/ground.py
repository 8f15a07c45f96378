"""What is measured on: generated video in large frames, a teacher of random weights, and a small cache of both. All of it goes away."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

import configs
import models
import precompute.request
from configs import Config
from models import Tracker, pick_device
from pairs.batch import Batch, Boxes
from pairs.crops import encode
from pairs.frames import read_frame
from precompute.demo.generate import Request, generate
from precompute.request import CHUNK, PART
from precompute.run import make_caches

# of the large frames: near those of data sets; and a camera's noise, without which an enlarged frame compresses too well
_QUALITY, _NOISE = 90, 3.0


@dataclass(frozen=True)
class Ground:
    """A folder with video and weights, and what a run on them is."""

    folder: Path
    setting: str
    overrides: tuple[str, ...]
    device: torch.device

    def config(self, *more: str) -> Config:
        """The configuration of a run."""
        return configs.load(self.setting, [*self.overrides, *more])

    def fill(self, *more: str, splits: tuple[str, ...] = ("train", "val"), part: int = PART, targets: str | None = None) -> None:
        """`make cache` in parts of `part` pairs; what it prints goes to stderr."""
        precompute.request.PART, precompute.request.CHUNK = part, min(part, CHUNK)
        try:
            with quiet():
                make_caches(precompute.request.Request(self.config(*more), "demo", splits, targets, device=str(self.device)))
        finally:
            precompute.request.PART, precompute.request.CHUNK = PART, CHUNK


@contextlib.contextmanager
def ground(folder: Path, options: argparse.Namespace) -> Iterator[Ground]:
    """The ground of these options in `folder`: video and weights made, no cache yet."""
    before = dict(os.environ)
    os.environ |= {"DEMO_ROOT": f"{folder}/video", "TEACHONCE_INDEX": f"{folder}/index"}
    try:
        make_video(folder / "video", options.height)
        own = configs.load(options.setting, options.overrides)
        torch.manual_seed(0)
        if own.teacher is not None:
            models.save_weights(settled(own.teacher.architecture), folder / "teacher.safetensors")
        yield Ground(folder, options.setting, tuple(overrides(folder, options, own.teacher is not None)), pick_device(options.device))
    finally:
        os.environ.clear()
        os.environ.update(before)


def overrides(folder: Path, options: argparse.Namespace, teacher: bool) -> list[str]:
    """What the options say of a run, and what keeps it from doing anything beside its steps."""
    given = {"precision": options.precision, "channels_last": options.channels_last, "compile": options.compile}
    return [
        "dataset=demo",
        *(f"{key}={folder / place}" for key, place in (("cache_dir", "caches"), ("run_dir", "runs"))),
        *(f"pairs.{image}.size={options.size}" for image in ("ref", "test")),
        f"pairs.count={options.pairs}",
        f"pairs.val_count={options.batch}",
        *([f"teacher.weights={folder / 'teacher.safetensors'}"] if teacher else []),
        "student.weights=null",
        f"train.batch={options.batch}",
        f"train.device={options.device}",
        *(f"train.{key}={value}" for key, value in given.items() if value is not None),
        "train.check_pairs=0",
        "train.pictures=0",
        *options.overrides,
    ]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Lets commands print to stderr: stdout is for the tables."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def make_video(folder: Path, height: int, sequences: int = 4, frames: int = 24) -> None:
    """The demo's video in frames of 16 : 9 and this height, with their boxes and a camera's noise, in the layout of GOT-10k."""
    with quiet():
        generate(folder, Request(sequences, 1, frames, 0))
    size = round(height * 16 / 9), height
    noise = np.random.default_rng(0).normal(0, _NOISE, (*size[::-1], 3)).astype(np.float32)
    for sequence in folder.glob("*/GOT-10k_*"):
        scale: list[float] = []
        for number, path in enumerate(sorted(sequence.glob("*.jpg"))):
            frame = read_frame(path)
            scale = [size[0] / frame.shape[1], size[1] / frame.shape[0]]
            large = cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC) + np.roll(noise, 17 * number, (0, 1))
            path.write_bytes(encode(large.clip(0, 255).astype(np.uint8), _QUALITY))
        boxes = np.loadtxt(sequence / "groundtruth.txt", delimiter=",", ndmin=2)
        np.savetxt(sequence / "groundtruth.txt", boxes * (scale * 2), fmt="%.4f", delimiter=",")


def settled(architecture: str) -> Tracker:
    """A network of random weights whose BatchNorm has seen images: without, features of a new network grow from layer to layer."""
    tracker = models.build(architecture)
    boxes = torch.tensor([[[16.0, 16, 24, 24]]]).repeat(4, 4, 1)
    with torch.no_grad():
        for _ in range(10):
            tracker(torch.randn(4, 3, 64, 64), torch.randn(4, 3, 64, 64), boxes[:, 0], boxes + torch.rand(4, 4, 4))
    return tracker


def ready_batch(count: int, config: Config, device: torch.device) -> Batch:
    """Random images and plausible boxes of `count` pairs, on the device."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(count, 3, image.size, image.size, generator=generator).to(device) for image in config.pairs.images]
    ref, test = (image.size * torch.tensor([[0.4, 0.4, 0.2, 0.2]]).repeat(count, 1) for image in config.pairs.images)
    proposals = test[:, None] + 4 * torch.randn(count, config.pairs.proposals, 4, generator=generator)
    boxes = Boxes(ref.to(device), test.to(device), proposals.to(device), config.pairs.ref, config.pairs.test)
    return Batch(images[0], images[1], boxes, {}, False, np.zeros(count, np.int64), np.arange(count))
