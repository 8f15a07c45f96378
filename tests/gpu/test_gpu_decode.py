"""JPEG crops on a GPU: DALI's buffers while they are reused, and pixels that do not depend on their place in a batch or on the decoder."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch

from pairs import photometry
from pairs.decode import Crops, Decoder, DecoderOptions, make_decoder
from pairs.decode.decoder import STD, Kind

pytestmark = pytest.mark.gpu
SIZE = 128
LEVEL = torch.tensor(STD).view(3, 1, 1) * 255
"""One normalised unit in 8-bit levels"""
NEAR = 1.0
"""Levels that nvJPEG and libjpeg-turbo may differ by on average: another inverse DCT and chroma interpolation"""


def jpeg(seed: int) -> np.ndarray:
    """A crop of smooth random colours with some noise."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.uniform(0, 255, (12, 12, 3)).astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    noisy = (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].ravel()


def plain(jpegs: list[np.ndarray]) -> Crops:
    """These crops, refs then tests, without photometry."""
    half = len(jpegs) // 2
    return Crops(jpegs[:half], jpegs[half:], photometry.none(half))


def decoder(kind: Kind, pairs: int, device: torch.device, batches: Iterator[list[np.ndarray]]) -> Decoder[int]:
    """A decoder that is given these batches."""
    made: Decoder[int] = make_decoder(kind, DecoderOptions(pairs, (SIZE, SIZE), device, threads=2))
    return made.start((plain(jpegs), number) for number, jpegs in enumerate(batches))


def pixels(kind: Kind, device: torch.device, jpegs: list[np.ndarray]) -> torch.Tensor:
    """One batch of these images, on the processor."""
    made = decoder(kind, len(jpegs) // 2, device, iter([jpegs]))
    images = torch.cat(made.batch()[0]).cpu()
    made.close()
    return images


def sums(kind: Kind, device: torch.device, slow: bool) -> torch.Tensor:
    """What each of 50 batches adds up to; slow: the GPU is behind, and every batch is let go of before it has been read."""
    crops = [jpeg(seed) for seed in range(16)]
    made = decoder(kind, 4, device, ([crops[(5 * batch + at) % 16] for at in range(8)] for batch in range(50)))
    found = []
    for images, _ in made:
        if slow and device.type == "cuda":
            torch.cuda._sleep(60_000_000)  # about 30 ms, many times what a batch takes to decode
        found.append(torch.stack([image.double().square().sum() for image in images]))
        del images
        if not slow and device.type == "cuda":
            torch.cuda.synchronize(device)
    made.close()
    return torch.stack(found).cpu()


@pytest.mark.parametrize("kind", ["dali", "torch"])
def test_a_batch_that_is_let_go_is_read_before_its_memory_is_used_again(kind, device):
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
    waited = sums(kind, device, slow=False)
    assert len(waited) == 50 and len(waited[:, 0].unique()) == 16
    for _ in range(2):
        assert torch.equal(sums(kind, device, slow=True), waited)


@pytest.mark.parametrize("kind", ["dali", "torch"])
def test_a_crop_gives_the_same_pixels_wherever_it_stands(kind, device):
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
    images = pixels(kind, device, [jpeg(0)] * 128)
    assert len(images) == 128 and all(torch.equal(image, images[0]) for image in images)


@pytest.mark.parametrize("kind", ["dali", "torch"])
def test_the_size_of_a_batch_changes_no_pixel(kind, device):
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
    jpegs = [jpeg(seed) for seed in range(32)]
    whole = pixels(kind, device, jpegs)
    for number in (2, 8):
        for first in range(0, 32, 4 * number):
            assert torch.equal(pixels(kind, device, jpegs[first : first + number]), whole[first : first + number])


def test_nvjpeg_is_near_libjpeg(device):
    pytest.importorskip("nvidia.dali")
    jpegs = [jpeg(seed) for seed in range(16)]
    difference = ((pixels("dali", device, jpegs) - pixels("torch", torch.device("cpu"), jpegs)) * LEVEL).abs()
    assert difference.mean() < NEAR and difference.mean((1, 2, 3)).max() < 2 * NEAR
