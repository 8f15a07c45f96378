"""Overrides that a configuration makes no use of. They are refused, so that nobody takes for done what changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from configs.errors import RequestError
from configs.overrides import nested
from configs.schema import Config
from configs.tracking import RefinementConfig


def require_use(overrides: Sequence[str], *configurations: Config) -> None:
    """RequestError for an override (`a.b=c`) that counts for nothing in any of the configurations that it is part of.

    One that only says that something is off asks for nothing, and is fine. What depends on data or machine is not judged.
    """
    tables = [without_use(config) for config in configurations]
    for key in _fields(overrides):
        if all(key in table for table in tables):
            raise RequestError(f"override {key:.100}: expected a setting in which {tables[0][key]}, or leave it out")


def require_once(overrides: Sequence[str], options: Mapping[str, str]) -> None:
    """RequestError for an override of what an option of the command states already. options: field -> option, of those that are given."""
    for key in _fields(overrides):
        if key in options:
            raise RequestError(f"override {key:.100}: expected it or {options[key]}, found both; give one of them")


def without_use(config: Config) -> dict[str, str]:
    """Field -> in what setting it would count, of those that count for nothing as the others are."""
    train, phases = config.train, config.phases_or_one()
    frozen = {part for part in ("backbone", "head") if all(part in phase.freeze for phase in phases)}
    projects = any(term.projection == "trained" for phase in phases if (term := phase.losses.projected_fidelity) is not None)
    rows = {
        "setting": "the name stands in a file; give SETTING (--setting)",
        "train.fresh": train.augment != "fresh" and not train.mix and "batches are fresh; set train.augment or train.mix",
        "train.backbone_lr": "backbone" in frozen and "the backbone is trained; free it",
        "train.lr": "head" in frozen and train.backbone_lr and not projects and "more than the backbone is trained; set train.backbone_lr",
        "train.track_sequences": not train.track_every and "training tracks; set train.track_every",
    }
    of_teacher = {"train.teacher": train.teacher != "auto", "train.check_pairs": train.check_pairs, "memory_gb": config.memory_gb}
    if config.teacher is None:
        rows |= {key: asked and "a teacher is; choose one" for key, asked in of_teacher.items()}
    if config.tracking.variant == "drnet":
        climbing = RefinementConfig.model_fields.keys() - {"size_rate"}
        rows |= {f"tracking.refinement.{name}": "boxes climb to the target; tracking.variant=drnet answers at once" for name in climbing}
    return {key: str(why) for key, why in rows.items() if why}


def _fields(overrides: Sequence[str]) -> Iterator[str]:
    """Every field that overrides state, one by one where they state a section."""
    for override in overrides:
        yield from _leaves(nested(override))


def _leaves(tree: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"
