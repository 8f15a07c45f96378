"""What a run learns from: its caches, and the teacher whose numbers they hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import configs
import models
from cache import Cache, diff, open_below
from cache.locate import fitting, has_pairs
from configs import Config, RequestError
from configs.hooks import frames
from configs.schema import TeacherConfig
from kdlosses import TARGETS, Objective, Sizes, needed_targets, sizes_of, target_spec
from models import TeacherSpec, choose_teacher, demo_teacher
from pairs.identity import pair_identity
from train.plan import ABSENT, cache_command, datasets_of

# Part of a cache's identity that no configuration states: the data set's frames need not be here to train from its cache.
UNSTATED = ("content_sha256",)


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


def resolve_dataset(config: Config) -> Config:
    """The configuration with its data set named: without one, that of the only training cache that fits.

    Raises:
        RequestError: no cache fits, or caches of several data sets do.
    """
    if config.dataset is not None:
        return config
    caches, faults = open_below(config.cache_dir)
    names = _fitting(config, caches)
    if len(names) != 1:
        unreadable = "".join(f" ({fault})" for fault in faults)
        listed = f"caches of {', '.join(sorted(names))}" if names else f"no cache that fits{unreadable}"
        remedy = "name one with dataset=NAME"
        if not names:
            other = other_sizes(config)
            sizes = f", or take the sizes of a setting whose caches are there with like={other}" if other else ""
            remedy = f"make one with `{cache_command(config, 'train')}`{sizes}"
        raise RequestError(f"{config.cache_dir}: expected the cache of one data set, found {listed}; {remedy}")
    return config.model_copy(update={"dataset": names.pop()})


def other_sizes(config: Config) -> str | None:
    """Where no training pair set of a configuration is there: the first setting of which there is one, what `like` may name."""
    caches, _ = open_below(config.cache_dir)
    if _fitting(config, caches):
        return None
    return next((name for name in configs.settings() if _fitting(configs.load(name), caches)), None)


def _fitting(config: Config, caches: Sequence[Cache]) -> set[str]:
    """The data sets of those caches that are training pair sets of this configuration, begun and of whatever count."""
    named = [(str(cache.identity.get("dataset")), cache.identity) for cache in caches if has_pairs(cache)]
    return {name for name, identity in named if not diff(identity, pair_identity(config.pairs, name, "train"), ignore=(*UNSTATED, "count"))}


def open_caches(config: Config, split: str) -> tuple[Cache, ...]:
    """The complete pair sets of a split, one a data set. RequestError naming the `make cache` that makes or finishes one."""
    return tuple(_open_caches(config, split))


def _open_caches(config: Config, split: str) -> Iterator[Cache]:
    for dataset, word in datasets_of(config, split).items():
        wanted = pair_identity(config.pairs, dataset, split)
        cache = _find(config, wanted, remedy=f"make it with `{cache_command(config, split, word)}`")
        if missing := cache.pairs.missing():
            raise RequestError(
                f"{cache.path}: expected all {cache.parts} parts of the pair set, found {len(missing)} missing;"
                f" finish it with `{cache_command(_with_count(config, split, cache.count), split, word)}` (finished parts are kept)"
            )
        yield cache.check_before_use(config.train.verify)


def _find(config: Config, wanted: dict[str, Any], remedy: str) -> Cache:
    """The pair set of the wanted count, or else the largest that differs in nothing but its count: what PAIRS=... made.

    RequestError: none; or what no configuration states, the data set's annotation, is not that of the data set on this machine; or, where
    the data set is not here, several caches differ in it.
    """
    caches = fitting(config.cache_dir, wanted, ignore=(*UNSTATED, "count"), remedy=remedy)
    named = [cache for cache in caches if names_of(cache, config) & {*config.train.caches}]
    caches = named or _of_one_content(config, caches, wanted, remedy)
    exact = [cache for cache in caches if cache.count == wanted["count"]]
    return max(exact or caches, key=lambda cache: cache.count)


def names_of(cache: Cache, config: Config) -> set[str]:
    """What train.caches may call a cache."""
    path = str(cache.path)
    return {path, cache.path.name, path.removeprefix(config.cache_dir.rstrip("/") + "/")}


def _of_one_content(config: Config, caches: list[Cache], wanted: dict[str, Any], remedy: str) -> list[Cache]:
    """Those of the data set as it is now, where it lies here; else all, if they are of one annotation."""
    (field,) = UNSTATED
    now = frames().content_at_hand(wanted["dataset"], wanted["split"]) if config.recut_pairs else None
    if now is not None and (same := [cache for cache in caches if cache.identity.get(field) == now]):
        return same
    named = "[" + ", ".join(cache.path.name for cache in caches) + "]"
    if now is not None:
        raise RequestError(
            f"{config.cache_dir}: expected a cache of the data set {wanted['dataset']} as it lies here ({field} {now:.12}...), found"
            f" {', '.join(f'{cache.path.name} ({cache.identity.get(field)!s:.12}...)' for cache in caches)}: its boxes, labels or lists"
            f" have changed; {remedy}, or take the old one with train.caches=[{caches[-1].path.name}]"
        )
    if len({cache.identity.get(field) for cache in caches}) > 1:
        raise RequestError(
            f"{config.cache_dir}: expected caches of one annotation of the data set {wanted['dataset']} ({wanted['split']}), found several"
            f" that differ in {field}: {named}; choose one with train.caches=[NAME], or remove the old ones"
        )
    return caches


def _with_count(config: Config, split: str, count: int) -> Config:
    field = "count" if split == "train" else "val_count"
    return config.model_copy(update={"pairs": config.pairs.model_copy(update={field: count})})


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
