"""The benchmark itself: it runs whole, its public step is right, and its guard sees what got worse."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import models
from bench import guard
from bench.__main__ import main, parser
from bench.ground import ready_batch
from bench.public import OBJECTIVES, PublicStep, correlation, outputs
from bench.turns import Length, Measured, ratio, take_turns
from configs import RequestError, RunError, load
from kdlosses import LiveTeacher, build_objectives
from pairs.batch import Batch

CPU = torch.device("cpu")
TINY = ("student.architecture=atom_resnet18tiny", "train.batch=2", *(f"pairs.{image}.size=64" for image in ("ref", "test")))


@pytest.mark.filterwarnings("ignore:Overriding a previously registered")
def test_a_short_run_measures_every_kind_and_writes_figures_and_trace(tmp_path, capsys):
    said = ["--size", "64", "--batch", "2", "--pairs", "8", "--height", "96", "--parts", "4", "--part-pairs", "8", "--device", "cpu"]
    small = ["student.architecture=atom_resnet18tiny", "teacher.architecture=atom_resnet18tiny", "teacher.batch=4", "train.feed=torch"]
    lengths = ["--warmup", "1", "--steps", "2", "--turns", "2", "--channels-last", "on"]
    kinds = ["student", "losses", "cached", "online", "public", "feed", "precompute", "reading"]
    before = torch.get_num_threads()
    arguments = [*said, *lengths, "--json", str(tmp_path / "a.json"), "--trace", str(tmp_path / "t.json"), "--only", *kinds, *small]
    assert main(arguments) == 0 and torch.get_num_threads() == before
    figures, tables = json.loads((tmp_path / "a.json").read_text()), capsys.readouterr().out
    assert set(figures["measured"]) == {*kinds, "frames", "teacher"}
    for name, of in figures["measured"].items():
        assert f"| {name} | " in tables and len(of["seconds"]) == 2 and min(of["seconds"]) > 0
        assert of["peak_bytes"] > 10**8 or name == "reading"
    # more work takes longer, by far more than any noise
    took = {name: of["ms"] for name, of in figures["measured"].items()}
    assert took["feed"] < took["cached"] and took["frames"] < took["precompute"] and took["reading"] < took["feed"]
    assert (
        figures["options"]["channels_last"] == "true"
        and figures["allocator"]
        and torch.__version__.startswith(figures["versions"]["torch"])
    )
    steps = {event["name"] for event in json.loads((tmp_path / "t.json").read_text())["traceEvents"]}
    assert {"cached", "public", "aten::convolution"} <= steps
    assert guard.main([str(tmp_path / "a.json"), "--reference", str(tmp_path / "a.json")]) == 0


def test_what_nobody_shortens_is_warm_and_long():
    options = parser("bench").parse_args([])
    assert options.warmup >= 30 and options.steps >= 100 and options.parts >= 4


def batch_of(setting: str) -> tuple[Batch, models.Tracker, models.Tracker]:
    torch.manual_seed(0)
    config = load(setting, TINY)
    student, teacher = models.build(config.student.architecture), models.build("atom_resnet18tiny")
    return ready_batch(2, config, CPU), student, teacher


@pytest.mark.parametrize("setting", OBJECTIVES)
def test_the_public_objective_is_that_of_the_setting(setting):
    """Value and gradients in eval mode, where passing the images one by one or together is the same."""
    batch, student, teacher = batch_of(setting)
    student.eval()
    objective = build_objectives(load(setting, TINY), "atom_resnet18tiny")[0]
    targets = LiveTeacher(models.TeacherNetwork(teacher)).targets(batch.ref, batch.test, batch.boxes, objective.needs.targets)
    own = student(batch.ref, batch.test, batch.boxes.ref_box, batch.boxes.proposals, models.LAYERS)
    wanted = torch.stack(list(objective(own, targets, batch.boxes).values())).sum()
    found, _ = OBJECTIVES[setting](outputs(student, batch), outputs(teacher, batch), batch.boxes)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=0)
    parameters = [student.get_parameter(name) for name in ("feature_extractor.layer1.0.conv1.weight", "bb_regressor.iou_predictor.weight")]
    for left, right in zip(torch.autograd.grad(found, parameters), torch.autograd.grad(wanted, parameters), strict=True):
        assert (left - right).norm() < 1e-3 * right.norm()


def test_the_public_correlation_is_a_sum_of_products():
    torch.manual_seed(0)
    test, patch = torch.randn(3, 2, 5, 6), torch.randn(3, 2, 3, 3)
    padded = functional.pad(test, (1, 1, 1, 1))
    wanted = torch.zeros(3, 5, 6)
    for y in range(5):
        for x in range(6):
            wanted[:, y, x] = (padded[:, :, y : y + 3, x : x + 3] * patch).sum((1, 2, 3))
    torch.testing.assert_close(correlation(test, patch), wanted)


def test_a_public_step_trains_the_student_and_lets_its_teacher_use_batch_statistics():
    batch, student, teacher = batch_of("atom_cfkd")
    before, statistics = copy.deepcopy(student.state_dict()), teacher.get_buffer("feature_extractor.bn1.running_mean").clone()
    weights = copy.deepcopy([*teacher.parameters()])
    logged = PublicStep(student, teacher, "atom_cfkd")(batch)
    assert logged.keys() == {"Loss/total", "Loss/iou"} and logged["Loss/total"] > logged["Loss/iou"] > 0
    assert not torch.equal(before["bb_regressor.iou_predictor.weight"], student.get_parameter("bb_regressor.iou_predictor.weight"))
    assert not torch.equal(statistics, teacher.get_buffer("feature_extractor.bn1.running_mean"))
    assert all(torch.equal(left, right) for left, right in zip(weights, teacher.parameters(), strict=True))


def test_kinds_take_turns_one_at_a_time_after_a_warmup():
    calls: list[str] = []
    kinds = {name: (lambda name=name: calls.append(name), 2) for name in ("a", "b")}
    measured = take_turns(kinds, Length(warmup=6, steps=4, turns=2), CPU)
    assert "".join(calls) == "a" * 8 + "b" * 8 + "a" * 3 + "b" * 3
    assert [len(of.seconds) for of in measured.values()] == [2, 2]


def test_a_ratio_is_taken_within_a_turn():
    found = ratio([2.0, 40.0, 6.0], [1.0, 10.0, 4.0])
    assert (found.value, found.least, found.most) == (2.0, 1.5, 4.0) and Measured([2.0, 40.0, 6.0]).ms == 6000


def written(path: Path, options: dict[str, object], **ratios: float) -> Path:
    facts = {"hardware": {"processor": "x", "threads": 1, "gpu": None}, "versions": {"torch": "2"}}
    of = {name.replace("_", "/"): {"value": value} for name, value in ratios.items()}
    path.write_text(json.dumps({**facts, "options": {"batch": 8} | options, "ratios": of}))
    return path


def test_the_guard_names_what_got_worse_and_nothing_else(tmp_path, capsys):
    reference = written(tmp_path / "r", {}, cached_student=1.2, feed_cached=0.02, cached_public=0.1)
    now = written(tmp_path / "n", {}, cached_student=1.25, feed_cached=0.03, cached_public=0.05)
    with pytest.raises(RunError, match=r"found feed/cached; measure again"):
        guard.main([str(now), "--reference", str(reference)])
    verdicts = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert verdicts == ["same", "WORSE", "better"]
    assert guard.main([str(now), "--reference", str(reference), "--tolerance", "0.6"]) == 0


def test_the_guard_compares_like_with_like(tmp_path):
    reference = written(tmp_path / "r", {}, cached_student=1.2)
    for other, message in (
        (written(tmp_path / "b", {"batch": 32}, cached_student=1.2), r"found batch 32, there 8"),
        (written(tmp_path / "k", {}, feed_cached=1.2), r"expected ratios that the reference has"),
        (tmp_path / "nothing", r"nothing: expected the JSON of"),
    ):
        with pytest.raises(RequestError, match=message):
            guard.main([str(other), "--reference", str(reference)])


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(("python", "code"), [("echo", 0), ("false", 1)])
def test_the_script_for_a_gpu_runs_every_part_and_tells_of_a_failure(tmp_path, python, code):
    script = Path(__file__).parents[2] / "bench" / "gpu.sh"
    done = subprocess.run(
        [script], env=os.environ | {"OUT": str(tmp_path / "out"), "PYTHON": python}, capture_output=True, text=True, check=False
    )
    log = (tmp_path / "out" / "log").read_text()
    parts = re.findall(r"^== (\w+): exit code (\d) after \d+ s of (\d+)$", log, re.MULTILINE)
    assert done.returncode == code and done.stdout == log
    assert [name for name, _, _ in parts] == ["versions", "tests", "usual", "bfloat16", "compiled", "precompute"]
    assert {int(got) for _, got, _ in parts} == {code} and sum(int(most) for _, _, most in parts) < 600
    # each benchmark is one that the command line takes
    for words in re.findall(r"^== \w+: -m bench (.*)$", log, re.MULTILINE):
        assert parser("bench").parse_args(words.split()).device == "cuda"
