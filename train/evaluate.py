"""How good a student is on the validation pairs: the losses it is trained on, and how well it tells overlap.

Letters: B pairs, N proposals. Boxes (x, y, w, h), crop pixels.

iou_error: ATOM: mean |predicted IoU - true IoU| over all proposals, in IoU units (a label is 2 IoU - 1). DRNet: mean of 1 - IoU of
the box that its four numbers make of a proposal with the target.
correlation: Pearson's, of predicted with true IoU over all proposals (DRNet: of the predicted numbers with their labels).
jittered_iou, refined_iou: mean IoU of the proposals with the target, as they are and refined as the online tracker refines its boxes;
refinement_gain: their difference. What a tracker makes of the network in one frame, so nearer to tracking than the other two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from configs import RunError
from configs.tracking import RefinementConfig
from kdlosses.labels import label
from models.refine import boxes_of_numbers, refine, step_pixels
from pairs.batch import Batch, Boxes
from pairs.boxes import box_iou

PREFIXES = ("", "second_")


class Agreement:
    """Sums over batches from which both numbers follow, kept on the device: one synchronisation at the end."""

    def __init__(self, device: torch.device) -> None:
        # count, |error|; count, x, y, xx, yy, xy
        self.sums = torch.zeros(8, dtype=torch.float64, device=device)

    def add(self, prediction: Tensor, boxes: Boxes) -> None:
        """prediction (B, N) labels or (B, N, 4) box numbers."""
        wanted = label(boxes, 1 if prediction.ndim == 2 else 4)
        if prediction.ndim == 2:
            # IoU units; correlation is the same in both
            prediction, wanted = (prediction + 1) / 2, (wanted + 1) / 2
            error = (prediction - wanted).abs()
        else:
            error = 1 - box_iou(boxes_of_numbers(prediction, boxes.proposals), boxes.test_box[:, None])
        x, y, error = prediction.double().flatten(), wanted.double().flatten(), error.double()
        count, size = x.new_full((), x.numel()), x.new_full((), error.numel())
        self.sums += torch.stack([size, error.sum(), count, x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()])

    def result(self) -> dict[str, float]:
        """iou_error and correlation; NaN where nothing was added or nothing varies."""
        errors, error, n, x, y, xx, yy, xy = self.sums.tolist()
        if not n:
            return {"iou_error": float("nan"), "correlation": float("nan")}
        # clamped: rounding may leave a tiny negative variance where nothing varies
        spread = max(n * xx - x * x, 0.0) * max(n * yy - y * y, 0.0)
        return {"iou_error": error / errors, "correlation": (n * xy - x * y) / spread**0.5 if spread > 0 else float("nan")}


def chosen_boxes(prediction: Tensor, boxes: Boxes) -> Tensor:
    """What a tracker would answer: ATOM the proposal with the highest prediction, DRNet the mean refined box. (B, 4)."""
    if prediction.ndim == 2:
        rows = torch.arange(len(prediction), device=prediction.device)
        return boxes.proposals[rows, prediction.argmax(1)]
    return boxes_of_numbers(prediction, boxes.proposals).mean(1)


class Validation:
    """Collects one validation."""

    def __init__(self, students: int, device: torch.device) -> None:
        self.device = device
        self.agreements = [Agreement(device) for _ in range(students)]
        self.teacher = Agreement(device)
        self.totals: dict[str, Tensor] = {}
        self.weight = 0
        self.refined_pairs = 0
        # of each student and of the teacher: proposals, sum of their IoU before and after
        self.gains = torch.zeros(students + 1, 3, dtype=torch.float64, device=device)

    def add(self, terms: Mapping[str, Tensor], predictions: Iterable[Tensor], boxes: Boxes, teacher: Tensor | None) -> None:
        """One batch: its named terms (weighted by its pairs in the mean), each student's predictions and, where known, the teacher's."""
        count = len(boxes)
        self.weight += count
        for name, term in terms.items():
            value = term.detach().double() * count
            self.totals[name] = self.totals[name] + value if name in self.totals else value
        for agreement, prediction in zip(self.agreements, predictions, strict=True):
            agreement.add(prediction, boxes)
        if teacher is not None:
            self.teacher.add(teacher.float(), boxes)

    def refine(self, trackers: Sequence[Any], batch: Batch, config: RefinementConfig, most: int) -> None:
        """Refines the proposals of a batch with every student, and with the teacher where it comes behind them.

        Nothing more once `most` pairs have been.
        """
        if self.refined_pairs >= most:
            return
        boxes = batch.boxes
        self.refined_pairs += len(boxes)
        step = step_pixels(config.step, boxes.test.size, boxes.test.area_factor)
        before = box_iou(boxes.proposals, boxes.test_box[:, None]).double()
        assert len(self.gains) - 1 <= len(trackers) <= len(self.gains)
        for sums, tracker in zip(self.gains, trackers, strict=False):
            refined = refine(tracker, (batch.ref, batch.test), boxes.ref_box, boxes.proposals, config.steps, step)
            after = box_iou(refined, boxes.test_box[:, None]).double()
            sums += torch.stack([before.new_full((), before.numel()), before.sum(), after.sum()])

    def result(self) -> dict[str, Any]:
        """loss, terms, iou_error, correlation and the refinement's numbers (those of a second student behind `second_`), and the teacher's
        behind `teacher_`.

        Under torch.distributed the sums of all processes; every process must call it.
        """
        names = self._names()
        agreements = (*self.agreements, self.teacher)
        weight = torch.tensor([self.weight], dtype=torch.float64, device=self.device)
        totals = [self.totals.get(name, torch.zeros_like(weight[0])) for name in names]
        shared = torch.cat([torch.stack(totals), *(agreement.sums for agreement in agreements), self.gains.flatten(), weight])
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(shared)
        values = shared[: len(names)] / shared[-1]
        for index, agreement in enumerate(agreements):
            agreement.sums = shared[len(names) + 8 * index : len(names) + 8 * (index + 1)]
        self.gains = shared[-1 - self.gains.numel() : -1].reshape(self.gains.shape)
        terms = dict(zip(names, values.tolist(), strict=True))
        numbers: dict[str, Any] = {"loss": sum(terms.values()), "terms": terms}
        for prefix, agreement in zip(PREFIXES, self.agreements, strict=False):
            numbers |= {prefix + name: value for name, value in agreement.result().items()}
        prefixes = (*PREFIXES[: len(self.agreements)], "teacher_")
        for prefix, (boxes, before, after) in zip(prefixes, self.gains.tolist(), strict=True):
            if boxes:
                gain = {"jittered_iou": before / boxes, "refined_iou": after / boxes, "refinement_gain": (after - before) / boxes}
                numbers |= {prefix + name: value for name, value in gain.items()}
        if self.teacher.sums[0] > 0:
            numbers |= {f"teacher_{name}": value for name, value in self.teacher.result().items()}
        return numbers

    def _names(self) -> list[str]:
        """The terms, of all processes: one that had no share of the pairs has seen none."""
        names = list(self.totals)
        if torch.distributed.is_initialized():
            of_all: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(of_all, names)
            names = [name for some in of_all for name in some]
        return sorted(set(names))


def require_finite(epoch: int, result: dict[str, Any]) -> None:
    """RunError naming what of a validation is not finite (a correlation may be none, where nothing varies)."""
    bad = [f"{name} = {value}" for name, value in {**result["terms"], "iou_error": result["iou_error"]}.items() if not math.isfinite(value)]
    if bad:
        raise RunError(
            f"validation after epoch {epoch}: expected finite numbers, found {', '.join(bad)};"
            " lower train.lr or the weight of that loss and start a run of another train.name"
        )


def summary(epoch: int, result: dict[str, Any]) -> str:
    """A validation in one line."""
    line = f"validation after epoch {epoch}: loss {result['loss']:.4g}, IoU error {result['iou_error']:.4f},"
    line += f" correlation {_shown(result['correlation'])}"
    if "teacher_iou_error" in result:
        line += f" (teacher: {result['teacher_iou_error']:.4f}, {_shown(result['teacher_correlation'])})"
    if "refinement_gain" in result:
        line += f", refinement {result['jittered_iou']:.3f} to {result['refined_iou']:.3f} IoU"
    if "teacher_refinement_gain" in result:
        line += f" (teacher: to {result['teacher_refined_iou']:.3f})"
    return line


def _shown(correlation: float) -> str:
    return f"{correlation:.3f}" if math.isfinite(correlation) else "-"
