"""The tests see none of the caller's folders: `make test` exports CACHE_DIR and its like for the commands of users."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cache.address import Address

for _name in ("CACHE_DIR", "RUN_DIR", "DEMO_ROOT", "DATASETS", "TEACHONCE_INDEX"):
    os.environ.pop(_name, None)


@pytest.fixture(scope="session")
def demo_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of the demo's generator: 4 + 2 sequences of 24 frames."""
    from precompute.demo.generate import Request, generate

    root = tmp_path_factory.mktemp("video") / "demo"
    generate(root, Request(train=4, val=2, frames=24, seed=0), jobs=1)
    return root


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an S3 server of this test session."""
    for package in ("obstore", "moto", "flask"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("moto") / "log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with open(log, "wb") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as process:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        process.kill()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Address:
    """A place of its own in a bucket of that server, as the environment names it."""
    from cache.address import Address

    given = {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret-of-test", "AWS_REGION": "us-east-1"}
    for name, value in (given | {"TEACHONCE_READ_CACHE": str(tmp_path / "read")}).items():
        monkeypatch.setenv(name, value)
    name = f"test-{secrets.token_hex(4)}"
    urllib.request.urlopen(urllib.request.Request(f"{server}/{name}", method="PUT")).close()
    return Address(name, "caches")
