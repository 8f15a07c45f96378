"""Crops decoded by OpenCV in a pool of threads: for machines without DALI, and the twin that DALI is tested against."""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from pairs.decode.decoder import GREY, MEAN, STD, Crops, Decoder, DecoderOptions, Images, Looks


class _Work(NamedTuple):
    tensors: list[Tensor]
    futures: list[Future[str]]


class OpenCVDecoder(Decoder[Any]):
    """See `Decoder`. On a GPU the batch is copied from pinned memory on the current stream."""

    name = "opencv"

    def __init__(self, options: DecoderOptions) -> None:
        super().__init__(options)
        self._pool = ThreadPoolExecutor(options.threads, thread_name_prefix="decode")

    def _start(self, crops: Crops) -> _Work:
        looks, pinned = Looks.of(crops.look), self.options.device.type == "cuda"
        tensors = [torch.empty((self.options.batch, 3, size, size), pin_memory=pinned) for size in self.options.sizes]
        outs = (out for tensor in tensors for out in tensor.numpy())
        images = enumerate(zip(crops.jpegs, outs, strict=True))
        return _Work(tensors, [self._pool.submit(_decode, jpeg, looks, number, out) for number, (jpeg, out) in images])

    def _finish(self, work: _Work) -> Images:
        for number, future in enumerate(work.futures):
            if what := future.result():
                raise self.broken(number, what)
        ref, test = (tensor.to(self.options.device, non_blocking=True) for tensor in work.tensors)
        return ref, test

    def _drop(self, work: _Work) -> None:
        for future in work.futures:
            future.cancel()

    def close(self) -> None:
        super().close()
        self._pool.shutdown(cancel_futures=True)


def _decode(jpeg: np.ndarray, looks: Looks, number: int, out: np.ndarray) -> str:
    """Writes an image with the look of image `number` to out (3, S, S); returns "" or what was found in place of a crop."""
    image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        return "one that OpenCV cannot decode"
    if image.shape[:2] != out.shape[1:]:
        return f"{image.shape[1]} x {image.shape[0]}"
    if looks.flip[number]:
        image = cv2.flip(image, 1)  # commutes with all that follows
    bgr = cv2.split(image)
    brightness, blur, grey = float(looks.brightness[number]), float(looks.blur[number]), bool(looks.grey[number])
    if grey or blur > 0:
        write_floats(np.stack(bgr[::-1]), brightness, grey, blur, out)
    else:
        # a function of one byte: look it up
        levels = lit(np.arange(256, dtype=np.float32)[None], brightness)
        for channel, plane in enumerate(bgr[::-1]):
            table = (levels[0] - MEAN[channel]) / STD[channel]
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
    np.divide(image - MEAN[:, None, None], STD[:, None, None], out=out)
