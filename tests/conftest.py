"""The tests see none of the caller's folders: `make test` exports CACHE_DIR and its like for the commands of users."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

for _name in ("CACHE_DIR", "RUN_DIR", "DEMO_ROOT", "DATASETS", "TEACHONCE_INDEX"):
    os.environ.pop(_name, None)


@pytest.fixture(scope="session")
def demo_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of the demo's generator: 4 + 2 sequences of 24 frames."""
    from precompute.demo.generate import Request, generate

    root = tmp_path_factory.mktemp("video") / "demo"
    generate(root, Request(train=4, val=2, frames=24, seed=0), jobs=1)
    return root
