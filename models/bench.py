"""How large and how fast networks are in tracking: the work of one frame, on one crop, in PyTorch and in onnxruntime.

A frame is the backbone on one crop and the refinement of 10 boxes (DRNet: its one box); the online classifier, which is no part of a
weights file, is left out.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from configs.errors import RequestError
from configs.hooks import samples
from configs.schema import ImageConfig, PairsConfig, SearchImageConfig
from models.ascent import Ascent, lines_of
from models.convert import load_tracker
from models.deploy import STEPS, deploy, read_deployed, sessions
from models.inference import Parts
from models.refine import boxes_of_numbers, climb
from models.sizes import flops, parameter_counts
from models.tracker import HEAD_LAYERS, Tracker, blueprint, build
from pairs.decode.decoder import MEAN, STD
from pairs.frames import read_frame

BOXES = 10
ROUNDS = 30


def bench(paths: list[Path], size: int) -> list[list[str]]:
    """A row for each file: name, network, parameters (millions), MMACs of a pair, MB of the file, ms and frames a second (median).

    Rounds alternate between the files, so that what else the machine does hits all alike.
    """
    frames, rows = [], []
    for path in paths:
        network, frame, side = _onnx(path) if path.suffix == ".onnx" else _torch(path, size)
        pairs = PairsConfig(ref=ImageConfig(size=side), test=SearchImageConfig(size=side))
        numbers = f"{parameter_counts(network)[1] / 1e6:.2f}", f"{flops(network, pairs) / 1e6:,.0f}", f"{path.stat().st_size / 1e6:.2f}"
        rows.append([str(path), f"{network.architecture} at {side}", *numbers])
        frames.append(frame)
    times: list[list[float]] = [[] for _ in frames]
    for number in range(ROUNDS + 3):
        for frame, row in zip(frames, times, strict=True):
            began = time.perf_counter()
            frame()
            if number >= 3:  # the first ones warm up
                row.append(time.perf_counter() - began)
    for line, spent in zip(rows, times, strict=True):
        middle = statistics.median(spent)
        line += [f"{middle * 1e3:.1f}", f"{1 / middle:.1f}"]
    return rows


def pictures(folder: str | None, size: int, most: int = 64) -> np.ndarray:
    """At most that many frames of a folder, evenly spread, resized to (n, S, S, 3) uint8 RGB; without a folder 4 of noise.

    RequestError: fewer than two images there.
    """
    if folder is None:
        return np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    paths = sorted(path for path in Path(folder).glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if len(paths) < 2:
        raise RequestError(f"--images: expected a folder with two images or more, found {len(paths)} in {folder}; give another one")
    chosen = paths[:: -(-len(paths) // most)]
    return np.stack([cv2.resize(read_frame(path)[:, :, ::-1], (size, size), interpolation=cv2.INTER_LINEAR) for path in chosen])


def cached_pictures(cache: str, size: int, most: int = 64) -> np.ndarray:
    """At most that many test crops of a cache, evenly spread, (n, S, S, 3) uint8 RGB.

    RequestError: no cache, fewer than two pairs in it, or crops of another size.
    """
    crops = [np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))[:, :, ::-1] for jpeg in samples().crops(cache, most)]
    if len(crops) < 2 or crops[0].shape[0] != size:
        found = f"crops of {crops[0].shape[0]}" if len(crops) > 1 else f"{len(crops)}"
        raise RequestError(
            f"--cache: expected two crops of {size} pixels or more, found {found} in {cache}; set --crop-size, or give another"
        )
    return np.stack(crops)


def _crop(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)


def _boxes(size: int, number: int) -> np.ndarray:
    box = np.array([0.4, 0.4, 0.2, 0.2]) + np.random.default_rng(1).uniform(-0.02, 0.02, (1, number, 4))
    return (box * size).astype(np.float32)


def _torch(path: Path, size: int) -> tuple[Tracker, Callable[[], Any], int]:
    network, _ = load_tracker(path)
    image, parts = torch.from_numpy(_crop(size)), Parts(network.requires_grad_(False))
    boxes = torch.from_numpy(_boxes(size, BOXES if network.numbers == 1 else 1))
    head = network.bb_regressor
    with torch.no_grad():
        layer2, layer3 = parts.head_maps(image)
        vectors = head.modulation(layer2, layer3, boxes[:, 0])

    @torch.no_grad()
    def frame() -> Any:
        maps = parts.head_maps(image)
        if network.numbers == 1:
            return climb(parts.ascent, vectors, parts.lines(*maps), boxes, STEPS, 1.0)
        return boxes_of_numbers(head.predict(vectors, head.encode(*maps), boxes), boxes)

    return network, frame, size


def _onnx(path: Path) -> tuple[Tracker, Callable[[], Any], int]:
    run, facts = sessions(path)
    image, boxes = _crop(facts.size), _boxes(facts.size, BOXES if facts.numbers == 1 else 1)
    width = blueprint(facts.architecture).bb_regressor.fc3_rt.linear.out_features
    fixed = {"target3": np.ones((1, width), np.float32), "target4": np.ones((1, width), np.float32), "boxes": boxes}
    if facts.numbers == 1:
        fixed["step"] = np.asarray(1, np.float32)

    def frame() -> Any:
        maps = run["backbone"].run(None, {"image": image})
        return run["refinement"].run(None, {**fixed, **dict(zip(HEAD_LAYERS, maps, strict=True))})

    return build(facts.architecture), frame, facts.size


def payoff(tracker: Tracker, path: Path) -> str:
    """In a line: size and time of a file beside the same network's in float32, and whether they pay: 5 % of the bytes, 15 % of the time.

    The AUC that a file loses needs videos: `tracking eval` of both.
    """
    _, facts = read_deployed(path)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "float32.onnx"
        deploy(tracker, plain, facts.size)
        sizes, times = zip(*((float(row[4]), float(row[5])) for row in bench([plain, path], facts.size)), strict=True)
    verdicts = ((name, after < most * before) for name, most, (before, after) in (("size", 0.95, sizes), ("time", 0.85, times)))
    pays = [f"the {name} {'pays' if good else 'does not pay'}" for name, good in verdicts]
    beside = f"{sizes[1]:.2f} MB and {times[1]:.1f} ms a frame beside {sizes[0]:.2f} MB and {times[0]:.1f} ms in float32"
    return f"{facts.precision}: {beside}: {' and '.join(pays)}; what it costs in AUC: `tracking eval` of this file and its checkpoint"


def fidelity(tracker: Tracker, path: Path, images: np.ndarray) -> tuple[float, float]:
    """How far a file of an IoU network is from its checkpoint: mean difference of the predicted IoU, and of refined boxes in pixels.

    images (n, S, S, 3) uint8 RGB: each is searched for what lies in the middle of the one before it.
    """
    run, facts = sessions(path)
    boxes = _boxes(facts.size, BOXES)
    ascent, mean, std = Ascent(tracker.bb_regressor), torch.from_numpy(MEAN)[:, None, None], torch.from_numpy(STD)[:, None, None]
    wrong = []
    for before, image in itertools.pairwise(images):
        ref, test = ((torch.from_numpy(one)[None].permute(0, 3, 1, 2) / 255 - mean) / std for one in (before, image))
        with torch.no_grad():
            first, second = (tracker.features(one, HEAD_LAYERS) for one in (ref, test))
            vectors = tracker.modulation(first, torch.from_numpy(boxes[:, 0]))
            lines = lines_of(tracker.bb_regressor.encode(second["layer2"], second["layer3"]))
            refined, predicted = climb(ascent, vectors, lines, torch.from_numpy(boxes), STEPS, 1.0)
        ours = [dict(zip(HEAD_LAYERS, run["backbone"].run(None, {"image": one[None]}), strict=True)) for one in (before, image)]
        target3, target4 = run["modulation"].run(None, {**ours[0], "box": boxes[:, 0]})
        found = run["refinement"].run(
            None, {"target3": target3, "target4": target4, **ours[1], "boxes": boxes, "step": np.asarray(1, np.float32)}
        )
        wrong.append([np.abs(found[1] - predicted.numpy()).mean() / 2, np.abs(found[0] - refined.numpy()).mean()])
    in_iou, in_pixels = np.mean(wrong, axis=0)
    return float(in_iou), float(in_pixels)
