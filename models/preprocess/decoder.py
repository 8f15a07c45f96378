"""What a decoder of crops is, whatever library does the work, and which one is taken.

Letters: B pairs a batch; 2B images: B refs, then B tests; S side of the crops in pixels.

From a JPEG crop to the input of a network, in this order:
    decoded to RGB in [0, 1]; grey = 0.299 R + 0.587 G + 0.114 B in all three channels (OpenCV's weights), not rounded; times brightness;
    clamped to [0, 1]; Gaussian blur (radius ceil(3 sigma), border mirrored without its edge pixel); mirrored left-right; (x - MEAN) / STD.
Both implementations give the same numbers for the same decoded pixels (relative error below 1e-5); their JPEG decoders differ as
`models.preprocess.dali` states.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from configs.errors import RequestError, RunError

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
GREY = (0.299, 0.587, 0.114)

Kind = Literal["auto", "dali", "torch"]


class CropBatch(NamedTuple):
    """2B encoded crops, B refs then B tests, and what is done to each."""

    jpegs: list[np.ndarray]
    """2B JPEG files, uint8, one-dimensional"""
    brightness: np.ndarray
    """(2B,) float32, the factor, > 0"""
    grey: np.ndarray
    """(2B,) bool"""
    flip: np.ndarray
    """(2B,) bool, mirrored left-right"""
    blur: np.ndarray
    """(2B,) float32, sigma of the Gaussian in pixels; 0: untouched"""


Source = Callable[[int], CropBatch]


class BrokenCrop(RunError):
    """An image that is no crop: its number in the batch (refs first), and what was found; who knows the pair names it (`Feed`)."""

    def __init__(self, message: str, number: int, found: str) -> None:
        super().__init__(message)
        self.number, self.found = number, found


class Decoder(ABC):
    """Batches of network input by index; what follows is decoded while the caller works.

    `source(i)` gives the crops of batch i and is called in the caller's thread, in ascending order, up to `prefetch` batches ahead; it
    raises IndexError past the last batch. An error of the source surfaces from `batch(i)` of that very i, unchanged.
    Not safe for several threads at once.
    """

    name: str
    """dali-cpu, dali-gpu or opencv"""

    def __init__(self, source: Source, images: int, size: int, device: torch.device, prefetch: int, fresh: bool) -> None:
        self.images, self.size, self.device = images, size, device
        self._source, self._prefetch, self._fresh = source, max(prefetch, 1), fresh
        self._ahead: deque[tuple[int, CropBatch | None, Any]] = deque()

    def batch(self, index: int) -> Tensor:
        """(2B, 3, S, S) float32 on the device; valid as long as the caller holds it.

        Ascending indices are fast; any other index drops what was prefetched and starts anew there, with the same numbers.
        RunError: a crop that is no JPEG of S x S, naming batch and image; and whatever `source` raises.
        """
        if not self._ahead or self._ahead[0][0] != index:
            self._drop_all()
        self._fill(index)
        _, crops, work = self._ahead.popleft()
        if isinstance(work, Exception):
            raise work
        assert crops is not None
        try:
            result = self._finish(work, index, crops)
        except BaseException:
            self._drop_all()
            raise
        self._fill(index + 1)
        return result

    def _fill(self, index: int) -> None:
        """Starts batches from `index` on until enough are under way. An error waits for its turn, nothing starts behind it."""
        while len(self._ahead) < self._prefetch:
            if self._ahead:
                if isinstance(self._ahead[-1][2], Exception):
                    return
                index = self._ahead[-1][0] + 1
            try:
                crops = self._source(index)
                self._check(index, crops)
                self._ahead.append((index, crops, self._start(crops)))
            except Exception as error:  # raised by batch(index)
                self._ahead.append((index, None, error))

    def _drop_all(self) -> None:
        while self._ahead:
            _, _, work = self._ahead.popleft()
            if not isinstance(work, Exception):
                self._drop(work)

    def _check(self, index: int, crops: CropBatch) -> None:
        """What would otherwise fail deep inside a library, or not at all."""
        found = [len(part) for part in crops]
        if found != [self.images] * len(found):
            raise RunError(f"batch {index}: expected {self.images} images, found {found} (jpegs, brightness, grey, flip, blur)")
        if not (np.isfinite(crops.brightness).all() and (crops.brightness > 0).all()):
            raise RunError(f"batch {index}: expected brightness factors above 0, found {crops.brightness.tolist()}; make the cache again")
        if not self._fresh and np.any(crops.blur):
            raise RunError(f"batch {index}: expected no blur in a decoder made with fresh=False, found some; make it with fresh=True")
        for number, jpeg in enumerate(crops.jpegs):
            if len(jpeg) < 4 or jpeg[0] != 0xFF or jpeg[1] != 0xD8 or jpeg[-2] != 0xFF or jpeg[-1] != 0xD9:
                raise self.broken(index, number, f"{len(jpeg)} bytes that are not a whole JPEG file")

    def broken(self, index: int, number: int, found: str) -> BrokenCrop:
        """The error about image `number` of batch `index`."""
        half = self.images // 2
        which = f"{'ref' if number < half else 'test'} crop of pair {number % half if half else 0} of the batch"
        expected = f"expected a JPEG of {self.size} x {self.size}"
        return BrokenCrop(
            f"batch {index}, {which}: {expected}, found {found}; look for the damage with `make verify CACHE=PATH`", number, found
        )

    @abstractmethod
    def _start(self, crops: CropBatch) -> Any:
        """Begins to decode and returns what `_finish` needs, without waiting."""

    @abstractmethod
    def _finish(self, work: Any, index: int, crops: CropBatch) -> Tensor:
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
    except ImportError:
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
            "feed=dali: expected NVIDIA DALI, found no package nvidia.dali;"
            " install nvidia-dali-cuda130 (or nvidia-dali-cuda120 for CUDA 12), or set feed to torch or auto"
        )
    return "dali-gpu" if torch.device(device).type == "cuda" else "dali-cpu"


def make_decoder(
    kind: Kind, source: Source, *, images: int, size: int, device: torch.device | str, threads: int, prefetch: int = 2, fresh: bool = False
) -> Decoder:
    """The decoder of `kind` for batches of `images` (2B) crops of side `size`.

    threads: workers of the processor; prefetch: batches under way beside the one the caller has; fresh: whether crops may ask for blur.
    RequestError as `decoder_name`.
    """
    name = decoder_name(kind, device)
    # imported here: DALI takes a second to load and is not everywhere
    module = importlib.import_module("models.preprocess.torch" if name == "opencv" else "models.preprocess.dali")
    maker: Callable[..., Decoder] = module.OpenCVDecoder if name == "opencv" else module.DaliDecoder
    return maker(source, images=images, size=size, device=torch.device(device), threads=threads, prefetch=prefetch, fresh=fresh)
