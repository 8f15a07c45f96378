"""Decoders of crops: both makers against literal numpy, against each other, and their contract (resume, errors, validity)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
import torch

from configs.errors import RequestError, RunError
from models.preprocess import MEAN, STD, CropBatch, Decoder, decoder_name, make_decoder

SIZE, IMAGES = 96, 6
LEVEL = torch.tensor(STD).view(3, 1, 1) * 255  # one normalised unit, in 8-bit levels


def _has_dali() -> bool:
    try:
        import nvidia.dali  # noqa: F401
    except ImportError:
        return False
    return True


needs_dali = pytest.mark.skipif(not _has_dali(), reason="NVIDIA DALI is not installed")
KINDS = [pytest.param("dali", marks=needs_dali), "torch"]
Make = Callable[..., Decoder]


@pytest.fixture
def make() -> Iterator[Make]:
    """make_decoder with this file's sizes; closes what it made."""
    made: list[Decoder] = []

    def maker(kind: str, source: Callable[[int], CropBatch], **changes: object) -> Decoder:
        arguments = {"images": IMAGES, "size": SIZE, "device": "cpu", "threads": 1} | changes
        made.append(make_decoder(kind, source, **arguments))  # type: ignore[arg-type]
        return made[-1]

    yield maker
    for decoder in made:
        decoder.close()


def encode(image: np.ndarray) -> np.ndarray:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].ravel()


def texture(seed: int, size: int = SIZE) -> np.ndarray:
    """Colour noise with the 1/f spectrum of natural images."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    frequency[0, 0] = np.inf
    planes = [np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) / frequency).real for _ in range(3)]
    mixed = np.stack(planes, -1) @ np.array([[1, 0.8, 0.7], [0.3, -0.4, 0.2], [0.2, 0.2, -0.5]])
    return np.clip(128 + 60 * (mixed - mixed.mean()) / mixed.std(), 0, 255).astype(np.uint8)


def smooth(seed: int, size: int = SIZE) -> np.ndarray:
    y, x = np.mgrid[:size, :size] / size
    return np.stack([255 * x, 255 * y, 127 + 127 * np.sin(3 * x + 2 * y + seed)], -1).astype(np.uint8)


CROPS = [encode(texture(seed)) if seed % 2 else encode(smooth(seed)) for seed in range(8)]


def plain(index: int) -> CropBatch:
    """Batch `index` as recorded: brightness, some grey, nothing fresh."""
    rng = np.random.default_rng(index)
    jpegs = [CROPS[(index * 5 + number) % len(CROPS)] for number in range(IMAGES)]
    brightness = rng.uniform(0.8, 1.2, IMAGES).astype(np.float32)
    return CropBatch(jpegs, brightness, np.arange(IMAGES) % 3 == index % 3, np.zeros(IMAGES, bool), np.zeros(IMAGES, np.float32))


def fresh(index: int) -> CropBatch:
    rng = np.random.default_rng(100 + index)
    blur = (rng.uniform(0.1, 2, IMAGES) * (np.arange(IMAGES) % 2)).astype(np.float32)
    return plain(index)._replace(flip=np.arange(IMAGES) % 3 > 0, blur=blur)


def literal(crops: CropBatch) -> np.ndarray:
    """The order of operations as the docstring has it, in float64."""
    out = []
    for number, jpeg in enumerate(crops.jpegs):
        x = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[:, :, ::-1].astype(np.float64) / 255
        if crops.grey[number]:
            x = np.repeat((x @ [0.299, 0.587, 0.114])[..., None], 3, -1)
        x = np.clip(x * float(crops.brightness[number]), 0, 1)
        if sigma := float(crops.blur[number]):
            radius = int(np.ceil(3 * sigma))
            kernel = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
            kernel /= kernel.sum()
            x = np.pad(x, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
            x = sum(weight * x[k : k + SIZE] for k, weight in enumerate(kernel))  # type: ignore[assignment]
            x = sum(weight * x[:, k : k + SIZE] for k, weight in enumerate(kernel))  # type: ignore[assignment]
        if crops.flip[number]:
            x = x[:, ::-1]
        out.append(((x - MEAN) / STD).transpose(2, 0, 1))
    return np.stack(out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source, is_fresh", [(plain, False), (plain, True), (fresh, True)])
def test_pixels_are_those_of_the_literal_order(make, kind, source, is_fresh):
    decoder = make(kind, source, fresh=is_fresh)
    for index in range(3):
        batch = decoder.batch(index)
        assert batch.shape == (IMAGES, 3, SIZE, SIZE) and batch.dtype == torch.float32 and batch.is_contiguous()
        difference = (batch.double() - torch.from_numpy(literal(source(index)))).abs() * LEVEL
        # 8-bit levels: the bound that models.preprocess.dali states for two builds of libjpeg-turbo, and for float32
        assert difference.max() < 0.01, difference.max()


@needs_dali
def test_both_makers_agree(make):
    for source in (plain, fresh):
        dali, other = make("dali", source, fresh=True), make("torch", source, fresh=True)
        for index in (0, 1):
            difference = (dali.batch(index) - other.batch(index)).abs() * LEVEL
            assert difference.max() < 0.01 and difference.mean() < 0.001


@pytest.mark.parametrize("kind", KINDS)
def test_a_mirrored_batch_is_the_mirror_of_the_batch(make, kind):
    def flipped(index: int) -> CropBatch:
        return plain(index)._replace(flip=np.ones(IMAGES, bool))

    batch, mirror = make(kind, plain).batch(2), make(kind, flipped).batch(2)
    assert torch.equal(mirror, batch.flip(-1)) and not torch.equal(mirror, batch)


@pytest.mark.parametrize("kind", KINDS)
def test_bright_pixels_are_clamped_at_white(make, kind):
    def bright(index: int) -> CropBatch:
        return plain(index)._replace(brightness=np.full(IMAGES, 1.9, np.float32))

    image = make(kind, bright).batch(0)
    white = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(image.amax(dim=(0, 2, 3)), white, rtol=1e-5)
    assert (image == image.amax(dim=(0, 2, 3)).view(3, 1, 1)).float().mean() > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_start_at_g_equals_continue_to_g(make, kind):
    through = make(kind, fresh, fresh=True, threads=2)
    batches = [through.batch(index).clone() for index in range(7)]
    for start in (4, 0, 6):
        decoder = make(kind, fresh, fresh=True)
        assert torch.equal(decoder.batch(start), batches[start])
    for jump in (5, 6, 2, 3, 3, 0, 1, 6):
        assert torch.equal(through.batch(jump), batches[jump])


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_given_out_stays_as_it_is(make, kind):
    decoder = make(kind, plain)
    held = [decoder.batch(index) for index in range(6)]
    copies = [batch.clone() for batch in held]
    for index in range(6, 16):
        decoder.batch(index)
    decoder.close()
    assert all(torch.equal(a, b) for a, b in zip(held, copies, strict=True))
    assert len({batch.data_ptr() for batch in held}) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_the_source_is_asked_ahead_once_for_each_batch_in_order(make, kind):
    asked: list[int] = []

    def source(index: int) -> CropBatch:
        asked.append(index)
        return plain(index)

    decoder = make(kind, source, prefetch=3)
    decoder.batch(5)
    assert asked == [5, 6, 7, 8]
    for index in range(6, 10):
        decoder.batch(index)
    assert asked == list(range(5, 13))
    decoder.batch(1)
    assert asked[8:] == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_the_source_waits_for_its_batch_and_passes_unchanged(make, kind):
    broken = [True]

    def source(index: int) -> CropBatch:
        if index == 2 and broken[0]:
            raise RunError("pairs: expected part 1 to be published, found no ledger entry")
        if index == 5:
            raise IndexError("past the last batch")
        return plain(index)

    decoder = make(kind, source)
    first, second = decoder.batch(0), decoder.batch(1)
    with pytest.raises(RunError, match=r"^pairs: expected part 1 to be published, found no ledger entry$"):
        decoder.batch(2)
    assert torch.equal(decoder.batch(0), first) and torch.equal(decoder.batch(1), second)
    broken[0] = False
    with pytest.raises(RunError):  # it was prefetched while broken
        decoder.batch(2)
    assert torch.equal(decoder.batch(2), make(kind, plain).batch(2))
    decoder.batch(3)
    decoder.batch(4)
    with pytest.raises(IndexError, match="past the last batch"):
        decoder.batch(5)


FLAWS = {
    "cut": (CROPS[1][: len(CROPS[1]) // 2], "bytes that are not a whole JPEG file"),
    "empty": (np.zeros(0, np.uint8), "0 bytes that are not a whole JPEG file"),
    "noise": (np.concatenate([[255, 216], np.arange(200), [255, 217]]).astype(np.uint8), "cannot decode"),
    "size": (encode(texture(1, 64)), "64 x 64;"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flaw", FLAWS)
def test_a_bad_crop_is_named_and_the_decoder_goes_on(make, kind, flaw, capfd):
    jpeg, found = FLAWS[flaw]

    def source(index: int) -> CropBatch:
        crops = plain(index)
        if index == 1:
            crops.jpegs[4] = jpeg
        return crops

    decoder = make(kind, source)
    good = decoder.batch(0)
    with pytest.raises(
        RunError, match=rf"^batch 1, test crop of pair 1 of the batch: expected a JPEG of 96 x 96, found .*{found}"
    ) as caught:
        decoder.batch(1)
    assert "\n" not in str(caught.value)
    assert decoder.batch(2).shape == good.shape
    assert torch.equal(decoder.batch(0), good)
    capfd.readouterr()  # the JPEG libraries complain on stderr themselves


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_requests_are_refused(make, kind):
    with pytest.raises(RunError, match="expected no blur in a decoder made with fresh=False"):
        make(kind, fresh).batch(0)
    with pytest.raises(RunError, match=r"batch 0: expected 6 images, found \[6, 6, 5, 6, 6\]"):
        make(kind, lambda index: plain(index)._replace(grey=np.zeros(5, bool))).batch(0)
    with pytest.raises(RunError, match="expected brightness factors above 0"):
        make(kind, lambda index: plain(index)._replace(brightness=np.zeros(IMAGES, np.float32))).batch(0)


@needs_dali
def test_names_with_dali():
    assert [decoder_name("auto", "cpu"), decoder_name("dali", "cuda:1"), decoder_name("torch", "cuda")] == [
        "dali-cpu",
        "dali-gpu",
        "opencv",
    ]


def test_names_without_dali(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    assert decoder_name("auto", "cuda") == "opencv"
    assert make("auto", plain).name == "opencv"
    with pytest.raises(RequestError, match=r"expected NVIDIA DALI, found no package nvidia.dali; install nvidia-dali-cuda130 .*cuda120"):
        decoder_name("dali", "cpu")
    with pytest.raises(RequestError, match="expected auto, dali or torch, found 'dal'"):
        decoder_name("dal", "cpu")  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu(make, kind):
    decoder = make(kind, fresh, fresh=True, device="cuda")
    held = [decoder.batch(index) for index in range(4)]
    for index, batch in enumerate(held):
        assert batch.device.type == "cuda"
        difference = (batch.cpu().double() - torch.from_numpy(literal(fresh(index)))).abs() * LEVEL
        # nvJPEG's inverse DCT and chroma interpolation differ from libjpeg-turbo's
        assert difference.mean() < (1.0 if kind == "dali" else 0.001)
    assert torch.equal(make(kind, fresh, fresh=True, device="cuda").batch(2), held[2])
