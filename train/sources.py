"""What a run learns from: the two caches, and the teacher whose numbers they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import configs
import models
from cache import Cache, caches_below, diff, find
from configs import Config, RequestError, pair_identity
from kdlosses import TARGETS, Objective, build_objective
from kdlosses.projection import Projection
from models.preprocess import VERSION as PREPROCESS_VERSION
from train.plan import ABSENT, cache_command

# Part of a cache's identity that no configuration states: the data set's frames need not be here to train from its cache.
UNSTATED = ("content_sha256",)


@dataclass(frozen=True)
class TeacherSource:
    """The teacher of a run, as the caches name it and as its weights file proves it."""

    name: str
    """of its group in the caches"""
    architecture: str
    identity: dict[str, Any]
    """what its cached numbers must have been made with"""
    weights: Path | None
    """its file, if at hand"""
    dtype: str
    note: str = ""
    """a line for the user, where something is not as the setting says"""
    feature_bits: int | None = None
    """mantissa bits of the targets that are whole features; None: all of float16"""

    def load(self, device: torch.device) -> models.Teacher:
        """The frozen network on the device. RequestError without weights."""
        if self.weights is None:
            raise RequestError(f"teacher {self.name}: expected its weights, found none at hand; give teacher.weights=FILE")
        tracker = models.build(self.architecture)
        models.load_weights(tracker, self.weights)
        return models.Teacher(tracker, self.dtype).to(device)

    @property
    def channels(self) -> dict[str, int]:
        """layer -> channels."""
        return models.network_sizes(self.architecture)[0]


@dataclass(frozen=True)
class Sources:
    """The caches of a run and its teacher (None where the setting has none)."""

    train: tuple[Cache, ...]
    """one a data set"""
    val: tuple[Cache, ...]
    teacher: TeacherSource | None

    def identity(self) -> dict[str, str]:
        """What a resumed run must find again."""
        found = {split: " ".join(one.fingerprint for one in caches) for split, caches in (("train", self.train), ("val", self.val))}
        if self.teacher is not None:
            found["teacher"] = str(self.teacher.identity.get("weights_sha256", ""))
        return found


def resolve_dataset(config: Config) -> Config:
    """The configuration with its data set named: without one, that of the only training cache that fits.

    Raises:
        RequestError: no cache fits, or caches of several data sets do.
    """
    if config.dataset is not None:
        return config
    names = _fitting(config, _identities(config))
    if len(names) != 1:
        found = f"caches of {', '.join(sorted(names))}" if names else "no cache that fits"
        remedy = "name one with dataset=NAME"
        if not names:
            other = other_sizes(config)
            sizes = f", or take the sizes of a setting whose caches are there with like={other}" if other else ""
            remedy = f"make one with `{cache_command(config, 'train')}`{sizes}"
        raise RequestError(f"{config.cache_dir}: expected the cache of one data set, found {found}; {remedy}")
    return config.model_copy(update={"dataset": names.pop()})


def other_sizes(config: Config) -> str | None:
    """Where no training pair set of a configuration is there: the first setting of which there is one, what `like` may name."""
    identities = _identities(config)
    if _fitting(config, identities):
        return None
    return next((name for name in configs.settings() if _fitting(configs.load(name), identities)), None)


def _identities(config: Config) -> list[dict[str, Any]]:
    """Of every cache in the configuration's directory."""
    return [Cache.open(path).identity for path in caches_below(config.cache_dir)]


def _fitting(config: Config, identities: Sequence[Mapping[str, Any]]) -> set[str]:
    """The data sets of those caches that are training pair sets of this configuration, whatever their count."""
    named = [(str(identity.get("dataset")), identity) for identity in identities]
    return {name for name, identity in named if not diff(identity, pair_identity(config.pairs, name, "train"), ignore=(*UNSTATED, "count"))}


def open_caches(config: Config, split: str) -> tuple[Cache, ...]:
    """The complete pair sets of a split, one a data set. RequestError naming the `make cache` that makes or finishes one."""
    datasets = config.dataset if split == "train" else (config.val_dataset or config.dataset)
    found = []
    for dataset in str(datasets).split():
        wanted = pair_identity(config.pairs, dataset, split)
        one = _find(config, wanted, remedy=f"make it with `{cache_command(config, split, dataset)}`")
        if missing := one.pairs.missing():
            raise RequestError(
                f"{one.path}: expected all {one.parts} parts of the pair set, found {len(missing)} missing;"
                f" finish it with `{cache_command(_with_count(config, split, one.count), split, dataset)}` (finished parts are kept)"
            )
        found.append(one)
    return tuple(found)


def _find(config: Config, wanted: dict[str, Any], remedy: str) -> Cache:
    """The pair set of the wanted count, or else the largest that differs in nothing but its count: what PAIRS=... made."""
    try:
        return find(config.cache_dir, wanted, ignore=UNSTATED, remedy=remedy)
    except RequestError:
        return find(config.cache_dir, wanted, ignore=(*UNSTATED, "count"), remedy=remedy)


def _with_count(config: Config, split: str, count: int) -> Config:
    field = "count" if split == "train" else "val_count"
    return config.model_copy(update={"pairs": config.pairs.model_copy(update={field: count})})


def open_sources(config: Config) -> Sources:
    """Both caches and the teacher of a configuration whose data set is named (`resolve_dataset`)."""
    train, val = open_caches(config, "train"), open_caches(config, "val")
    return Sources(train, val, find_teacher(config, *train, *val) if config.teacher is not None else None)


def find_teacher(config: Config, *caches: Cache) -> TeacherSource:
    """Which teacher's numbers the run uses, and its weights if they are at hand.

    With teacher.weights the file decides: a cache that holds another file's numbers under that name is refused. Without,
    the caches decide, and the weights are at hand if the file that a cache records is still there and unchanged.

    Raises:
        RequestError: with the differences, where cache and configuration, or the two caches, disagree.
    """
    section = config.teacher
    assert section is not None
    name, architecture, weights, note = section.name or section.architecture, section.architecture, section.weights, ""
    if weights is None and section.name is None and _demo_stands_in(caches, name):
        name = architecture = models.DEMO_TEACHER.stem
        weights = str(models.DEMO_TEACHER)
        note = (
            f"warning: teacher: expected {section.architecture}, found no targets of it; goes on with those of the bundled demo teacher"
            f" ({name}, trained on generated video): good for trials, not for results"
        )
    wanted: dict[str, Any] = {"architecture": architecture, "dtype": section.dtype, "preprocess_version": PREPROCESS_VERSION}
    if weights is not None:
        if not Path(weights).is_file():
            raise RequestError(f"teacher.weights: expected a weights file, found none at {weights}; correct teacher.weights")
        wanted["weights_sha256"] = models.weights_digest(weights)
    for one in caches:
        if name not in one.teachers():
            continue
        cached, split = one.teachers()[name], str(one.identity.get("split", "train"))
        wanted.setdefault("weights_sha256", cached.get("weights_sha256"))
        if lines := diff(cached, wanted):
            raise RequestError(
                f"{one.path}: teacher {name}: expected targets of the wanted teacher, found another's ({'; '.join(lines)});"
                f" give the weights that the cache was made with, or name this teacher anew with teacher.name=NAME and run"
                f" `{cache_command(config, split)}`"
            )
    path = Path(weights) if weights is not None else _recorded_weights(caches, name, wanted.get("weights_sha256"))
    return TeacherSource(name, architecture, wanted, path, section.dtype, note, section.feature_bits)


def _demo_stands_in(caches: Sequence[Cache], name: str) -> bool:
    """Whether the caches know nothing of the wanted teacher, but hold the bundled demo teacher's numbers."""
    if any(name in one.teachers() for one in caches) or not models.DEMO_TEACHER.is_file():
        return False
    digests = [one.teachers().get(models.DEMO_TEACHER.stem, {}).get("weights_sha256") for one in caches]
    return any(digests) and models.weights_digest(models.DEMO_TEACHER) in digests


def _recorded_weights(caches: Sequence[Cache], name: str, digest: str | None) -> Path | None:
    """The weights file that a cache's history records for this teacher, or the bundled one, if its content is still the same."""
    recorded = [record["teacher_weights"] for one in caches for record in one.history() if record.get("teacher") == name]
    for path in dict.fromkeys([*reversed(recorded), str(models.DEMO_TEACHER)]):
        if path and digest and Path(path).is_file() and models.weights_digest(path) == digest:
            return Path(path)
    return None


def objectives(config: Config, teacher: TeacherSource | None) -> list[Objective]:
    """The objective of each phase."""
    channels, numbers = models.network_sizes(config.student.architecture)
    second = models.network_sizes(config.second_student.architecture) if config.second_student is not None else None
    sizes = models.network_sizes(teacher.architecture) if teacher is not None else None
    for other, what in ((second, "second_student"), (sizes, "teacher")):
        if other is not None and other[1] != numbers:
            raise RequestError(
                f"{what}.architecture: expected {numbers} number(s) a proposal as {config.student.architecture} has, found {other[1]};"
                " pair an atom_ network with an atom_ network and a drnet_ with a drnet_"
            )
    made = []
    for phase in config.phases_or_one():
        mutual = second[0] if second is not None and phase.losses.mutual_students is not None else None
        made.append(build_objective(phase.losses, channels, sizes[0] if sizes else None, numbers, mutual))
    return made


def target_identity(name: str, objective: Objective, feature_bits: int | None) -> dict[str, Any]:
    """What a cached target must have been made with, beside the teacher."""
    facts = TARGETS[name].identity(feature_bits)
    for key, value in objective.target_identity.get(name, {}).items():
        facts["projection_seed" if key == "seed" else key] = value
    return facts


def held(caches: Sequence[Cache], teacher: TeacherSource | None, objective: Objective) -> dict[str, str]:
    """What all caches of a split hold of the targets that an objective needs: "" for all, else why not. See `plan.Held`."""
    if teacher is None:
        return {}
    return {
        target: "; ".join(reason for one in caches if (reason := _lacks(one, teacher, target, objective)))
        for target in objective.needs.targets
    }


def _lacks(cache: Cache, teacher: TeacherSource, name: str, objective: Objective) -> str:
    unit = cache.target(teacher.name, name)
    if unit is None:
        return ABSENT
    lines = diff(unit.identity, target_identity(name, objective, teacher.feature_bits))
    missing = len(unit.missing())
    return "; ".join(lines) if lines else f"{missing} of {cache.parts} parts missing" if missing else ""


def adopt_projection(objective: Objective, cache: Cache, teacher: TeacherSource | None, cached: Sequence[str]) -> None:
    """Uses the projection that is stored beside the cached targets, where the objective has a fixed one."""
    if teacher is None or objective.projection is None:
        return
    stored: dict[str, torch.Tensor] = {}
    for name in cached:
        unit = cache.target(teacher.name, name)
        if unit is not None and TARGETS[name].projected:
            stored |= {layer: torch.from_numpy(matrix) for layer, matrix in unit.constants.items()}
    if stored:
        projection: Projection = objective.projection | stored
        objective.use_projection(projection)
