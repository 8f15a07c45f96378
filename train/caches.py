"""Which caches a run learns from: found and judged by their descriptions alone. No torch: what is missing is said at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import configs
from cache import Cache, diff, open_below
from cache.locate import fitting, has_pairs
from configs import Config, RequestError
from configs.hooks import frames
from pairs.identity import pair_identity
from train.plan import cache_command, datasets_of

# Part of a cache's identity that no configuration states: the data set's frames need not be here to train from its cache.
UNSTATED = ("content_sha256",)


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
    if not caches or _fitting(config, caches):
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
