"""A scripted TraX client talks to a tracker as vot-toolkit does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

trax = pytest.importorskip("trax", reason="the package vot-trax (extra vot) is not installed")

from trax.client import Client  # noqa: E402

ROOT = Path(__file__).parents[2]
# a tracker that needs no network: it moves its box by a pixel a frame, and says how sure it is
SERVER = """
import sys
import numpy as np
from configs.cli import run
from tracking.result import Result
from tracking.vot import serve

class Drifting:
    def init(self, image, box):
        assert image.shape == (48, 64, 3) and image.dtype == np.uint8, image.shape
        self.box, self.red = np.array(box), int(image[0, 0, 0])

    def update(self, image):
        self.box = self.box + [1, 0, 0, 0]
        return Result(tuple(self.box.tolist()), self.red / 255, "found")

sys.exit(run(lambda words: serve(Drifting(), "drifting"), []))
"""


@pytest.fixture
def images(tmp_path) -> list[str]:
    """Three frames, red in RGB."""
    paths = [str(tmp_path / f"{number:08d}.png") for number in range(3)]
    for path in paths:
        assert cv2.imwrite(path, np.full((48, 64, 3), (0, 0, 51), np.uint8))
    return paths


@pytest.fixture
def server():
    """The tracker's process."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    yield process
    process.kill()
    process.communicate()


def test_a_client_gets_a_box_and_a_confidence_for_each_frame(server, images):
    client = Client((server.stdin.fileno(), server.stdout.fileno()), log=lambda line: None)
    assert client.tracker_name == "drifting"
    assert client.region_formats == ["rectangle"]
    assert client.image_formats == ["path"]
    frames = [{"color": trax.FileImage.create(path)} for path in images]
    objects, _ = client.initialize(frames[0], [(trax.Rectangle.create(5.5, 6, 20, 10), {})], {})
    assert objects[0][0].bounds() == pytest.approx((5.5, 6, 20, 10))
    for number, frame in enumerate(frames[1:], 1):
        ((region, properties),), _ = client.frame(frame, {}, [])
        assert region.bounds() == pytest.approx((5.5 + number, 6, 20, 10))
        assert float(properties["confidence"]) == pytest.approx(0.2)
    # another target in the same session
    objects, _ = client.initialize(frames[0], [(trax.Rectangle.create(1, 2, 3, 4), {})], {})
    assert objects[0][0].bounds() == pytest.approx((1, 2, 3, 4))
    client.quit()
    assert server.wait(timeout=20) == 0


def test_an_image_that_cannot_be_read_ends_the_session_with_its_name(server, images, tmp_path):
    client = Client((server.stdin.fileno(), server.stdout.fileno()), log=lambda line: None)
    client.initialize({"color": trax.FileImage.create(images[0])}, [(trax.Rectangle.create(5, 6, 20, 10), {})], {})
    with pytest.raises(trax.TraxException, match=r"none\.png"):
        client.frame({"color": trax.FileImage.create(str(tmp_path / "none.png"))}, {}, [])
    assert server.wait(timeout=20) == 1
    (line,) = server.stderr.read().decode().splitlines()
    assert line.startswith(f"error: expected a frame, found none at {tmp_path / 'none.png'}")


def test_without_a_client_the_error_is_one_line():
    done = subprocess.run(
        [sys.executable, "-c", SERVER], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "expected a TraX client on standard input, found none" in line
