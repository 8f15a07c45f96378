"""What this machine holds for caching and training: free disk, GPU driver against PyTorch, optional packages. Torch is not imported."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from configs.gpu import driver_cuda, torch_version
from configs.machine import existing, free_bytes, unwritable
from configs.units import size_text
from precompute.datasets import Problem

LEAST_FREE = 1 << 30  # bytes below the cache folder
_EXTRAS = {
    "DALI": (("nvidia-dali-cuda130", "nvidia-dali-cuda120"), "the slower OpenCV feed takes its place; pip install 'teachonce[dali]'"),
    "onnx": (("onnx",), "needed for the export to ONNX only; pip install 'teachonce[onnx]'"),
    "onnxruntime": (("onnxruntime",), "needed for the export to ONNX only; pip install 'teachonce[onnx]'"),
    "obstore": (("obstore",), "needed for caches in a bucket only; pip install 'teachonce[s3]'"),
    "ray": (("ray",), "needed for ENGINE=ray only; pip install 'teachonce[ray]'"),
}


def environment(cache_dir: str) -> dict[str, Any]:
    """What there is, by name, and the problems with what to do: the JSON form."""
    torch, cuda = torch_version()
    driver = driver_cuda()
    bucket = cache_dir.startswith("s3:")
    facts = {
        "disk": f"none for caches: {cache_dir}" if bucket else f"{size_text(free_bytes(Path(cache_dir)))} free below {cache_dir}",
        "torch": f"{torch} ({f'CUDA {cuda}' if cuda else 'no CUDA'})",
        "GPU driver": f"up to {_dotted(driver)}" if driver else "none found",
        **{name: _installed(packages) or f"not installed: {without}" for name, (packages, without) in _EXTRAS.items()},
    }
    problems = [*([] if bucket else disk_problems(cache_dir)), *driver_problems(torch, cuda, driver)]
    return {"facts": facts, "problems": [problem._asdict() for problem in problems]}


def disk_problems(cache_dir: str) -> list[Problem]:
    """A folder for caches that cannot be made or written, or that has less than `LEAST_FREE` bytes."""
    there = existing(Path(cache_dir))
    if found := unwritable(there):
        return [Problem(str(there), 0, f"expected a folder that caches can be written to, found {found}; set CACHE_DIR to another")]
    if (free := free_bytes(there)) < LEAST_FREE:
        what = f"expected {size_text(LEAST_FREE)} or more free for caches, found {size_text(free)}"
        return [Problem(cache_dir, 0, f"{what}; free some space or set CACHE_DIR to another disk")]
    return []


def driver_problems(torch: str, cuda: str | None, driver: int) -> list[Problem]:
    """A driver too old for this PyTorch, or a PyTorch that cannot use it. driver: as of `driver_cuda`."""
    found = f"found {_dotted(driver)} beside torch {torch}"
    if driver and cuda is None:
        return [Problem("torch", 0, f"expected one built for CUDA {driver // 1000}, as the driver is, {found} without CUDA; install it")]
    # drivers run every minor version of their major one
    if driver and cuda and driver // 1000 < (major := int(cuda.split(".")[0])):
        remedy = f"update the driver or install a torch built for CUDA {driver // 1000}"
        return [Problem("GPU driver", 0, f"expected one for CUDA {major} or later, {found} (CUDA {cuda}); {remedy}")]
    return []


def _dotted(driver: int) -> str:
    return f"CUDA {driver // 1000}.{driver % 1000 // 10}"


def _installed(packages: tuple[str, ...]) -> str | None:
    """`name version` of the first of the packages that is installed."""
    for package in packages:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return None
