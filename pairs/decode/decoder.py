"""What a decoder of crops is, whatever library does the work, and which one is taken.

Letters: B pairs a batch; S side of a crop in pixels, of the ref and of the test image.

From a JPEG crop to the input of a network, in this order:
    decoded to RGB in [0, 1]; grey = 0.299 R + 0.587 G + 0.114 B in all three channels (OpenCV's weights), not rounded; times brightness;
    clamped to [0, 1]; Gaussian blur (radius ceil(3 sigma), border mirrored without its edge pixel); mirrored left-right; (x - MEAN) / STD.
Both implementations give the same numbers for the same decoded pixels (relative error below 1e-5); their JPEG decoders differ as
`pairs.decode.dali` states.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from configs.errors import RequestError, RunError
from pairs.photometry import Photometry

MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)
GREY = (0.299, 0.587, 0.114)

Kind = Literal["auto", "dali", "torch"]
Images = tuple[Tensor, Tensor]
"""ref and test (B, 3, S, S) float32, normalised, each with the S of its image"""
P = TypeVar("P")


class Crops(NamedTuple):
    """The encoded crops of B pairs, and what is done to them."""

    ref: list[np.ndarray]
    """B JPEG files, uint8, one-dimensional"""
    test: list[np.ndarray]
    look: Photometry

    @property
    def jpegs(self) -> list[np.ndarray]:
        """All 2B files, refs then tests."""
        return [*self.ref, *self.test]


class Looks(NamedTuple):
    """The photometry of 2B images, refs then tests: brightness, blur (2B,) float32; grey, flip (2B,) bool."""

    brightness: np.ndarray
    grey: np.ndarray
    flip: np.ndarray
    blur: np.ndarray

    @classmethod
    def of(cls, look: Photometry) -> Looks:
        """Image by image."""
        brightness, blur = (np.ascontiguousarray(pair.T, np.float32).reshape(-1) for pair in (look.brightness, look.blur))
        return cls(brightness, np.tile(look.grey, 2), np.tile(look.flip, 2), blur)


class BrokenCrop(RunError):
    """A crop that cannot be used: which image (0 ref, 1 test) of which pair of the batch, what was found, and the batch's payload."""

    def __init__(self, image: int, row: int, size: int, what: str) -> None:
        self.image, self.row, self.size, self.what = image, row, size, what
        self.payload: Any = None
        super().__init__(self.named(f"pair {row} of the batch", "look for the damage with `make verify CACHE=PATH`"))

    def named(self, pair: str, remedy: str) -> str:
        """The error about a pair that the caller knows by another name."""
        return f"{pair}, {('ref', 'test')[self.image]} crop: expected a JPEG of {self.size} x {self.size}, found {self.what}; {remedy}"


@dataclass(frozen=True)
class DecoderOptions:
    """What a decoder is made for."""

    batch: int
    """B, pairs of every batch"""
    sizes: tuple[int, int]
    """S of the ref and of the test image"""
    device: torch.device
    threads: int = 1
    """workers of the processor"""
    prefetch: int = 2
    """batches under way beside the one that the caller has"""
    fresh: bool = False
    """whether crops may ask for blur"""


class Decoder(ABC, Generic[P]):
    """Batches of network input, in the order of a source; what follows is decoded while the caller works.

    A source gives (crops, payload) a batch; the payload comes back with the images, so that whoever made a batch need not remember it.
    The source runs in the caller's thread, up to `prefetch` batches ahead; an error of it surfaces when that very batch is asked for.
    Not safe for several threads at once.
    """

    name: str
    """dali-cpu, dali-gpu or opencv"""

    def __init__(self, options: DecoderOptions) -> None:
        self.options = options
        self._source: Iterator[tuple[Crops, P]] = iter(())
        self._ahead: deque[tuple[Any, Any]] = deque()
        """payload and work of each batch under way; an exception in the place of the last one's work"""

    def start(self, source: Iterator[tuple[Crops, P]]) -> Decoder[P]:
        """Takes batches from `source` from now on; what was under way is dropped."""
        self._drop_all()
        self._source = source
        return self

    def __iter__(self) -> Iterator[tuple[Images, P]]:
        return self

    def __next__(self) -> tuple[Images, P]:
        return self.batch()

    def batch(self) -> tuple[Images, P]:
        """The next batch's images on the device and its payload; the images are valid as long as the caller holds them.

        StopIteration at the end of the source; BrokenCrop: a crop that is no JPEG of its size; and whatever the source raises.
        """
        self._fill()
        if not self._ahead:
            raise StopIteration
        payload, work = self._ahead.popleft()
        try:
            if isinstance(work, Exception):
                raise work
            images = self._finish(work)
        except BaseException as error:
            if isinstance(error, BrokenCrop):
                error.payload = payload
            self._drop_all()
            raise
        self._fill()
        return images, payload

    def _fill(self) -> None:
        """Starts batches until enough are under way. An error waits for its turn, nothing starts behind it."""
        while len(self._ahead) < self.options.prefetch and not (self._ahead and isinstance(self._ahead[-1][1], Exception)):
            payload: Any = None
            try:
                crops, payload = next(self._source)
                self._check(crops)
                work: Any = self._start(crops)
            except StopIteration:
                return
            except Exception as error:  # raised by batch() when its turn comes
                work = error
            self._ahead.append((payload, work))

    def _drop_all(self) -> None:
        while self._ahead:
            _, work = self._ahead.popleft()
            if not isinstance(work, Exception):
                self._drop(work)

    def _check(self, crops: Crops) -> None:
        """What would otherwise fail deep inside a library, or not at all."""
        counts = [len(crops.ref), len(crops.test), len(crops.look)]
        if counts != [self.options.batch] * 3:
            raise RunError(f"decoder: expected {self.options.batch} pairs a batch, found {counts} (ref crops, test crops, photometry)")
        brightness = crops.look.brightness
        if not (np.isfinite(brightness).all() and (brightness > 0).all()):
            raise RunError(f"decoder: expected brightness factors above 0, found {brightness.tolist()}; make the cache again")
        if not self.options.fresh and np.any(crops.look.blur):
            raise RunError("decoder: expected no blur in a decoder made with fresh=False, found some; make it with fresh=True")
        for number, jpeg in enumerate(crops.jpegs):
            if len(jpeg) < 4 or jpeg[0] != 0xFF or jpeg[1] != 0xD8 or jpeg[-2] != 0xFF or jpeg[-1] != 0xD9:
                raise self.broken(number, f"{len(jpeg)} bytes that are not a whole JPEG file")

    def broken(self, number: int, what: str) -> BrokenCrop:
        """The error about image `number` of a batch, counted refs first."""
        image, row = divmod(number, self.options.batch)
        return BrokenCrop(image, row, self.options.sizes[image], what)

    @abstractmethod
    def _start(self, crops: Crops) -> Any:
        """Begins to decode and returns what `_finish` needs, without waiting."""

    @abstractmethod
    def _finish(self, work: Any) -> Images:
        """Waits for the oldest batch that was started."""

    @abstractmethod
    def _drop(self, work: Any) -> None:
        """Discards the oldest batch that was started."""

    def close(self) -> None:
        """Ends threads and frees buffers; batches already given out stay valid."""
        self._drop_all()


def _has_dali() -> bool:
    try:
        importlib.import_module("nvidia.dali")
    # a library that it is linked with is missing or another's
    except (ImportError, OSError):
        return False
    return True


def decoder_name(kind: Kind, device: torch.device | str) -> str:
    """`dali-cpu`, `dali-gpu` or `opencv`: what `make_decoder` would take. What a cache records of how its crops were read.

    RequestError: an unknown kind, or `dali` where it is not installed.
    """
    if kind not in ("auto", "dali", "torch"):
        raise RequestError(f"feed: expected auto, dali or torch, found {kind!r}; choose one of them")
    if kind == "torch" or (kind == "auto" and not _has_dali()):
        return "opencv"
    if not _has_dali():
        raise RequestError(
            "feed=dali: expected NVIDIA DALI, found no package nvidia.dali that can be loaded;"
            " install nvidia-dali-cuda130 (or nvidia-dali-cuda120 for CUDA 12), or set feed to torch or auto"
        )
    return "dali-gpu" if torch.device(device).type == "cuda" else "dali-cpu"


def make_decoder(kind: Kind, options: DecoderOptions) -> Decoder[Any]:
    """The decoder of `kind`. RequestError as `decoder_name`."""
    name = decoder_name(kind, options.device)
    # imported here: DALI takes a second to load and is not everywhere
    module, maker = ("opencv", "OpenCVDecoder") if name == "opencv" else ("dali", "DaliDecoder")
    return getattr(importlib.import_module(f"pairs.decode.{module}"), maker)(options)
