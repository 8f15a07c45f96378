"""The device of the tests marked gpu: skipped without one. TEACHONCE_TEST_DEVICE=cpu runs their logic on the processor."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The first GPU."""
    name = os.environ.get("TEACHONCE_TEST_DEVICE", "cuda:0")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device (TEACHONCE_TEST_DEVICE=cpu runs the logic on the processor)")
    return torch.device(name)


@pytest.fixture
def exact() -> Iterator[None]:
    """Float32 products without TF32, and kernels that are the same each time."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before
