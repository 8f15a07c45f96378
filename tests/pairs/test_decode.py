"""Decoders of crops: both makers against literal numpy, against each other, and their contract (resume, errors, validity)."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from configs.errors import RequestError, RunError
from pairs.decode import BrokenCrop, Crops, Decoder, DecoderOptions, decoder_name, make_decoder
from pairs.decode.decoder import MEAN, STD, Images, Looks
from pairs.decode.look import network_input
from pairs.photometry import Photometry

SIZE, PAIRS = 96, 3
IMAGES = 2 * PAIRS
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
Source = Callable[[int], Crops]


@pytest.fixture
def make() -> Iterator[Make]:
    """(kind, source of batch i, ...): a decoder of this file's sizes that has been given batches 0, 1, ...; closed at the end."""
    made: list[Decoder] = []

    def maker(kind: Any, source: Source, start: int = 0, **changes: Any) -> Decoder:
        plain_options = DecoderOptions(PAIRS, (SIZE, SIZE), torch.device("cpu"))
        made.append(make_decoder(kind, dataclasses.replace(plain_options, **changes)))
        return made[-1].start(numbered(source, start))

    yield maker
    for decoder in made:
        decoder.close()


def numbered(source: Source, start: int = 0) -> Iterator[tuple[Crops, int]]:
    """The batches of a source with their numbers as payload."""
    return ((source(index), index) for index in itertools.count(start))


def together(images: Images) -> torch.Tensor:
    """All 2B images, refs first."""
    return torch.cat(images)


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


def plain(index: int) -> Crops:
    """Batch `index` as recorded: brightness, some grey, nothing fresh."""
    rng = np.random.default_rng(index)
    jpegs = [CROPS[(index * 5 + number) % len(CROPS)] for number in range(IMAGES)]
    brightness = rng.uniform(0.8, 1.2, (PAIRS, 2)).astype(np.float32)
    look = Photometry(brightness, np.arange(PAIRS) % 3 == index % 3, np.zeros(PAIRS, bool), np.zeros((PAIRS, 2), np.float32))
    return Crops(jpegs[:PAIRS], jpegs[PAIRS:], look)


def looking(crops: Crops, **changes: np.ndarray) -> Crops:
    """The same crops under another photometry."""
    return crops._replace(look=dataclasses.replace(crops.look, **changes))


def fresh(index: int) -> Crops:
    rng = np.random.default_rng(100 + index)
    blur = (rng.uniform(0.1, 2, (PAIRS, 2)) * [[0, 1], [1, 0], [1, 1]]).astype(np.float32)
    return looking(plain(index), flip=np.arange(PAIRS) % 3 > 0, blur=blur)


def literal(crops: Crops) -> np.ndarray:
    """The order of operations as the docstring has it, in float64."""
    out = []
    looks = Looks.of(crops.look)
    for number, jpeg in enumerate((*crops.ref, *crops.test)):
        x = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR))[:, :, ::-1].astype(np.float64) / 255
        if looks.grey[number]:
            x = np.repeat((x @ [0.299, 0.587, 0.114])[..., None], 3, -1)
        x = np.clip(x * float(looks.brightness[number]), 0, 1)
        if sigma := float(looks.blur[number]):
            radius = int(np.ceil(3 * sigma))
            kernel = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
            kernel /= kernel.sum()
            side = len(x)
            x = np.pad(x, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
            x = sum(weight * x[k : k + side] for k, weight in enumerate(kernel))
            x = sum(weight * x[:, k : k + side] for k, weight in enumerate(kernel))
        if looks.flip[number]:
            x = x[:, ::-1]
        out.append(((x - MEAN) / STD).transpose(2, 0, 1))
    return np.stack(out)


def test_looks_are_those_of_refs_then_tests():
    looks = Looks.of(fresh(3).look)
    pair = fresh(3).look
    np.testing.assert_array_equal(looks.brightness, [*pair.brightness[:, 0], *pair.brightness[:, 1]])
    np.testing.assert_array_equal(looks.blur, [*pair.blur[:, 0], *pair.blur[:, 1]])
    np.testing.assert_array_equal(looks.grey, [*pair.grey, *pair.grey])
    np.testing.assert_array_equal(looks.flip, [*pair.flip, *pair.flip])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source, is_fresh", [(plain, False), (plain, True), (fresh, True)])
def test_pixels_are_those_of_the_literal_order(make, kind, source, is_fresh):
    decoder = make(kind, source, fresh=is_fresh)
    for index in range(3):
        (ref, test), payload = decoder.batch()
        assert payload == index
        for images in (ref, test):
            assert images.shape == (PAIRS, 3, SIZE, SIZE) and images.dtype == torch.float32 and images.is_contiguous()
        difference = (together((ref, test)).double() - torch.from_numpy(literal(source(index)))).abs() * LEVEL
        # 8-bit levels: the bound that pairs.decode.dali states for two builds of libjpeg-turbo, and for float32
        assert difference.max() < 0.01, difference.max()


@pytest.mark.parametrize("source", [plain, fresh])
def test_the_photometry_of_a_gpu_is_the_literal_one(source):
    for index in range(3):
        crops = source(index)
        images = np.stack([np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)) for jpeg in crops.jpegs])
        found = network_input(torch.from_numpy(images), Looks.of(crops.look), torch.from_numpy)
        assert found.dtype == torch.float32 and found.is_contiguous(memory_format=torch.channels_last)
        assert ((found.double() - torch.from_numpy(literal(crops))).abs() * LEVEL).max() < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_ref_and_test_may_have_sizes_of_their_own(make, kind):
    small = [encode(texture(seed, 64)) for seed in range(PAIRS)]

    def source(index: int) -> Crops:
        return fresh(index)._replace(ref=small)

    decoder = make(kind, source, sizes=(64, SIZE), fresh=True)
    for index in range(3):
        (ref, test), _ = decoder.batch()
        assert ref.shape == (PAIRS, 3, 64, 64) and test.shape == (PAIRS, 3, SIZE, SIZE)
        crops = source(index)
        wanted_ref = literal(crops._replace(test=[]))
        assert ((ref.double() - torch.from_numpy(wanted_ref)).abs() * LEVEL).max() < 0.01
        wanted_test = literal(fresh(index))[PAIRS:]
        assert ((test.double() - torch.from_numpy(wanted_test)).abs() * LEVEL).max() < 0.01
    with pytest.raises(BrokenCrop, match="pair 0 of the batch, test crop: expected a JPEG of 64 x 64, found 96 x 96"):
        make(kind, fresh, sizes=(SIZE, 64), fresh=True).batch()


@needs_dali
def test_both_makers_agree(make):
    for source in (plain, fresh):
        dali, other = make("dali", source, fresh=True), make("torch", source, fresh=True)
        for _ in range(2):
            difference = (together(dali.batch()[0]) - together(other.batch()[0])).abs() * LEVEL
            assert difference.max() < 0.01 and difference.mean() < 0.001


@pytest.mark.parametrize("kind", KINDS)
def test_a_mirrored_batch_is_the_mirror_of_the_batch(make, kind):
    batch = together(make(kind, plain).batch()[0])
    mirror = together(make(kind, lambda index: looking(plain(index), flip=np.ones(PAIRS, bool))).batch()[0])
    assert torch.equal(mirror, batch.flip(-1)) and not torch.equal(mirror, batch)


@pytest.mark.parametrize("kind", KINDS)
def test_bright_pixels_are_clamped_at_white(make, kind):
    bright = np.full((PAIRS, 2), 1.9, np.float32)
    image = together(make(kind, lambda index: looking(plain(index), brightness=bright)).batch()[0])
    white = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(image.amax(dim=(0, 2, 3)), white, rtol=1e-5)
    assert (image == image.amax(dim=(0, 2, 3)).view(3, 1, 1)).float().mean() > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_start_at_g_equals_continue_to_g(make, kind):
    through = make(kind, fresh, fresh=True, threads=2)
    batches = [together(through.batch()[0]).clone() for _ in range(7)]
    for start in (4, 0, 6):
        assert torch.equal(together(make(kind, fresh, start, fresh=True).batch()[0]), batches[start])
    for jump in (5, 2, 3, 3, 0, 6):
        images, payload = through.start(numbered(fresh, jump)).batch()
        assert payload == jump and torch.equal(together(images), batches[jump])


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_given_out_stays_as_it_is(make, kind):
    decoder = make(kind, plain)
    held = [decoder.batch()[0][0] for _ in range(6)]
    copies = [batch.clone() for batch in held]
    for _ in range(10):
        decoder.batch()
    decoder.close()
    assert all(torch.equal(a, b) for a, b in zip(held, copies, strict=True))
    assert len({batch.data_ptr() for batch in held}) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_the_source_is_asked_ahead_once_for_each_batch_in_order(make, kind):
    asked: list[int] = []

    def source(index: int) -> Crops:
        asked.append(index)
        return plain(index)

    decoder = make(kind, source, 5, prefetch=3)
    assert asked == []
    decoder.batch()
    assert asked == [5, 6, 7, 8]
    for _ in range(4):
        decoder.batch()
    assert asked == list(range(5, 13))
    decoder.start(numbered(source, 1)).batch()
    assert asked[8:] == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_ends_gives_its_last_batch_and_stops(make, kind):
    decoder = make(kind, plain)
    decoder.start(itertools.islice(numbered(plain), 3))
    assert [payload for _, payload in decoder] == [0, 1, 2]
    with pytest.raises(StopIteration):
        decoder.batch()


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_the_source_waits_for_its_batch_and_passes_unchanged(make, kind):
    def source(index: int) -> Crops:
        if index == 2:
            raise RunError("pairs: expected part 1 to be published, found no ledger entry")
        return plain(index)

    decoder = make(kind, source)
    first = together(decoder.batch()[0])
    decoder.batch()
    with pytest.raises(RunError, match=r"^pairs: expected part 1 to be published, found no ledger entry$"):
        decoder.batch()
    assert torch.equal(together(decoder.start(numbered(source)).batch()[0]), first)


FLAWS = {
    "cut": (CROPS[1][: len(CROPS[1]) // 2], "bytes that are not a whole JPEG file"),
    "empty": (np.zeros(0, np.uint8), "0 bytes that are not a whole JPEG file"),
    "noise": (np.concatenate([[255, 216], np.arange(200), [255, 217]]).astype(np.uint8), "cannot decode"),
    "size": (encode(texture(1, 64)), "64 x 64;"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flaw", FLAWS)
def test_a_bad_crop_is_named_and_the_decoder_goes_on(make, kind, flaw, capfd):
    jpeg, what = FLAWS[flaw]

    def source(index: int) -> Crops:
        crops = plain(index)
        if index == 1:
            crops.test[1] = jpeg
        return crops

    decoder = make(kind, source)
    good = together(decoder.batch()[0])
    with pytest.raises(BrokenCrop, match=rf"^pair 1 of the batch, test crop: expected a JPEG of 96 x 96, found .*{what}") as caught:
        decoder.batch()
    assert "\n" not in str(caught.value)
    assert (caught.value.image, caught.value.row, caught.value.payload) == (1, 1, 1)
    assert caught.value.named("x, pair 9", "y").startswith("x, pair 9, test crop: expected a JPEG of 96 x 96, found ")
    assert torch.equal(together(decoder.start(numbered(source)).batch()[0]), good)
    capfd.readouterr()  # the JPEG libraries complain on stderr themselves


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_requests_are_refused(make, kind):
    with pytest.raises(RunError, match="expected no blur in a decoder made with fresh=False"):
        make(kind, fresh).batch()
    with pytest.raises(RunError, match=r"expected 3 pairs a batch, found \[3, 2, 3\]"):
        make(kind, lambda index: plain(index)._replace(test=plain(index).test[:2])).batch()
    with pytest.raises(RunError, match="expected brightness factors above 0"):
        make(kind, lambda index: looking(plain(index), brightness=np.zeros((PAIRS, 2), np.float32))).batch()


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
    with pytest.raises(
        RequestError, match=r"expected NVIDIA DALI, found no package nvidia.dali that can be loaded; install nvidia-dali-cuda130 .*cuda120"
    ):
        decoder_name("dali", "cpu")
    with pytest.raises(RequestError, match="expected auto, dali or torch, found 'dal'"):
        decoder_name("dal", "cpu")  # type: ignore[arg-type]


@needs_dali
@pytest.mark.skipif(torch.cuda.is_available(), reason="here DALI starts")
def test_dali_that_cannot_start_on_a_gpu_names_the_other_feed_in_one_line(make):
    with pytest.raises(
        RunError, match=r"^feed: expected DALI to start on cuda:0, found .*; install .*nvidia-dali-cuda120.*: train\.feed=torch$"
    ):
        make("dali", plain, device=torch.device("cuda:0")).batch()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu(make, kind):
    decoder = make(kind, fresh, fresh=True, device=torch.device("cuda"))
    held = [together(decoder.batch()[0]) for _ in range(4)]
    for index, batch in enumerate(held):
        assert batch.device.type == "cuda"
        difference = (batch.cpu().double() - torch.from_numpy(literal(fresh(index)))).abs() * LEVEL
        # nvJPEG's inverse DCT and chroma interpolation differ from libjpeg-turbo's
        assert difference.mean() < (1.0 if kind == "dali" else 0.001)
    again = make(kind, fresh, 2, fresh=True, device=torch.device("cuda"))
    assert torch.equal(together(again.batch()[0]), held[2])
