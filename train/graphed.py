"""A step recorded once as a CUDA graph and replayed: a GPU that does hundreds of small kernels a step waits for whoever launches them.

Nothing of a step may be decided on the host (`torch.cuda.set_sync_debug_mode` holds the steps to that), shapes are those of the recording,
and the numbers are those of the step that is not recorded: the same kernels on the same inputs in the same order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from configs.schema import TrainConfig
from pairs.batch import Batch

WARM = 3
"""Steps of a kind that are done one kernel after the other first: they choose kernels, compile, and leave what later ones reuse"""
Terms = dict[str, Tensor]


def wanted(config: TrainConfig, device: torch.device, processes: int) -> bool:
    """Whether a run records its steps: on a GPU, and with one process (the averaging of gradients between processes is not recorded)."""
    return config.cuda_graph and device.type == "cuda" and processes == 1


@dataclass
class _Recorded:
    graph: torch.cuda.CUDAGraph
    given: Batch
    """what the graph reads"""
    terms: Terms
    gradients: list[Tensor | None]
    """of the parameters, in their order: what the graph writes"""


class GraphedStep:
    """Forward and backward of a step behind CUDA graphs, one for each kind of step (fresh images or not, and what the caller names)."""

    def __init__(self, compute: Callable[[Batch], Terms], parameters: Iterable[nn.Parameter], say: Callable[[str], None]) -> None:
        """compute: from a batch to the terms, detached, gradients left in the parameters, which had none; say: is told of a failure."""
        self.compute, self.say = compute, say
        self.parameters = list(parameters)
        self.done: dict[Hashable, int] = {}
        self.recorded: dict[Hashable, _Recorded] = {}
        self.present: _Recorded | None = None
        self.pool: Any = None
        self.works = True

    def __call__(self, batch: Batch, kind: Hashable) -> Terms:
        """The terms of a step; the parameters' gradients are those of this step alone. Both are overwritten by the next call."""
        key = (kind, _shapes(batch))
        if self.works and key not in self.recorded and self.done.get(key, 0) >= WARM:
            self._record(batch, key)
        found = self.recorded.get(key)
        if found is None:
            self.done[key] = self.done.get(key, 0) + 1
            self._forget()
            return self.compute(batch)
        torch._foreach_copy_(_tensors(found.given), _tensors(batch), non_blocking=True)
        found.graph.replay()
        if self.present is not found:
            for parameter, gradient in zip(self.parameters, found.gradients, strict=True):
                parameter.grad = gradient
            self.present = found
        return found.terms

    def clear(self) -> None:
        """Lets go of what is recorded: something that a recording takes for granted has changed."""
        self._forget()
        self.recorded.clear()
        self.pool = None

    def _forget(self) -> None:
        """Leaves no gradient behind: the next backward pass makes its own, instead of adding to those of a graph."""
        self.present = None
        for parameter in self.parameters:
            parameter.grad = None

    def _record(self, batch: Batch, key: Hashable) -> None:
        """Records a step of this kind; where that fails, says so and leaves it at single kernels."""
        self._forget()
        graph, given = torch.cuda.CUDAGraph(), _copy(batch)
        try:
            # thread_local: the threads of the feed go on allocating and copying meanwhile
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                terms = self.compute(given)
        # whatever CUDA, a library below it or a compiler may raise
        except Exception as error:
            self.works = False
            self._forget()
            self.say(f"CUDA graph: failed ({' '.join(str(error).split())[:200]}); goes on without (train.cuda_graph=false)")
            return
        self.pool = graph.pool()
        self.recorded[key] = _Recorded(graph, given, terms, [parameter.grad for parameter in self.parameters])


def _tensors(batch: Batch) -> list[Tensor]:
    """Everything of a batch that lies on the device, in a fixed order."""
    boxes = batch.boxes
    return [batch.ref, batch.test, boxes.ref_box, boxes.test_box, boxes.proposals, *(batch.targets[key] for key in sorted(batch.targets))]


def _shapes(batch: Batch) -> tuple[Hashable, ...]:
    """What a recording takes for granted of a batch."""
    return (*sorted(batch.targets), *((tensor.shape, tensor.dtype) for tensor in _tensors(batch)))


def _copy(batch: Batch) -> Batch:
    """The same numbers in memory of their own."""
    boxes = dataclasses.replace(batch.boxes, **{name: getattr(batch.boxes, name).clone() for name in ("ref_box", "test_box", "proposals")})
    targets = {key: value.clone() for key, value in batch.targets.items()}
    return dataclasses.replace(batch, ref=batch.ref.clone(), test=batch.test.clone(), boxes=boxes, targets=targets)
