"""A run at another budget: phases and the learning-rate schedule keep their proportions."""

from __future__ import annotations

from configs.errors import RequestError
from configs.explain import parse
from configs.schema import Config, PhaseConfig


def at_budget(config: Config, epochs: int | None, batches: int | None) -> Config:
    """The configuration with `epochs` in all and `batches` an epoch; phases and the learning-rate schedule shrink in proportion."""
    phases = config.phases_or_one()
    before = sum(phase.epochs for phase in phases)
    train = config.train.model_dump()
    if batches is not None:
        train["batches"] = batches
    if epochs is not None:
        if epochs < len(phases):
            raise RequestError(
                f"epochs: expected at least one for each of {config.setting}'s {len(phases)} phases, found {epochs}; give more"
            )
        # a schedule that came with a budget of its own is in proportion to that
        train["lr_step"] = max(1, round(config.train.lr_step * epochs / (config.train.epochs if config.like else before)))
        train["epochs"] = epochs
    phases = share_epochs(config.phases, epochs) if epochs is not None else config.phases
    tree = config.model_dump() | {"train": train, "phases": [phase.model_dump() for phase in phases]}
    return parse(tree, where=config.setting)


def share_epochs(phases: tuple[PhaseConfig, ...], epochs: int) -> tuple[PhaseConfig, ...]:
    """Phases of `epochs` in all, in the proportions they had, each at least one."""
    total, done, passed, shared = sum(phase.epochs for phase in phases), 0, 0, []
    for place, phase in enumerate(phases):
        passed += phase.epochs
        left = len(phases) - place - 1
        length = min(max(1, round(epochs * passed / total) - done), epochs - done - left)
        shared.append(phase.model_copy(update={"epochs": length}))
        done += length
    return tuple(shared)
