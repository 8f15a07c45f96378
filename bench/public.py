"""The training step of the public CFKD code, written anew from its published facts: what a step costs without this project.

As there: two passes through each backbone, one an image; the teacher in train mode and in every step; the correlation of a target's patch
as a convolution with one group a pair; a branch on a loss and two `.item()` that wait for the device; Adam as it comes, contiguous tensors,
float32. Kinder than there: Precise RoI pooling and the head are this project's (the public pooling is a CUDA extension without a CPU path).

Letters: B pairs, C channels, H W rows and columns, k the odd side of a patch. Boxes (x, y, w, h), crop pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from kdlosses.correlation import target_patch
from kdlosses.gaussian import gaussian
from kdlosses.labels import iou_label
from models import LAYERS, STRIDES, Outputs, Tracker
from pairs.batch import Batch, Boxes


def correlation(test: Tensor, patch: Tensor) -> Tensor:
    """test (B, C, H, W), patch (B, C, k, k) -> (B, H, W): all pairs as the channels of one image, a group each."""
    batch, channels, height, width = test.shape
    maps = functional.conv2d(test.reshape(1, batch * channels, height, width), patch, padding=patch.shape[-1] // 2, groups=batch)
    return maps[0]


def outputs(tracker: Tracker, batch: Batch) -> Outputs:
    """Predictions and features of every layer, image by image."""
    ref, test = tracker.features(batch.ref), tracker.features(batch.test)
    prediction = tracker.predict(tracker.modulation(ref, batch.boxes.ref_box), test, batch.boxes.proposals)
    return Outputs(prediction, ref, test)


def cfkd(student: Outputs, teacher: Outputs, boxes: Boxes) -> tuple[Tensor, Tensor]:
    """TS + 0.1 AH + 100 fidelity + 0.01 CF, and the first two alone."""
    of_iou = predictions(student, teacher, boxes, functional.smooth_l1_loss)
    fidelity, filtered = torch.zeros_like(of_iou), torch.zeros_like(of_iou)
    for layer in ("layer2", "layer3"):
        for own, theirs in ((student.ref, teacher.ref), (student.test, teacher.test)):
            fidelity = fidelity + functional.mse_loss(own[layer].abs().sum(1), theirs[layer].abs().sum(1))
    for layer in LAYERS:
        response = correlation(student.test[layer], target_patch(student.ref[layer], boxes, STRIDES[layer]))
        wanted = gaussian(boxes.test_box, (response.shape[1], response.shape[2]), STRIDES[layer], 0.15)
        filtered = filtered + functional.mse_loss(response / response.max(), wanted)
    return of_iou + 100 * fidelity + 0.01 * filtered, of_iou


def tskd(student: Outputs, teacher: Outputs, boxes: Boxes) -> tuple[Tensor, Tensor]:
    """TS + 0.1 AH + 100 target response, all mean squared errors, and the first two alone."""
    of_iou = predictions(student, teacher, boxes, functional.mse_loss)
    response = torch.zeros_like(of_iou)
    for layer in LAYERS:
        maps, patches = [], []
        for network in (student, teacher):
            patch = target_patch(network.ref[layer], boxes, STRIDES[layer])
            weight = correlation(network.test[layer], patch)
            maps.append((network.test[layer] * (weight / weight.sum())[:, None]).abs().sum(1))
            patches.append(patch.abs().sum(1))
        response = response + functional.mse_loss(patches[0], patches[1]) + functional.mse_loss(maps[0], maps[1])
    return of_iou + 100 * response, of_iou


def predictions(student: Outputs, teacher: Outputs, boxes: Boxes, regress: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """TS + 0.1 AH; whether AH counts is asked of the device."""
    label = iou_label(boxes.proposals, boxes.test_box)
    soft, hard = regress(student.prediction, teacher.prediction), regress(student.prediction, label)
    close = bool(regress(teacher.prediction, label) - hard < 0.005)
    return soft + 0.1 * hard if close else soft


OBJECTIVES = {"atom_cfkd": cfkd, "atom_tskd": tskd}
"""Setting -> its objective"""


class PublicStep:
    """A whole step: both networks, the objective, backward, Adam, the numbers for the log."""

    def __init__(self, student: Tracker, teacher: Tracker, setting: str) -> None:
        """setting: one of OBJECTIVES."""
        self.student, self.teacher = student.train(), teacher.train()
        teacher.requires_grad_(False)
        student.feature_extractor.stop_unused()
        self.objective = OBJECTIVES[setting]
        self.optimizer = torch.optim.Adam([value for value in student.parameters() if value.requires_grad], lr=1e-2)

    def __call__(self, batch: Batch) -> dict[str, float]:
        """One step on a batch; what the public trainer logs of it."""
        loss, of_iou = self.objective(outputs(self.student, batch), outputs(self.teacher, batch), batch.boxes)
        logged = {"Loss/total": loss.item(), "Loss/iou": of_iou.item()}
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return logged
