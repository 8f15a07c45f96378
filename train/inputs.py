"""What a run learns from: its caches, and the teacher whose numbers they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import models
from cache import Cache, diff
from configs import Config, RequestError
from configs.schema import TeacherConfig
from kdlosses import TARGETS, Objective, Sizes, needed_targets, sizes_of, target_spec
from models import TeacherSpec, choose_teacher, demo_teacher
from train.caches import names_of, open_caches
from train.plan import ABSENT, cache_command


@dataclass(frozen=True)
class Inputs:
    """The caches of a run and its teacher (None where the setting has none)."""

    train: tuple[Cache, ...]
    """one a data set"""
    val: tuple[Cache, ...]
    teacher: TeacherSpec | None

    def identity(self) -> dict[str, str]:
        """What a resumed run must find again."""
        facts = {split: " ".join(cache.fingerprint for cache in caches) for split, caches in (("train", self.train), ("val", self.val))}
        return facts | ({"teacher": self.teacher.digest} if self.teacher is not None else {})


def open_inputs(config: Config) -> Inputs:
    """The caches and the teacher of a configuration whose data set is named (`resolve_dataset`)."""
    train, val = open_caches(config, "train"), open_caches(config, "val")
    names = {name for cache in (*train, *val) for name in names_of(cache, config)}
    if unused := [name for name in config.train.caches if name not in names]:
        taken = ", ".join(cache.path.name for cache in (*train, *val))
        raise RequestError(f"train.caches: expected caches that fit this run, found {', '.join(unused)} beside {taken}; correct the names")
    return Inputs(train, val, find_teacher(config, *train, *val) if config.teacher is not None else None)


def find_teacher(config: Config, *caches: Cache) -> TeacherSpec:
    """Which teacher's numbers the run uses, and its weights if they are at hand.

    With teacher.weights the file decides: a cache that holds another file's numbers under that name is refused. Without,
    the caches decide, and the weights are at hand if the file that a cache records is still there and unchanged.

    Raises:
        RequestError: with the differences, where cache and configuration, or the two caches, disagree.
    """
    section = config.teacher
    assert section is not None
    spec = choose_teacher(section) if section.weights is not None else None
    if spec is None and section.name is None:
        spec = _stand_in(section, caches)
    if spec is None:
        name, architecture = section.name or section.architecture, section.architecture
        spec = TeacherSpec(name, architecture, None, "", section.dtype, section.batch, section.feature_bits)
    for cache in caches:
        if (cached := cache.teachers().get(spec.name)) is None:
            continue
        spec = spec if spec.digest else replace(spec, digest=str(cached.get("weights_sha256", "")))
        if lines := diff(cached, spec.identity()):
            raise RequestError(
                f"{cache.path}: teacher {spec.name}: expected targets of the wanted teacher, found another's ({'; '.join(lines)});"
                f" give the weights that the cache was made with, or name this teacher anew with teacher.name=NAME and run"
                f" `{cache_command(config, str(cache.identity.get('split', 'train')))}`"
            )
    return spec if spec.weights is not None else replace(spec, weights=_recorded_weights(caches, spec))


def _stand_in(section: TeacherConfig, caches: Sequence[Cache]) -> TeacherSpec | None:
    """The bundled demo teacher, where the caches know nothing of the wanted teacher but hold that one's numbers, as many a proposal."""
    wanted, of_demo = (models.ARCHITECTURES[name].numbers for name in (section.architecture, models.DEMO_TEACHER.stem))
    known = any(section.architecture in cache.teachers() for cache in caches)
    if wanted != of_demo or known or not models.DEMO_TEACHER.is_file():
        return None
    digests = [cache.teachers().get(models.DEMO_TEACHER.stem, {}).get("weights_sha256") for cache in caches]
    demo = demo_teacher(section) if any(digests) else None
    return demo if demo is not None and demo.digest in digests else None


def _recorded_weights(caches: Sequence[Cache], spec: TeacherSpec) -> Path | None:
    """The weights file that a cache's history records for this teacher, or the bundled one, if its content is still the same."""
    recorded = [record["teacher_weights"] for cache in caches for record in cache.history() if record.get("teacher") == spec.name]
    for path in dict.fromkeys([*reversed(recorded), str(models.DEMO_TEACHER)]):
        if path and spec.digest and Path(path).is_file() and models.weights_digest(path) == spec.digest:
            return Path(path)
    return None


def held(config: Config, caches: Sequence[Cache], teacher: TeacherSpec | None, objectives: Sequence[Objective]) -> dict[str, str]:
    """What all caches of a split hold of the targets that a run needs: "" for all, else why not. See `plan.Held`."""
    if teacher is None:
        return {}
    sizes, names = sizes_of(config, teacher), needed_targets(objectives)
    return {name: "; ".join(reason for cache in caches if (reason := _lacks(cache, teacher.name, name, sizes))) for name in names}


def _lacks(cache: Cache, teacher: str, name: str, sizes: Sizes) -> str:
    unit = cache.target(teacher, name)
    if unit is None:
        return ABSENT
    lines = diff(unit.identity, target_spec(name, sizes).identity)
    missing = len(unit.missing())
    return "; ".join(lines) if lines else f"{missing} of {cache.parts} parts missing" if missing else ""


def adopt_projection(objective: Objective, cache: Cache, teacher: TeacherSpec | None, cached: Sequence[str]) -> None:
    """Uses the projection that is stored beside the cached targets, where the objective has a fixed one."""
    if teacher is None or objective.projection is None:
        return
    units = [cache.target(teacher.name, name) for name in cached if TARGETS[name].projected]
    stored = {layer: torch.from_numpy(matrix) for unit in units if unit is not None for layer, matrix in unit.constants.items()}
    if stored:
        objective.use_projection(objective.projection | stored)
