"""Crops decoded by NVIDIA DALI: one pipeline definition for processors (device_id None) and GPUs (mixed decoding).

No operator of DALI draws a random number here: everything comes with the batch, so batch i is the same after any restart.

Equal to the order of `pairs.decode.decoder`, in a form that costs one pass: with brightness b,
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

from configs.errors import RunError
from pairs.decode.decoder import GREY, MEAN, STD, Crops, Decoder, DecoderOptions, Images, Looks

HARDWARE = 0.0
"""Share of a batch that the JPEG unit of a GPU decodes, where it has one. None: on an H100 the unit's pixels were not those of the cores,
so that an image would depend on its place in the batch, and a run on which GPU it had."""


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
        jpeg,
        device="mixed" if gpu else "cpu",
        output_type=DALIImageType.RGB,
        jpeg_fancy_upsampling=True,
        adjust_orientation=False,
        hw_decoder_load=HARDWARE,
    )
    if grey:  # noqa: SIM108 - DALI makes statements conditional, not expressions
        image = fn.coord_transform(image, M=list(GREY) * 3, dtype=DALIDataType.FLOAT)
    else:
        image = fn.cast(image, dtype=DALIDataType.FLOAT)
    image = fn.crop_mirror_normalize(image, mirror=flip, mean=mean, std=std, output_layout="CHW", dtype=DALIDataType.FLOAT)
    white = Constant(((1 - MEAN) / STD).reshape(3, 1, 1), device="gpu" if gpu else "cpu")
    image = math.min(image, white)
    if fresh:
        blur = fn.external_source(name="blur", dtype=DALIDataType.FLOAT, ndim=0)
        # DALI evaluates a condition of arithmetic on the processor, also where the images are on the GPU
        if blur > 0:
            image = fn.gaussian_blur(image, sigma=blur)
    return image


class DaliDecoder(Decoder[Any]):
    """See `Decoder`. On a GPU the batch lies on the current stream of PyTorch. A pipeline holds images of one size."""

    def __init__(self, options: DecoderOptions) -> None:
        super().__init__(options)
        self._gpu = options.device.type == "cuda"
        self.name = "dali-gpu" if self._gpu else "dali-cpu"
        self._pipes: list[Any] = []
        (ref, test), batch = options.sizes, options.batch
        # (images, S) of each pipeline: all 2B images where both have one size, else refs and tests apart
        self._groups = [(slice(0, 2 * batch), ref)] if ref == test else [(slice(0, batch), ref), (slice(batch, 2 * batch), test)]

    def _build(self) -> None:
        device = self.options.device
        device_id = (device.index if device.index is not None else torch.cuda.current_device()) if self._gpu else None
        for images, _ in self._groups:
            # prefetch_queue_depth only says how much the first schedule_run runs; this class keeps the queue, so one
            pipe = crop_pipeline(
                self._gpu,
                self.options.fresh,
                batch_size=images.stop - images.start,
                num_threads=self.options.threads,
                device_id=device_id,
                prefetch_queue_depth=1,
            )
            try:
                pipe.build()
            except RuntimeError as error:
                raise self._no_start(error) from error
            self._pipes.append(pipe)

    def _no_start(self, error: RuntimeError) -> RunError:
        """No driver, an older one, libraries of another CUDA: DALI's many lines as our one."""
        reason = " ".join(str(error).split())[:300]
        return RunError(
            f"feed: expected DALI to start on {self.options.device}, found {reason!r}; install the DALI of the driver's CUDA"
            " (nvidia-dali-cuda130 or nvidia-dali-cuda120, and a torch built for the same), or go on without it: train.feed=torch"
        )

    def _start(self, crops: Crops) -> list[np.ndarray]:
        jpegs, looks = crops.jpegs, Looks.of(crops.look)
        scale = np.float32(255) / looks.brightness[:, None]
        if not self._pipes:
            self._build()
        for pipe, (images, _) in zip(self._pipes, self._groups, strict=True):
            pipe.feed_input("jpeg", jpegs[images])
            pipe.feed_input("mean", MEAN * scale[images])
            pipe.feed_input("std", STD * scale[images])
            pipe.feed_input("grey", np.ascontiguousarray(looks.grey[images]))
            pipe.feed_input("flip", looks.flip[images].astype(np.int32))
            if self.options.fresh:
                pipe.feed_input("blur", looks.blur[images])
            pipe.schedule_run()
        return jpegs

    def _finish(self, work: list[np.ndarray]) -> Images:
        tensors = []
        for pipe, (images, size) in zip(self._pipes, self._groups, strict=True):
            try:
                output = pipe.share_outputs(cuda_stream=torch.cuda.current_stream(self.options.device) if self._gpu else None)[0]
            except RuntimeError as error:
                raise self._explained(error, images, work) from error
            pipe.release_outputs()  # DALI's default executor leaves what was shared valid
            for number, shape in enumerate(output.shape(), images.start):
                if list(shape) != [3, size, size]:
                    raise self.broken(number, f"{shape[2]} x {shape[1]}")
            # no copy: that executor gives every batch memory of its own, which the tensor keeps alive
            tensors.append(torch.from_dlpack(output.as_tensor()).to(self.options.device))
        ref, test = (images for tensor in tensors for images in tensor.split(self.options.batch))
        return ref, test

    def _explained(self, error: RuntimeError, images: slice, jpegs: list[np.ndarray]) -> RunError:
        """DALI's many lines as our one; a failed pipeline is no longer valid."""
        self._forget()
        named = re.search(r"sample #(\d+)", str(error))
        if named:
            return self.broken(images.start + int(named[1]), "one that DALI cannot decode")
        for number in range(images.start, images.stop):
            if cv2.imdecode(jpegs[number], cv2.IMREAD_COLOR) is None:
                return self.broken(number, "one that DALI cannot decode")
        reason = " ".join(str(error).split())
        return RunError(f"decoder: expected DALI to decode the batch, found the error {reason!r}; set feed to torch to go on without DALI")

    def _drop(self, work: list[np.ndarray]) -> None:
        for pipe in self._pipes:
            try:
                pipe.share_outputs()
                pipe.release_outputs()
            except RuntimeError:
                self._forget()  # what is dropped may be broken: then the next batch needs new pipelines
                return

    def _forget(self) -> None:
        self._ahead.clear()
        self._pipes = []

    def close(self) -> None:
        super().close()
        self._pipes = []
