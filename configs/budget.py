"""A run at another budget: phases and the learning-rate schedule keep their proportions."""

from __future__ import annotations

from collections.abc import Sequence

from configs.errors import RequestError
from configs.explain import parse
from configs.schema import Config


def at_budget(config: Config, epochs: int | None, batches: int | None) -> Config:
    """The configuration with `epochs` in all and `batches` an epoch; phases and the learning-rate schedule shrink in proportion."""
    lengths = [phase.epochs for phase in config.phases_or_one()]
    tree = config.model_dump()
    if batches is not None:
        tree["train"]["batches"] = batches
    if epochs is not None:
        shares = share_epochs(lengths, epochs, config.setting)
        tree["train"] |= {"epochs": epochs, "lr_step": max(1, round(config.train.lr_step * epochs / sum(lengths)))}
        tree["phases"] = [phase | {"epochs": share} for phase, share in zip(tree["phases"], shares, strict=False)]
    return parse(tree, where=config.setting)


def share_epochs(lengths: Sequence[int], epochs: int, setting: str) -> list[int]:
    """Lengths of phases, `epochs` in all, in the proportions they had, each at least one. RequestError: fewer epochs than phases."""
    if epochs < len(lengths):
        raise RequestError(f"epochs: expected at least one for each of {setting}'s {len(lengths)} phases, found {epochs}; give more")
    done, passed, shares = 0, 0, []
    for place, before in enumerate(lengths, 1):
        passed += before
        shares.append(min(max(1, round(epochs * passed / sum(lengths)) - done), epochs - done - (len(lengths) - place)))
        done += shares[-1]
    return shares
