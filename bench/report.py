"""What was measured, as Markdown tables and as one JSON object that `bench.guard` reads."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from bench.turns import Measured, ratio
from configs.units import size_text

PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "zarr")
RATIOS = (
    ("losses", "student"),
    ("cached", "student"),
    ("online", "student"),
    ("cached", "online"),
    ("cached", "public"),
    ("feed", "cached"),
    ("precompute", "teacher"),
    ("frames", "precompute"),
)
"""What a run's speed is judged by: one kind's time over another's, less is better"""


def facts(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Hardware, versions, allocator and options."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "hardware": {"processor": processor(), "threads": torch.get_num_threads(), "gpu": gpu},
        "versions": {"python": platform.python_version(), **dict(installed())},
        "allocator": allocator(),
        "options": {key: value for key, value in vars(options).items() if key not in ("debug", "json", "trace")},
    }


def processor() -> str:
    """Its name as Linux gives it, else its kind."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def installed() -> Iterable[tuple[str, str]]:
    """Packages that speed depends on, with their versions."""
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def allocator() -> str:
    """What gives this process its memory, as far as it can be told."""
    libraries = [word for word in ("jemalloc", "tcmalloc", "mimalloc") if word in os.environ.get("LD_PRELOAD", "")]
    if libraries:
        return libraries[0]
    name = " ".join(platform.libc_ver()).strip() or platform.system()
    told = [f"{key}={value}" for key, value in sorted(os.environ.items()) if key.startswith(("MALLOC_", "GLIBC_TUNABLES"))]
    return f"{name} ({', '.join(told) or 'nothing set in the environment'})"


def ratios(measured: Mapping[str, Measured]) -> dict[str, dict[str, float]]:
    """RATIOS of what was measured: "kind/base" -> value, least and most."""
    return {
        f"{kind}/{base}": vars(ratio(measured[kind].seconds, measured[base].seconds))
        for kind, base in RATIOS
        if kind in measured and base in measured
    }


def as_json(measured: Mapping[str, Measured]) -> dict[str, dict[str, Any]]:
    """Kind -> ms a pair, seconds a pair of each turn, bytes at most."""
    return {name: {"ms": of.ms, "seconds": of.seconds, "peak_bytes": of.peak} for name, of in measured.items()}


def head(described: Mapping[str, Any]) -> str:
    """Facts, a line each."""
    hardware, options = described["hardware"], described["options"]
    chosen = ", ".join(f"{key} {value}" for key, value in options.items() if value not in (None, []) and key != "only")
    lines = [
        f"{hardware['processor']}, {hardware['threads']} threads, {hardware['gpu'] or 'no GPU'}; allocator {described['allocator']}",
        *described["machine"],
        ", ".join(f"{name} {number}" for name, number in described["versions"].items()),
        chosen,
    ]
    return "\n".join(lines)


def table(title: str, measured: Mapping[str, Measured], base: str) -> str:
    """One row a kind: ms and pairs a second, the ratio to `base` turn by turn, the peak."""
    rows = [f"| {title} | ms a pair | pairs/s | times {base} (least to most) | peak |", "|---|---:|---:|---:|---:|"]
    for name, of in measured.items():
        shares = ratio(of.seconds, measured[base].seconds)
        spread = f"{shares.value:.3g} ({shares.least:.3g} to {shares.most:.3g})"
        rows.append(f"| {name} | {of.ms:.4g} | {1e3 / of.ms:,.4g} | {spread} | {size_text(of.peak) if of.peak else '-'} |")
    return "\n".join(rows)
