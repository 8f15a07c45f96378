"""The measurements of `python -m bench`."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import configs
import models
import precompute.__main__
from bench import parts
from cache import Cache
from configs import Config
from configs.machine import processors
from configs.schema import ImageConfig
from kdlosses import LiveTeacher, build_objectives, correlation
from pairs.batch import Batch, Boxes
from train.data.feed import Feed, FeedSpec
from train.data.order import Order


def measure(options: argparse.Namespace) -> None:
    """Measures everything and prints the tables."""
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"DEMO_ROOT": f"{folder}/demo", "CACHE_DIR": f"{folder}/caches", "TEACHONCE_INDEX": f"{folder}/index"}
        precompute.__main__.main(["demo-data", "--out", f"{folder}/demo", "--train", "8", "--val", "2", "--frames", "24"])
        torch.manual_seed(0)
        weights = f"{folder}/teacher.safetensors"
        models.save_weights(models.build("atom_resnet18"), Path(weights))
        machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {device_name()}"
        print(f"\n{machine}; torch {torch.__version__}; crop {options.size}, batch {options.batch}, {options.rounds} rounds")
        print("teacher ATOM ResNet-18, student MobileNetV2, setting atom_cfkd\n")
        forward = teacher_forward(options)
        precompute_rate(weights, forward, options)
        cache = Cache.open(next(Path(folder, "caches").glob("demo-train-*")))
        reading(cache, options)
        if "steps" in options.only:
            steps(cache, weights, options)
        if "losses" in options.only:
            parts.losses(timed, ready_batch(options.batch, options.size), options)
        if "growth" in options.only:
            parts.growth(timed, forward, weights, options)


def device_name() -> str:
    """The accelerator, or that there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call, the GPU's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def teacher_forward(options: argparse.Namespace) -> Callable[[], None]:
    """The teacher's forward pass over 8 pairs of ready tensors."""
    teacher = models.TeacherNetwork(models.build("atom_resnet18")).to(default_device())
    batch = ready_batch(8, options.size)
    layers = ("layer2", "layer3")

    def forward() -> None:
        teacher(batch.ref, batch.test, batch.boxes.ref_box, batch.boxes.proposals, layers)

    forward()
    return forward


def precompute_rate(weights: str, forward: Callable[[], None], options: argparse.Namespace) -> None:
    """`make cache` beside the teacher's forward pass on ready tensors, timed before and after it."""
    alone = [timed(forward) / 8 for _ in range(4)]
    arguments = ["cache", "--dataset", "demo", "--setting", "atom_cfkd", "--teacher", weights, "--split", "train", *sizes(options.size)]
    whole = timed(lambda: precompute.__main__.main([*arguments, "--pairs", str(options.pairs), "teacher.batch=8"]))
    alone += [timed(forward) / 8 for _ in range(4)]
    history = Cache.open(next(Path(os.environ["CACHE_DIR"]).glob("demo-train-*"))).history()[-1]
    rate, forward_rate = options.pairs / history["seconds"], 1 / statistics.median(alone)
    print(
        f"\nprecompute {rate:.2f} pairs/s (start-up included: {options.pairs / whole:.2f});"
        f" teacher's forward pass alone {forward_rate:.2f}; share {rate / forward_rate:.0%}"
    )


def reading(cache: Cache, options: argparse.Namespace) -> None:
    """Targets and encoded crops by chunks, warm."""
    units = [cache.pairs, *cache.targets().values()]

    def sweep() -> None:
        for start in range(0, cache.count, cache.chunk):
            stop = min(start + cache.chunk, cache.count)
            cache.read_crops(start, stop)
            for unit in units:
                unit.read(start, stop)

    sweep()
    rate = cache.count / statistics.median(timed(sweep) for _ in range(9))
    print(f"cache reading, warm: {rate:,.0f} pairs/s ({len(units)} groups and the crops, {cache.chunk} pairs a chunk)")


def default_device() -> torch.device:
    """The GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sizes(size: int) -> list[str]:
    """Overrides for crops of one size."""
    return [f"pairs.ref.size={size}", f"pairs.test.size={size}"]


def ready_batch(count: int, size: int) -> Batch:
    """Random images and plausible boxes, ready on the device."""
    generator = torch.Generator().manual_seed(0)
    device = default_device()
    images = torch.randn(2, count, 3, size, size, generator=generator).to(device)
    box = torch.tensor([[size * 0.4, size * 0.4, size * 0.2, size * 0.2]]).repeat(count, 1).to(device)
    proposals = (box[:, None] + 4 * torch.randn(count, 16, 4, generator=generator).to(device)).contiguous()
    image = ImageConfig(size=size)
    numbers = torch.arange(count).numpy()
    return Batch(images[0], images[1], Boxes(box, box, proposals, image, image), {}, False, 0 * numbers, numbers)


def grouped_convolution(test: Tensor, patch: Tensor) -> Tensor:
    """The same correlation as the public code computes it: test (B, C, H, W), patch (B, C, k, k) -> (B, H, W)."""
    pairs, channels, k, _ = patch.shape
    maps = F.conv2d(
        test.reshape(1, pairs * channels, *test.shape[2:]),
        patch.reshape(pairs * channels, 1, k, k),
        padding=k // 2,
        groups=pairs * channels,
    )
    return maps.reshape(pairs, channels, *test.shape[2:]).sum(1)


class Steps:
    """The kinds of training step, all on one student."""

    def __init__(self, cache: Cache, weights: str, config: Config, batch: int) -> None:
        device = default_device()
        self.student, tracker = models.build("atom_mobilenetsmall").to(device), models.build("atom_resnet18")
        models.load_weights(tracker, weights)
        self.teacher = LiveTeacher(models.TeacherNetwork(tracker).to(device))
        self.objective = build_objectives(config, "atom_resnet18")[0].to(device)
        self.optimizer = torch.optim.Adam([value for value in self.student.parameters() if value.requires_grad], lr=1e-4)
        spec = FeedSpec(
            (cache,),
            Order([cache.count], [cache.chunk], 16, 0),
            config.pairs,
            batch,
            device,
            threads=processors(),
            teacher="atom_resnet18",
            targets=self.objective.needs.targets,
        )
        self.feed = Feed(spec)
        self.stream = self.feed.batches(0)
        self.ready = ready_batch(batch, config.pairs.test.size)

    def alone(self) -> None:
        """Forward and backward of the student."""
        self.student.zero_grad(set_to_none=True)
        boxes = self.ready.boxes
        self.student(self.ready.ref, self.ready.test, boxes.ref_box, boxes.proposals).prediction.square().mean().backward()

    def losses(self, batch: Batch, targets: dict[str, Tensor]) -> None:
        """A whole step, given the targets."""
        self.optimizer.zero_grad(set_to_none=True)
        boxes = batch.boxes
        outputs = self.student(batch.ref, batch.test, boxes.ref_box, boxes.proposals, self.objective.needs.student_layers)
        torch.stack(list(self.objective(outputs, targets, boxes).values())).sum().backward()
        self.optimizer.step()

    def cached(self) -> None:
        """Fed from the cache."""
        batch = next(self.stream)
        self.losses(batch, batch.targets)

    def online(self) -> None:
        """The same with the teacher in the step."""
        batch = next(self.stream)
        self.losses(batch, self.teacher.targets(batch.ref, batch.test, batch.boxes, self.objective.needs.targets))

    def public(self) -> None:
        """Online, with the correlation of the public code."""
        fast, correlation.correlate = correlation.correlate, grouped_convolution
        try:
            self.online()
        finally:
            correlation.correlate = fast

    def fed(self) -> None:
        """The feed alone."""
        next(self.stream)


def steps(cache: Cache, weights: str, options: argparse.Namespace) -> None:
    """Every kind of training step in turns, and the feed alone."""
    kinds = Steps(cache, weights, configs.load("atom_cfkd", sizes(options.size)), options.batch)
    named = {"student": kinds.alone, "cached": kinds.cached, "online": kinds.online, "public": kinds.public, "feed": kinds.fed}
    for work in (kinds.alone, kinds.cached, kinds.online, kinds.fed):
        work()
    seconds: dict[str, list[float]] = {name: [] for name in named}
    for _ in range(options.rounds):
        for name, work in named.items():
            seconds[name].append(statistics.mean(timed(work) for _ in range(8)) if name == "feed" else timed(work))
    kinds.feed.close()
    table(seconds, options.batch)


def table(seconds: dict[str, list[float]], count: int) -> None:
    """Medians, and ratios to the student alone round by round."""
    print("\n| step | ms a pair | times the student alone (median of rounds; least to most) |\n|---|---|---|")
    for name, times in seconds.items():
        ratios = sorted(time / base for time, base in zip(times, seconds["student"], strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {name} | {1e3 * statistics.median(times) / count:,.1f} | {spread} |")
