"""The bookkeeping of recorded steps, with a stand-in for CUDA's graphs; tests/gpu compares real ones with steps that are launched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from configs.schema import TrainConfig
from pairs.batch import Batch
from tests.steps import config_of, random_batch
from train.graphed import WARM, GraphedStep, wanted

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class Graph:
    """Replays by computing again on what the recording was given, into the memory that the recording wrote."""

    made: ClassVar[list[Graph]] = []

    def __init__(self) -> None:
        self.again: Any = None
        self.replays = 0
        self.made.append(self)

    def pool(self) -> tuple[int, int]:
        return 0, 1

    def replay(self) -> None:
        self.replays += 1
        self.again()


class Model:
    """A loss of two parameters, of which fresh batches reach one alone."""

    def __init__(self) -> None:
        self.weights = [nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(-1.0))]
        self.calls = 0

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        self.calls += 1
        loss = self.weights[0] * batch.ref.mean()
        loss = loss if batch.fresh else loss + self.weights[1] * batch.targets["iou/iou"].mean()
        loss.backward()
        return {"loss": loss.detach()}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    made = Model()

    @contextmanager
    def recording(graph: Graph, **_: Any) -> Iterator[None]:
        given: list[Batch] = []
        plain = made.terms

        def noted(batch: Batch) -> dict[str, Tensor]:
            given.append(batch)
            return plain(batch)

        step.compute = noted
        yield
        step.compute = plain
        gradients = [weight.grad for weight in made.weights]

        def again() -> None:
            kept = [weight.grad for weight in made.weights]
            for weight in made.weights:
                weight.grad = None
            fresh = plain(given[0])
            for gradient, weight in zip(gradients, made.weights, strict=True):
                if gradient is not None and weight.grad is not None:
                    gradient.copy_(weight.grad)
            for weight, gradient in zip(made.weights, kept, strict=True):
                weight.grad = gradient
            found = next(of for of in step.recorded.values() if of.graph is graph)
            for name, value in fresh.items():
                found.terms[name].copy_(value)

        graph.again = again

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    Graph.made.clear()
    step: Any = GraphedStep(made.terms, made.weights, lambda line: None)
    made.step = step  # type: ignore[attr-defined]
    return made


def batches(count: int) -> list[Batch]:
    """Replayed ones with targets and fresh ones without, in turns."""
    config, made = config_of("ts"), []
    for number in range(count):
        batch = random_batch(config, CPU, number)
        batch.fresh = number % 2 == 1
        batch.targets = {} if batch.fresh else {"iou/iou": torch.randn(4, 16)}
        made.append(batch)
    return made


def test_terms_and_gradients_are_those_of_the_step_itself(model):
    step, plain = model.step, Model()
    for batch in batches(2 * WARM + 8):
        for weight in plain.weights:
            weight.grad = None
        found, sought = step(batch, batch.fresh), plain.terms(batch)
        torch.testing.assert_close(found["loss"], sought["loss"])
        for weight, other in zip(model.weights, plain.weights, strict=True):
            assert (weight.grad is None) == (other.grad is None)
            assert other.grad is None or torch.equal(weight.grad, other.grad)
    assert [graph.replays for graph in Graph.made] == [4, 4]


def test_a_batch_of_another_shape_is_a_kind_of_its_own(model):
    step, (batch, *_) = model.step, batches(1)
    for _ in range(WARM + 1):
        step(batch, False)
    assert len(step.recorded) == 1
    short = random_batch(config_of("ts"), CPU)
    short.ref, short.targets = short.ref[:2], batch.targets
    step(short, False)
    assert len(step.recorded) == 1 and sorted(step.done.values()) == [1, WARM]


def test_after_clear_steps_are_recorded_anew(model):
    step, (batch, *_) = model.step, batches(1)
    for _ in range(WARM + 2):
        step(batch, False)
    step.clear()
    assert not step.recorded and all(weight.grad is None for weight in model.weights)
    step(batch, False)
    assert len(Graph.made) == 2


def test_where_recording_fails_a_line_says_so_and_steps_go_on(model, monkeypatch):
    lines: list[str] = []
    step, (batch, *_) = model.step, batches(1)
    step.say = lines.append

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", broken)
    for _ in range(WARM + 3):
        terms = step(batch, False)
    assert terms["loss"].isfinite() and model.weights[0].grad is not None and model.calls == WARM + 3
    (line,) = lines
    assert line.startswith("CUDA graph: failed (operation not permitted when stream is capturing); goes on")


@pytest.mark.parametrize(
    ("switch", "device", "processes", "expected"),
    [(True, CUDA, 1, True), (False, CUDA, 1, False), (True, CPU, 1, False), (True, CUDA, 2, False)],
)
def test_steps_are_recorded_on_a_gpu_by_one_process(switch, device, processes, expected):
    assert wanted(TrainConfig(cuda_graph=switch), device, processes) is expected
