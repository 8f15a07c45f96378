"""Crops decoded by NVIDIA DALI: one pipeline definition for processors (device_id None) and GPUs (mixed decoding).

No operator of DALI draws a random number here: everything comes with the batch, so batch i is the same after any restart.

Equal to the order of `models.preprocess.decoder`, in a form that costs one pass: with brightness b,
(clamp(b x) - MEAN) / STD = min((x - MEAN / b) / (STD / b), (1 - MEAN) / STD), so brightness goes into the mean and the deviation of each
image; blur commutes with mirroring and with the affine normalisation, so it may stand at the end.

Pixels against OpenCV's decoder (JPEG quality 95, real frames and synthetic textures, DALI 2.4, OpenCV 5.0, x86-64): both contain
libjpeg-turbo and on a processor decode to the same bytes, so what is left is float32 rounding: at most 1e-4 of an 8-bit level, 5e-6 on
average; the tests allow 0.01. nvJPEG on a GPU has another inverse DCT and chroma interpolation: the GPU test allows 1 level on average.

Grey and blur are conditional: DALI runs them on the images that ask for them only (coord_transform costs four times the decoding).
"""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
import nvidia.dali.fn as fn
import torch
from nvidia.dali import math, pipeline_def
from nvidia.dali.types import Constant, DALIDataType, DALIImageType
from torch import Tensor

from configs.errors import RunError
from models.preprocess.decoder import GREY, MEAN, STD, CropBatch, Decoder, Source

_MEAN = np.asarray(MEAN, np.float32)
_STD = np.asarray(STD, np.float32)


@pipeline_def(enable_conditionals=True)
def crop_pipeline(gpu: bool, fresh: bool) -> Any:
    """Inputs by name: jpeg, mean, std (brightness inside), grey, flip and, with `fresh`, blur. Output: (3, S, S) float32 an image."""
    jpeg = fn.external_source(name="jpeg", dtype=DALIDataType.UINT8, ndim=1)
    mean = fn.external_source(name="mean", dtype=DALIDataType.FLOAT, ndim=1)
    std = fn.external_source(name="std", dtype=DALIDataType.FLOAT, ndim=1)
    grey = fn.external_source(name="grey", dtype=DALIDataType.BOOL, ndim=0)
    flip = fn.external_source(name="flip", dtype=DALIDataType.INT32, ndim=0)
    # as libjpeg does it: without it the GPU decoder repeats chroma pixels where it should interpolate
    image = fn.decoders.image(
        jpeg, device="mixed" if gpu else "cpu", output_type=DALIImageType.RGB, jpeg_fancy_upsampling=True, adjust_orientation=False
    )
    if grey:  # noqa: SIM108 - DALI makes statements conditional, not expressions
        image = fn.coord_transform(image, M=list(GREY) * 3, dtype=DALIDataType.FLOAT)
    else:
        image = fn.cast(image, dtype=DALIDataType.FLOAT)
    image = fn.crop_mirror_normalize(image, mirror=flip, mean=mean, std=std, output_layout="CHW", dtype=DALIDataType.FLOAT)
    white = Constant(((1 - _MEAN) / _STD).reshape(3, 1, 1), device="gpu" if gpu else "cpu")
    image = math.min(image, white)
    if fresh:
        blur = fn.external_source(name="blur", dtype=DALIDataType.FLOAT, ndim=0)
        # DALI evaluates a condition of arithmetic on the processor, also where the images are on the GPU
        if blur > 0:
            image = fn.gaussian_blur(image, sigma=blur)
    return image


class DaliDecoder(Decoder):
    """See `Decoder`. On a GPU the batch lies on the current stream of PyTorch."""

    def __init__(self, source: Source, *, images: int, size: int, device: torch.device, threads: int, prefetch: int, fresh: bool) -> None:
        super().__init__(source, images, size, device, prefetch, fresh)
        self._gpu = device.type == "cuda"
        self.name = "dali-gpu" if self._gpu else "dali-cpu"
        self._threads = threads
        self._pipe: Any = None

    def _build(self) -> Any:
        if self._pipe is None:
            device_id = (self.device.index if self.device.index is not None else torch.cuda.current_device()) if self._gpu else None
            # prefetch_queue_depth only says how much the first schedule_run runs; this class keeps the queue, so one
            self._pipe = crop_pipeline(
                self._gpu, self._fresh, batch_size=self.images, num_threads=self._threads, device_id=device_id, prefetch_queue_depth=1
            )
            self._pipe.build()
        return self._pipe

    def _start(self, crops: CropBatch) -> None:
        pipe = self._build()
        scale = np.float32(255) / crops.brightness.astype(np.float32)[:, None]
        pipe.feed_input("jpeg", list(crops.jpegs))
        pipe.feed_input("mean", _MEAN * scale)
        pipe.feed_input("std", _STD * scale)
        pipe.feed_input("grey", np.ascontiguousarray(crops.grey, bool))
        pipe.feed_input("flip", crops.flip.astype(np.int32))
        if self._fresh:
            pipe.feed_input("blur", crops.blur.astype(np.float32))
        pipe.schedule_run()

    def _finish(self, work: None, index: int, crops: CropBatch) -> Tensor:
        try:
            output = self._pipe.share_outputs(cuda_stream=torch.cuda.current_stream(self.device) if self._gpu else None)[0]
        except RuntimeError as error:
            raise self._explained(error, index, crops) from error
        self._pipe.release_outputs()  # DALI's default executor leaves what was shared valid
        shape = [3, self.size, self.size]
        for number, found in enumerate(output.shape()):
            if list(found) != shape:
                raise self.broken(index, number, f"{found[2]} x {found[1]}")
        # no copy: that executor gives every batch memory of its own, which the tensor keeps alive
        batch = torch.from_dlpack(output.as_tensor())
        return batch if batch.device.type == self.device.type else batch.to(self.device)

    def _explained(self, error: RuntimeError, index: int, crops: CropBatch) -> RunError:
        """DALI's many lines as our one; a failed pipeline is no longer valid."""
        self._forget()
        named = re.search(r"sample #(\d+)", str(error))
        order = [int(named[1])] if named else []
        for number in [*order, *range(self.images)]:
            if (named and number == order[0]) or cv2.imdecode(crops.jpegs[number], cv2.IMREAD_COLOR) is None:
                return self.broken(index, number, "one that DALI cannot decode")
        reason = " ".join(str(error).split())
        return RunError(f"batch {index}: expected DALI to decode it, found the error {reason!r}; set feed to torch to go on without DALI")

    def _drop(self, work: None) -> None:
        if self._pipe is None:
            return
        try:
            self._pipe.share_outputs()
            self._pipe.release_outputs()
        except RuntimeError:
            self._forget()  # what is dropped may be broken: then the next batch needs a new pipeline

    def _forget(self) -> None:
        self._ahead.clear()
        self._pipe = None

    def close(self) -> None:
        super().close()
        self._pipe = None
