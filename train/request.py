"""What one `make train` or `make study` asks for, and all of it that can be refused without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import configs
from cache import open_below
from configs import Config, RequestError, catalog
from configs.machine import require_place
from configs.use import require_once, require_use
from models.files import is_safetensors, require_teacher
from train.caches import open_caches, other_sizes, resolve_dataset
from train.moves import refuse_other
from train.plan import datasets_of
from train.reports import run_folder

BATCHES = 1000
"""Steps an epoch of a study where none are asked for: the published settings differ in theirs."""


@dataclass(frozen=True)
class Request:
    """One run that is asked for."""

    config: Config
    """its data set named"""
    folder: Path
    before: Config | None
    """the configuration that the folder holds"""
    finished: bool


def understood(config: Config) -> Request:
    """The run of a configuration. Nothing is written.

    RequestError: caches or weights that are not there, or another run in the folder (with the differences).
    """
    folder = run_folder.folder_of(config)
    before = configs.read(folder / run_folder.CONFIG) if (folder / run_folder.CONFIG).is_file() else None
    require_files(config, begins=before is None)
    config = resolve_dataset(config)
    refuse_other(before, config, folder)
    result = run_folder.result_of(folder)
    finished = result is not None and result["steps"] == run_folder.budget(config)[0]
    if not finished:
        require_place(folder, "RUN_DIR")
    for split in ("train", "val") if not finished else ():
        require_known(config, split)
        open_caches(config, split)
    return Request(config, folder, before, finished)


def require_known(config: Config, split: str) -> None:
    """RequestError for a data set that neither the catalog nor a cache knows."""
    cached = {cache.identity.get("dataset") for cache in open_below(config.cache_dir)[0]}
    for name, word in datasets_of(config, split).items():
        if name not in cached:
            catalog.members(word, split)


def require_files(config: Config, begins: bool) -> None:
    """RequestError for weights to be taught by, or, where the run begins, to start from, that are not there."""
    for student in filter(None, (config.student, config.second_student) if begins else ()):
        if student.weights not in (None, "imagenet"):
            is_safetensors(Path(student.weights))
    if config.teacher is not None and config.teacher.weights is not None:
        require_teacher(config.teacher)


def understood_study(
    settings: Sequence[str], seeds: Sequence[int], overrides: Sequence[str], epochs: int | None, batches: int | None
) -> list[Config]:
    """The configurations of a study, each `understood`.

    batches: None: BATCHES, or with like=NAME (or where only caches of NAME's sizes are there) those of that setting.
    RequestError: see `members`, `understood`.
    """
    stated = {"train.seed": "--seeds", "train.epochs": epochs and "--epochs", "train.batches": batches and "--batches"}
    require_once(overrides, {field: str(option) for field, option in stated.items() if option})
    require_use(overrides, *(configs.load(setting, overrides, strict=False) for setting in settings))
    like = sizes_of(settings[0], overrides)
    if batches is None and not like and not any(override.startswith("train.batches=") for override in overrides):
        batches = BATCHES
    configurations = members(settings, seeds, [*overrides, *([f"like={like}"] if like else [])], epochs, batches)
    return [understood(config).config for config in configurations]


def members(
    settings: Sequence[str], seeds: Sequence[int], overrides: Sequence[str], epochs: int | None, batches: int | None
) -> list[Config]:
    """The configurations of a study, setting by setting, their data sets named.

    Raises:
        RequestError: a setting or seed named twice, or budgets that differ (with how to make them one).
    """
    for what, given in (("settings", list(settings)), ("--seeds", list(map(str, seeds)))):
        if len(set(given)) < len(given):
            raise RequestError(f"study: expected each of {what} once, found {' '.join(given)}; name each once")
    configurations = []
    for setting in settings:
        for seed in seeds:
            config = configs.load(setting, [*overrides, f"train.seed={seed}"], strict=False)
            # a folder of its own, so that a study and a run by hand do not meet
            name = f"train.name={config.train.name or 'study'}-seed{seed}"
            config = configs.load(setting, [*overrides, f"train.seed={seed}", name], strict=False)
            configurations.append(resolve_dataset(configs.at_budget(config, epochs, batches)))
    pairs = {config.setting: run_folder.budget(config)[1] for config in configurations}
    if len(set(pairs.values())) > 1:
        listed = ", ".join(f"{setting} {count:,}" for setting, count in pairs.items())
        raise RequestError(
            f"study: expected settings that see equally many pairs, found {listed}; give --epochs and --batches (and train.batch=)"
        )
    return configurations


def sizes_of(setting: str, overrides: Sequence[str]) -> str | None:
    """Whose sizes a study has: what `like` names; else None, or where no cache of its own size is there, a setting with caches (said)."""
    config = configs.load(setting, overrides, strict=False)
    if config.like is not None or config.dataset is not None:
        return config.like
    other = other_sizes(config)
    if other is not None:
        print(f"study: no cache of the settings' own sizes in {config.cache_dir}; takes sizes and budget of {other}, as like={other} does")
    return other
