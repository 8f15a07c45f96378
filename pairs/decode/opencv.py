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
from pairs.decode.look import network_input
from pairs.replay import to_device


class _Work(NamedTuple):
    tensors: list[Tensor]
    futures: list[Future[str]]
    looks: Looks


class OpenCVDecoder(Decoder[Any]):
    """See `Decoder`. For a GPU bytes alone are decoded here; they are copied on a stream of their own, and the GPU does the photometry."""

    name = "opencv"

    def __init__(self, options: DecoderOptions) -> None:
        super().__init__(options)
        self._pool = ThreadPoolExecutor(options.threads, thread_name_prefix="decode")
        self._gpu = options.device.type == "cuda"
        self._copies: torch.cuda.Stream | None = None

    def _start(self, crops: Crops) -> _Work:
        looks, batch = Looks.of(crops.look), self.options.batch
        if self._gpu:
            tensors = [torch.empty((batch, size, size, 3), dtype=torch.uint8, pin_memory=True) for size in self.options.sizes]
        else:
            tensors = [torch.empty((batch, 3, size, size)) for size in self.options.sizes]
        outs = (out for tensor in tensors for out in tensor.numpy())
        images = enumerate(zip(crops.jpegs, outs, strict=True))
        if self._gpu:
            futures = [self._pool.submit(_decode_bytes, jpeg, out) for _, (jpeg, out) in images]
        else:
            futures = [self._pool.submit(_decode, jpeg, looks, number, out) for number, (jpeg, out) in images]
        return _Work(tensors, futures, looks)

    def _finish(self, work: _Work) -> Images:
        for number, future in enumerate(work.futures):
            if what := future.result():
                raise self.broken(number, what)
        if not self._gpu:
            ref, test = work.tensors
            return ref, test
        batch, looks = self.options.batch, work.looks
        ref, test = self._copied(work.tensors)
        halves = (Looks(*(values[rows] for values in looks)) for rows in (slice(0, batch), slice(batch, None)))
        ref, test = (network_input(images, half, self._move) for images, half in zip((ref, test), halves, strict=True))
        return ref, test

    def _copied(self, tensors: list[Tensor]) -> list[Tensor]:
        """Pinned bytes on the GPU, for its current stream; the copies run beside what that stream is still doing."""
        device = self.options.device
        self._copies = self._copies or torch.cuda.Stream(device)
        present = torch.cuda.current_stream(device)
        with torch.cuda.stream(self._copies):
            copied = [tensor.to(device, non_blocking=True) for tensor in tensors]
        present.wait_stream(self._copies)
        for tensor in copied:
            tensor.record_stream(present)
        return copied

    def _move(self, array: np.ndarray) -> Tensor:
        return to_device(array, self.options.device)

    def _drop(self, work: _Work) -> None:
        for future in work.futures:
            future.cancel()

    def close(self) -> None:
        super().close()
        self._pool.shutdown(cancel_futures=True)


def _image(jpeg: np.ndarray, size: int) -> np.ndarray | str:
    """The image (S, S, 3) BGR of a JPEG, or what was found in place of one."""
    image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        return "one that OpenCV cannot decode"
    return image if image.shape[:2] == (size, size) else f"{image.shape[1]} x {image.shape[0]}"


def _decode_bytes(jpeg: np.ndarray, out: np.ndarray) -> str:
    """Writes an image to out (S, S, 3) BGR; returns "" or what was found in place of a crop."""
    image = _image(jpeg, len(out))
    if isinstance(image, str):
        return image
    out[:] = image
    return ""


def _decode(jpeg: np.ndarray, looks: Looks, number: int, out: np.ndarray) -> str:
    """Writes an image with the look of image `number` to out (3, S, S); returns "" or what was found in place of a crop."""
    image = _image(jpeg, out.shape[-1])
    if isinstance(image, str):
        return image
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
