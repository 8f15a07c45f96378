"""Measured speed beside its baselines, in one run on one device: `make bench`. Prints a Markdown table; asserts nothing.

    student      forward + backward of the student alone, on ready tensors: the floor of a training step
    cached       a whole step fed from the cache: decode, losses, backward, Adam
    online       the same with the teacher's forward pass in every step
    public       online, and the correlation filter as a grouped convolution: what the public code does at every step
    feed         the feed alone; read: cache reading alone (targets and encoded crops)
    precompute   pairs a second of `make cache`, beside the teacher's forward pass alone
    losses       every objective's losses alone, given the student's features
    growth       adding a target to a finished cache

The kinds of step take turns within a round, so that a machine that speeds up or slows down touches all of them; the median round counts.
"""

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

import configs
import models
from cache import Cache
from configs.cli import Parser
from configs.machine import processors
from kdlosses import Pairs, build_objective, correlation
from kdlosses import targets as target_table
from precompute.__main__ import main as precompute
from precompute.demo import main as demo_data
from tests import bench_objectives
from train.feed import Batch, Feed
from train.order import Order

PARTS = ("steps", "losses", "growth")


def main() -> None:
    """Measures everything and prints the table."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"DEMO_ROOT": f"{folder}/demo", "CACHE_DIR": f"{folder}/caches", "TEACHONCE_INDEX": f"{folder}/index"}
        demo_data(["--out", f"{folder}/demo", "--train", "8", "--val", "2", "--frames", "24"])
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
            ready = boxes_and_images(options.batch, options.size)
            bench_objectives.losses(timed, (ready.ref, ready.test, ready.pairs), options)
        if "growth" in options.only:
            bench_objectives.growth(timed, forward, weights, options)


def parse() -> argparse.Namespace:
    """The options."""
    parser = Parser(prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=288, help="crop side in pixels (default: 288)")
    parser.add_argument("--batch", type=int, default=8, help="pairs a step (default: 8)")
    parser.add_argument("--pairs", type=int, default=128, help="pairs in the cache (default: 128)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; each kind of step is timed once in each (default: 5)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    return parser.parse_args()


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
    teacher = models.Teacher(models.build("atom_resnet18")).to(default_device())
    batch = boxes_and_images(8, options.size)
    layers = ("layer2", "layer3")

    def forward() -> None:
        teacher(batch.ref, batch.test, batch.pairs.ref_box, batch.pairs.proposals, layers)

    forward()
    return forward


def precompute_rate(weights: str, forward: Callable[[], None], options: argparse.Namespace) -> None:
    """`make cache` beside the teacher's forward pass on ready tensors, timed before and after it."""
    alone = [timed(forward) / 8 for _ in range(4)]
    arguments = [
        "cache",
        "--dataset",
        "demo",
        "--setting",
        "atom_cfkd",
        "--teacher",
        weights,
        "--split",
        "train",
        f"pairs.crop_size={options.size}",
    ]
    whole = timed(lambda: precompute([*arguments, "--pairs", str(options.pairs), "teacher.batch=8"]))
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


class Ready:
    """Tensors of a batch that lie ready on the device."""

    def __init__(self, ref: torch.Tensor, test: torch.Tensor, pairs: Pairs) -> None:
        self.ref, self.test, self.pairs = ref, test, pairs


def boxes_and_images(count: int, size: int) -> Ready:
    """Random images and plausible boxes."""
    generator = torch.Generator().manual_seed(0)
    device = default_device()
    images = torch.randn(2, count, 3, size, size, generator=generator).to(device)
    box = torch.tensor([[size * 0.4, size * 0.4, size * 0.2, size * 0.2]]).repeat(count, 1).to(device)
    proposals = (box[:, None] + 4 * torch.randn(count, 16, 4, generator=generator).to(device)).contiguous()
    return Ready(images[0], images[1], Pairs(box, box, proposals, size))


def grouped_convolution(test: torch.Tensor, patch: torch.Tensor) -> torch.Tensor:
    """The same correlation as the public code computes it: test (B, C, H, W), patch (B, C, k, k) -> (B, H, W)."""
    pairs, channels, k, _ = patch.shape
    maps = F.conv2d(
        test.reshape(1, pairs * channels, *test.shape[2:]),
        patch.reshape(pairs * channels, 1, k, k),
        padding=k // 2,
        groups=pairs * channels,
    )
    return maps.reshape(pairs, channels, *test.shape[2:]).sum(1)


def steps(cache: Cache, weights: str, options: argparse.Namespace) -> None:
    """Every kind of training step in turns, and the feed alone."""
    device, size, count = default_device(), options.size, options.batch
    config = configs.load("atom_cfkd", [f"pairs.crop_size={size}"])
    student, tracker = models.build("atom_mobilenetsmall").to(device), models.build("atom_resnet18")
    models.load_weights(tracker, weights)
    teacher = models.Teacher(tracker).to(device)
    objective = build_objective(config.losses, student.channels, teacher.channels, 1).to(device)
    needs = objective.needs
    optimizer = torch.optim.Adam([one for one in student.parameters() if one.requires_grad], lr=1e-4)
    units = {name: unit for (_, name), unit in cache.targets().items() if name in needs.targets}
    feed = Feed(
        [cache], Order([cache.count], [cache.chunk], 16, 0), [units], batch=count, pairs=config.pairs, device=device, threads=processors()
    )
    ready, position = boxes_and_images(count, size), iter(range(10**9))

    def alone() -> None:
        student.zero_grad(set_to_none=True)
        student(ready.ref, ready.test, ready.pairs.ref_box, ready.pairs.proposals).prediction.square().mean().backward()

    def losses(batch: Batch | Ready, targets: dict[str, torch.Tensor]) -> None:
        optimizer.zero_grad(set_to_none=True)
        outputs = student(batch.ref, batch.test, batch.pairs.ref_box, batch.pairs.proposals, needs.student_layers)
        torch.stack(list(objective(outputs, targets, batch.pairs).values())).sum().backward()
        optimizer.step()

    def cached() -> None:
        batch = feed.batch(next(position))
        losses(batch, batch.targets)

    def online() -> None:
        batch = feed.batch(next(position))
        outputs = teacher(batch.ref, batch.test, batch.pairs.ref_box, batch.pairs.proposals, target_table.layers_of(needs.targets))
        losses(batch, target_table.compute(needs.targets, outputs, batch.pairs))

    def public() -> None:
        fast, correlation.correlate = correlation.correlate, grouped_convolution
        try:
            online()
        finally:
            correlation.correlate = fast

    def fed() -> None:
        feed.batch(next(position))

    kinds = {"student": alone, "cached": cached, "online": online, "public": public, "feed": fed}
    for work in (alone, cached, online, fed):
        work()
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, work in kinds.items():
            if name == "feed":
                seconds[name].append(statistics.mean(timed(work) for _ in range(8)))
            else:
                seconds[name].append(timed(work))
    feed.close()
    table(seconds, count)


def table(seconds: dict[str, list[float]], count: int) -> None:
    """Medians, and ratios to the student alone round by round."""
    print("\n| step | ms a pair | times the student alone (median of rounds; least to most) |\n|---|---|---|")
    for name, found in seconds.items():
        ratios = sorted(one / base for one, base in zip(found, seconds["student"], strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {name} | {1e3 * statistics.median(found) / count:,.1f} | {spread} |")


if __name__ == "__main__":
    main()
