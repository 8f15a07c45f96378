"""A compiled step has the numbers of the plain one; it is compiled where that pays; a compiler that fails costs a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from configs import RunError
from configs.schema import ImageConfig, TrainConfig
from kdlosses import build_objectives, compute, layers_of
from models import build
from pairs.batch import Boxes
from train import compiled
from train.compiled import CompiledStep
from train.students import Step, build_students

AUTO = {"compile": "auto"}
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def whole_step(world: Any, setting: str) -> tuple[Step, tuple[Any, ...]]:
    """A step of a setting at a small size, and what it takes."""
    config = world.config(setting=setting)
    students, _ = build_students(config)
    objective = build_objectives(config, "atom_resnet18tiny")[0]
    torch.manual_seed(0)
    ref, test = torch.randn(2, 3, 3, 32, 32).unbind()
    box = torch.tensor([[8.0, 9, 12, 11]] * 3)
    boxes = Boxes(box, box + 1, box[:, None] + 4 * torch.rand(3, 4, 4), ImageConfig(size=32), ImageConfig(size=32))
    teacher = build("atom_resnet18tiny")
    with torch.no_grad():
        seen = teacher(ref, test, box, boxes.proposals, layers_of(objective.needs.targets))
    targets = compute(objective.needs.targets, seen, boxes, objective.projection)
    return Step(students, objective, "float32", CPU), (ref, test, boxes, targets)


def numbers(step: nn.Module, call: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[dict[str, Tensor], list[Tensor]]:
    step.zero_grad(set_to_none=True)
    terms, _ = call(*arguments, 0)
    torch.stack(list(terms.values())).sum().backward()
    return {name: term.detach() for name, term in terms.items()}, [value.grad for value in step.parameters() if value.grad is not None]


@pytest.mark.parametrize("setting", ["atom_cfkd", "atom_compression"])
def test_a_whole_step_is_one_graph_with_the_same_gradients(world, setting):
    step, arguments = whole_step(world, setting)
    plain = numbers(step, step, arguments)
    # traced and differentiated as the compiler does, run by PyTorch's own kernels: needs no C++ compiler
    traced = numbers(step, torch.compile(step, backend="aot_eager", fullgraph=True), arguments)
    assert plain[0].keys() == traced[0].keys() and len(plain[1]) == len(traced[1]) > 30
    for wanted, found in zip([*plain[0].values(), *plain[1]], [*traced[0].values(), *traced[1]], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


class Doubled(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return 2 * value


def broken(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("g++ found no\nmemory")


def test_a_compiler_that_fails_costs_a_line_or_where_it_was_asked_for_the_run():
    lines: list[str] = []
    step = CompiledStep(Doubled(), False, lines.append, backend=broken)
    assert float(step(torch.tensor(2.0))) == 4 and float(step(torch.tensor(3.0))) == 6
    (line,) = lines
    assert line.startswith("compile: failed (") and "g++ found no memory" in line and line.endswith("; goes on without")
    with pytest.raises(
        RunError, match=r"train\.compile: expected a step that compiles, found .*g\+\+ found no memory.*; set train\.compile=false"
    ):
        CompiledStep(Doubled(), True, lines.append, backend=broken)(torch.tensor(2.0))


@pytest.mark.parametrize(
    ("words", "device", "processes", "work", "missing", "wanted", "why"),
    [
        (AUTO, CPU, 1, 1e15, "", True, "the run is long"),
        (AUTO, CPU, 1, 1e12, "", False, "the run is too short"),
        (AUTO, CUDA, 1, 1e14, "", False, "the run is too short"),
        (AUTO, CUDA, 1, 1e15, "Triton", False, "no Triton here"),
        (AUTO, CUDA, 2, 1e15, "", False, "several processes"),
        ({"compile": True}, CPU, 2, 1.0, "C++ compiler", True, "train.compile=true"),
        ({"compile": False}, CPU, 1, 1e15, "", False, "train.compile=false"),
    ],
)
def test_a_step_is_compiled_where_that_pays(monkeypatch, words, device, processes, work, missing, wanted, why):
    monkeypatch.setattr(compiled, "missing_for", lambda device: missing)
    chosen, reason = compiled.choose(TrainConfig(**words), device, processes, work)
    assert chosen is wanted and reason.startswith(why)


def test_without_a_compiler_or_pythons_headers_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert compiled.missing_for(CPU) == "C++ compiler"
    (tmp_path / "g++").write_text("")
    (tmp_path / "g++").chmod(0o755)
    monkeypatch.setattr(compiled.sysconfig, "get_path", lambda name: str(tmp_path))
    assert compiled.missing_for(CPU) == "header files of Python (Python.h)"
    (tmp_path / "Python.h").write_text("")
    assert compiled.missing_for(CPU) == ""
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    assert compiled.missing_for(CUDA) == "Triton"


def test_what_is_left_of_the_published_run_is_long_and_the_demo_is_short():
    whole = {"atom_cfkd": 1.6e6 * 0.63e9, "demo": 20480 * 0.038e9}
    assert whole["atom_cfkd"] > max(compiled.LONG.values()) and whole["demo"] < min(compiled.LONG.values())
