"""Crops decoded by OpenCV in a pool of threads: for machines without DALI, and the twin that DALI is tested against."""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from models.preprocess.decoder import GREY, MEAN, STD, CropBatch, Decoder, Source

_MEAN = np.asarray(MEAN, np.float32)
_STD = np.asarray(STD, np.float32)


class _Work(NamedTuple):
    images: Tensor
    futures: list[Future[str]]


class OpenCVDecoder(Decoder):
    """See `Decoder`. On a GPU the batch is copied from pinned memory on the current stream."""

    name = "opencv"

    def __init__(self, source: Source, *, images: int, size: int, device: torch.device, threads: int, prefetch: int, fresh: bool) -> None:
        super().__init__(source, images, size, device, prefetch, fresh)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def _start(self, crops: CropBatch) -> _Work:
        images = torch.empty((self.images, 3, self.size, self.size), pin_memory=self.device.type == "cuda")
        planes = images.numpy()
        return _Work(images, [self._pool.submit(self._decode, crops, number, planes[number]) for number in range(self.images)])

    def _finish(self, work: _Work, index: int, crops: CropBatch) -> Tensor:
        for number, future in enumerate(work.futures):
            if found := future.result():
                raise self.broken(index, number, found)
        return work.images.to(self.device, non_blocking=True)

    def _drop(self, work: _Work) -> None:
        for future in work.futures:
            future.cancel()

    def close(self) -> None:
        super().close()
        self._pool.shutdown(cancel_futures=True)

    def _decode(self, crops: CropBatch, number: int, out: np.ndarray) -> str:
        """Writes image `number` to out (3, S, S); returns "" or what was found in place of a crop."""
        image = cv2.imdecode(crops.jpegs[number], cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            return "one that OpenCV cannot decode"
        if image.shape[:2] != (self.size, self.size):
            return f"{image.shape[1]} x {image.shape[0]}"
        if crops.flip[number]:
            image = cv2.flip(image, 1)  # commutes with all that follows
        bgr = cv2.split(image)
        brightness, blur = float(crops.brightness[number]), float(crops.blur[number])
        if crops.grey[number] or blur > 0:
            write_floats(np.stack(bgr[::-1]), brightness, bool(crops.grey[number]), blur, out)
        else:
            # a function of one byte: look it up
            levels = lit(np.arange(256, dtype=np.float32)[None], brightness)
            for channel, plane in enumerate(bgr[::-1]):
                table = (levels[0] - _MEAN[channel]) / _STD[channel]
                cv2.LUT(plane, table[None], dst=out[channel])
        return ""


def lit(levels: np.ndarray, brightness: float) -> np.ndarray:
    """Levels 0-255 times brightness, as [0, 1]."""
    return np.clip(levels * np.float32(brightness / 255), 0, 1)


def write_floats(rgb: np.ndarray, brightness: float, grey: bool, blur: float, out: np.ndarray) -> None:
    """rgb (3, S, S) uint8, already mirrored, to normalised input, out (3, S, S) float32."""
    levels = rgb.astype(np.float32)
    if grey:
        levels = np.broadcast_to(GREY[0] * levels[:1] + GREY[1] * levels[1:2] + GREY[2] * levels[2:], rgb.shape)
    image = lit(levels, brightness)
    if blur > 0:
        side = 2 * math.ceil(np.float32(3) * np.float32(blur)) + 1
        image = np.stack([cv2.GaussianBlur(plane, (side, side), blur, borderType=cv2.BORDER_REFLECT_101) for plane in image])
    np.divide(image - _MEAN[:, None, None], _STD[:, None, None], out=out)
