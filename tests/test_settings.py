"""Every setting from one cache: grown setting by setting as a user would, then a few steps of each, with its own networks and losses."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import configs
import models
import precompute.__main__ as command
import train.run as runs
from cache import Cache
from configs import Config
from configs.cli import run
from kdlosses import TARGETS, Objective
from models import TeacherSpec
from tests.compare import digests, moved, state_of
from train import checkpoint
from train.log import read_metrics
from train.reports import run_folder
from train.students import build_students

STEPS = 2
PAIRS = ("pairs.count=48", "pairs.val_count=16", "pairs.ref.size=64", "pairs.test.size=64", "train.feed=torch")
QUICK = ("train.batch=4", f"train.batches={STEPS}", "train.epochs=1", "train.val_batches=1", "train.log_every=1", "train.device=cpu")
BARE = ("train.check_pairs=0", "train.pictures=0", "train.feed_threads=1")
# a random MobileNet stands for DRNet's ResNet-50, whose weights no test carries
DRNET = "teacher.architecture=drnet_mobilenetsmall"
# What each `make cache SETTING=...` adds for which teacher. No weights are given for ATOM's: the bundled demo teacher takes the part.
ATOM, BOX = models.DEMO_TEACHER.stem, "drnet_mobilenetsmall"
GROWTH: dict[str, set[tuple[str, str]]] = {
    "gt": set(),
    "atom_cfkd": {(ATOM, "iou"), (ATOM, "abs_sum")},
    "ts": set(),
    "ts_ah_cls": {(ATOM, "classifier")},
    "atom_tskd": {(ATOM, "response")},
    "atom_compression": {(ATOM, "projected")},
    "drnet_cfkd": {(BOX, "iou"), (BOX, "abs_sum")},
}
# Terms whose targets are the teacher's numbers; the others need none.
OF_TEACHER = {term for target in TARGETS.values() for term in target.needed_by}
# The demo's settings have a geometry of their own; here they take that of the others.
ONE_JITTER = ("pairs.test.center_jitter=4.5", "pairs.test.scale_jitter=0.5")


@dataclass(frozen=True)
class Place:
    """The folder with the demo's data, the caches and DRNet's weights; what each command added to the training cache."""

    folder: Path
    added: dict[str, set[tuple[str, str]]]
    changed: dict[str, list[str]]


@pytest.fixture(scope="module")
def place(demo_video: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The caches of both splits, filled by one command after the other."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("settings")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("DEMO_ROOT", demo_video), ("CACHE_DIR", folder / "caches"), ("TEACHONCE_INDEX", folder / "index")):
            patch.setenv(name, str(value))
        made = Place(folder, {}, {})
        for setting in GROWTH:
            others = [DRNET, f"teacher.weights={box_teacher(folder)}"] if setting == "drnet_cfkd" else []
            before, known = digests(folder / "caches"), targets(folder / "caches")
            given = ["cache", "--dataset", "demo", "--setting", setting, "--device", "cpu", "--threads", "1", *PAIRS, *others]
            assert run(command.main, given) == 0
            after = digests(folder / "caches")
            made.changed[setting] = [name for name in before if after.get(name) != before[name]]
            made.added[setting] = targets(folder / "caches") - known
        yield made


def box_teacher(folder: Path) -> Path:
    """Weights of a random DRNet whose BatchNorm has seen images: without, features of a new network grow from layer to layer."""
    torch.manual_seed(0)
    tracker = models.build(BOX)
    boxes = torch.tensor([[[16.0, 16, 24, 24]]]).repeat(4, 4, 1)
    with torch.no_grad():
        for _ in range(10):
            tracker(torch.randn(4, 3, 64, 64), torch.randn(4, 3, 64, 64), boxes[:, 0], boxes + torch.rand(4, 4, 4))
    models.save_weights(tracker, folder / "drnet.safetensors")
    return folder / "drnet.safetensors"


def targets(folder: Path) -> set[tuple[str, str]]:
    """(teacher, target) of the caches of both splits, which must hold the same, completely."""
    caches = [Cache.open(path) for path in sorted(folder.glob("demo-*"))]
    assert len(caches) in (0, 2) and all(not cache.pairs.missing() for cache in caches)
    held = [set(cache.targets()) for cache in caches] or [set()]
    assert all(unit.complete for cache in caches for unit in cache.targets().values())
    assert all(names == held[0] for names in held)
    return held[0]


def small(setting: str, folder: Path) -> Config:
    """The setting as it is, but for its length and the sizes of pictures and batches."""
    own = configs.load(setting)
    changes = ["dataset=demo", f"cache_dir={folder / 'caches'}", f"run_dir={folder / 'runs'}", *PAIRS, *QUICK, *BARE]
    if own.phases:
        changes.append("phases=" + json.dumps([{**phase.model_dump(mode="json"), "epochs": 1} for phase in own.phases]))
    if own.student.weights == "imagenet":
        changes.append("student.weights=null")  # nothing is fetched in a test
    if setting == "drnet_cfkd":
        changes.append(DRNET)
    if setting in ("demo", "demo_gt"):
        changes += ONE_JITTER
    return configs.load(setting, changes)


def test_each_setting_adds_only_its_targets_and_changes_no_old_byte(place):
    assert place.added == GROWTH
    assert not any(place.changed.values())
    assert {path.name.rsplit("-", 1)[0] for path in (place.folder / "caches").glob("demo-*")} == {"demo-train", "demo-val"}


@pytest.mark.parametrize("setting", configs.settings())
def test_a_setting_trains_from_the_cache_alone_with_its_own_losses_and_frozen_parts(place, setting, monkeypatch):
    config = small(setting, place.folder)
    ends: list[dict[str, torch.Tensor]] = []
    save, build = checkpoint.save, runs.build_objectives
    objectives: list[Objective] = []
    plain: list[dict[str, list[float]]] = []

    def watched(*arguments: Any) -> list[Objective]:
        objectives.extend(build(*arguments))
        plain.extend(unweighted(objective) for objective in objectives)
        return objectives

    monkeypatch.setattr(runs, "build_objectives", watched)

    def keep(folder: Path, position: Any, students: torch.nn.Module, *rest: Any) -> None:
        ends.append(state_of(students))
        save(folder, position, students, *rest)

    monkeypatch.setattr(checkpoint, "save", keep)
    monkeypatch.setattr(TeacherSpec, "load", lambda *_: pytest.fail("a run from the cache must not start a teacher"))
    folder = runs.run(config)
    phases = config.phases_or_one()

    steps = [line for line in read_metrics(folder) if line["kind"] == "train"]
    assert len(steps) == STEPS * len(phases) and len(ends) == len(phases)
    for number, phase in enumerate(phases):
        weights = {name: term.weight for name, term in phase.losses.active().items()}
        for step, line in enumerate(steps[STEPS * number : STEPS * (number + 1)]):
            assert line["phase"] == number + 1 and set(line["terms"]) == term_names(weights, config)
            assert line["loss"] == pytest.approx(sum(line["terms"].values())) and math.isfinite(line["loss"])
            for name, value in line["terms"].items():
                if not name.startswith("mutual_students"):
                    assert value == pytest.approx(weights[name.split("/")[-1]] * plain[number][name][step], rel=1e-5)

    trained = state_of(build_students(config)[0])
    for end, phase in zip(ends, phases, strict=True):
        assert moved(trained, end) == set(models.PARTS) - set(phase.freeze)
        trained = end

    files = [(config.student, run_folder.STUDENT), *([(config.second_student, run_folder.SECOND)] if config.second_student else [])]
    for number, (section, name) in enumerate(files):
        models.load_weights(models.build(section.architecture), folder / name)
        assert all(torch.equal(value, trained[f"trackers.{number}.{key}"]) for key, value in load_file(folder / name).items())


def unweighted(objective: Objective) -> dict[str, list[float]]:
    """Term -> its values without weight at the training steps, filled as the run goes on."""
    found: dict[str, list[float]] = {}
    for prefix, terms in zip(("dull/", "intelligent/") if objective.mutual else ("",), objective.terms, strict=True):
        assert isinstance(terms, torch.nn.ModuleDict)
        for name, module in terms.items():
            values = found.setdefault(prefix + name, [])
            module.register_forward_hook(
                lambda _module, _given, value, to=values: to.append(float(value.detach())) if torch.is_grad_enabled() else None
            )
    return found


def term_names(weights: dict[str, float], config: Config) -> set[str]:
    """The names that a phase's terms are logged by."""
    if config.second_student is None:
        return set(weights)
    return {
        f"{student}/{name}" if name != "mutual_students" else f"{name}/{student}" for student in ("dull", "intelligent") for name in weights
    }


@pytest.mark.parametrize("setting", configs.settings())
def test_the_plan_takes_teacher_numbers_from_the_cache_and_asks_none_for_the_rest(place, setting):
    config = small(setting, place.folder)
    _, _, plan = runs.prepare(config)
    assert not plan.needs_teacher
    rows = [(row.phase, row.term, row.weight, row.train, row.val) for row in plan.rows]

    def source(name: str, term: configs.schema.Term) -> str:
        return "cache" if name in OF_TEACHER and getattr(term, "wanted", "teacher") == "teacher" else "none"

    assert sorted(rows) == sorted(
        (number, name, term.weight, source(name, term), source(name, term))
        for number, phase in enumerate(config.phases_or_one())
        for name, term in phase.losses.active().items()
    )
