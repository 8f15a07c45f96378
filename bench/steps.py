"""The kinds of training step that are measured, each a step of a real run: `train.loop.PhaseLoop.one_step` on the batches of its feed.

student   forward and backward of the student alone on ready tensors, in its fastest form: the floor of a step
losses    the objective alone, forward and backward, on the student's ready features and ready targets
cached    a step from the cache
online    the same, the teacher in every step
public    the step of the public code (`bench.public`), on the batches of the online run
feed      the next batch of the cache alone
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import torch
from torch import Tensor

import models
from bench.ground import Ground, ready_batch
from bench.public import PublicStep
from bench.turns import Work
from kdlosses import LiveTeacher, Objective
from models import Outputs
from pairs.batch import Batch, Boxes
from train.checkpoint import Position
from train.graphed import WARM
from train.halt import Halt
from train.log import RunLog
from train.loop import Meter, PhaseLoop, Setup
from train.run import feeds_of, prepare, students_of, teacher_of

KINDS = ("student", "losses", "cached", "online", "public", "feed")
LOGGED = 20
"""Steps between two log points, where a run gathers its numbers: the default of train.log_every"""


class Run:
    """The loop of a run's first phase and its training feed, ready to step."""

    def __init__(self, ground: Ground, place: ExitStack, *changes: str) -> None:
        """place: what closes the feeds."""
        config = ground.config(*changes)
        inputs, objectives, plan = prepare(config)
        position = Position(inputs=inputs.identity())
        log = RunLog(ground.folder / "run", 0, writes=False)
        setup = Setup(config, ground.device, 0, 1, inputs, plan, objectives, None, ground.folder / "run", log, Halt(None, 1))
        if plan.needs_teacher:
            setup.teacher = teacher_of(setup, position)
        students = students_of(setup, None)
        setup.compiles = config.train.compile is True
        self.loop = PhaseLoop(setup, students, 0, position)
        self.feed, val = feeds_of(setup, 0)
        place.enter_context(closing(self.feed))
        place.enter_context(closing(val))
        students.train()
        self.batches: Iterator[Batch] = self.feed.batches(0)
        self.meter = Meter(0.0)

    def step(self) -> None:
        """One step, and a log point where one is due."""
        self.loop.one_step(next(self.batches), self.meter)
        if len(self.meter.rows) == LOGGED:
            self.meter.means(LOGGED)
            self.meter = Meter(0.0)


def kinds(ground: Ground, names: Sequence[str], place: ExitStack) -> dict[str, Work]:
    """The named kinds of step with their pairs, in the order of KINDS."""
    pairs = ground.config().train.batch
    makers: dict[str, Callable[[], Callable[[], object]]] = {
        "student": lambda: student_alone(ground),
        "losses": lambda: losses_alone(ground),
        "cached": lambda: Run(ground, place).step,
        "online": lambda: Run(ground, place, "train.teacher=online").step,
        "public": lambda: public_step(ground, place),
        "feed": lambda: feed_alone(ground, place),
    }
    return {name: (makers[name](), pairs) for name in KINDS if name in names}


def student_alone(ground: Ground) -> Callable[[], object]:
    """Forward and backward of the student as it is fastest: channels_last, in the run's precision, compiled where the run is."""
    config, device = ground.config(), ground.device
    torch.manual_seed(0)
    student = models.build(config.student.architecture).to(device).to(memory_format=torch.channels_last)
    student.feature_extractor.stop_unused()
    batch = ready_batch(config.train.batch, config, device)
    ref, test = (images.contiguous(memory_format=torch.channels_last) for images in (batch.ref, batch.test))
    if config.train.compile is True:
        student.compile()

    def step() -> None:
        student.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bfloat16"):
            prediction = student(ref, test, batch.boxes.ref_box, batch.boxes.proposals).prediction
        prediction.square().mean().backward()

    return step if device.type != "cuda" else recorded(step)


def recorded(step: Callable[[], object]) -> Callable[[], object]:
    """A step on a GPU as a CUDA graph."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()

    def again() -> object:
        # a graph knows addresses alone, and writes there (BatchNorm's statistics): what lies there lives as long as `step` does
        graph.replay()
        return step

    return again


def losses_alone(ground: Ground) -> Callable[[], object]:
    """The objective on features and targets that are there."""
    config, device = ground.config(), ground.device
    inputs, objectives, _ = prepare(config)
    torch.manual_seed(0)
    student, batch = models.build(config.student.architecture).to(device), ready_batch(config.train.batch, config, device)
    objective, boxes = objectives[0].to(device), batch.boxes
    with torch.no_grad():
        outputs = student(batch.ref, batch.test, boxes.ref_box, boxes.proposals, models.LAYERS)
    targets: dict[str, Tensor] = {}
    if inputs.teacher is not None:
        live = LiveTeacher(inputs.teacher.load(device), inputs.teacher.feature_bits)
        targets = live.targets(batch.ref, batch.test, boxes, objective.needs.targets, objective.projection)
    return objective_alone(objective, outputs, targets, boxes)


def objective_alone(objective: Objective, outputs: Outputs, targets: dict[str, Tensor], boxes: Boxes) -> Callable[[], object]:
    """Forward, and backward to the given features."""
    maps = ({layer: value.detach().requires_grad_() for layer, value in of.items()} for of in (outputs.ref, outputs.test))
    given = Outputs(outputs.prediction.detach().requires_grad_(), *maps)
    wanted = [given.prediction, *(of[layer] for layer in objective.needs.student_layers for of in (given.ref, given.test))]
    # two students that say the same cost as much as any two
    students: Any = (given, given) if objective.mutual else given

    def step() -> object:
        total = torch.stack(list(objective(students, targets, boxes).values())).sum()
        return torch.autograd.grad(total, wanted, allow_unused=True)

    return step


def public_step(ground: Ground, place: ExitStack) -> Callable[[], object]:
    """What the public code does with the next batch."""
    config = ground.config("train.teacher=online")
    assert config.teacher is not None
    run = Run(ground, place, "train.teacher=online")
    torch.manual_seed(0)
    student, teacher = models.build(config.student.architecture), models.build(config.teacher.architecture)
    models.load_weights(teacher, ground.folder / "teacher.safetensors")
    step = PublicStep(student.to(ground.device), teacher.to(ground.device), config.setting)
    return lambda: step(next(run.batches))


def feed_alone(ground: Ground, place: ExitStack) -> Callable[[], object]:
    """The next batch, nothing done with it."""
    batches = Run(ground, place).batches
    return lambda: next(batches)
