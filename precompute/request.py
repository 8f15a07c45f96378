"""What one `make cache` asks for, and all that can be refused of it without a network: nothing is created, and torch is not imported."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from cache import Cache, PairSetSpec
from cache.address import Location, location
from cache.backends import exists
from cache.locate import has_pairs
from configs import Config, RequestError, dataset_entry
from configs.catalog import members
from configs.files import fingerprint
from configs.machine import processors
from kdlosses.kinds import KINDS, kind, needs_teacher
from models.files import require_teacher
from pairs.identity import pair_identity
from pairs.stored import crop_bytes_bound, pair_arrays
from precompute import cost
from precompute.crop_writer import CropWriter
from precompute.datasets import Dataset, open_entry
from precompute.frames import require_same

# pairs of a shard, and of an inner chunk: the units of writing and of reading
PART, CHUNK = 1024, 64


@dataclass(frozen=True)
class PairSet:
    """A split of a data set, opened, and the cache that it becomes."""

    dataset: Dataset
    path: Location
    spec: PairSetSpec
    crops: cost.Need
    """what its cache lacks of them, as a sample says"""

    def cache(self) -> Cache | None:
        """Its cache, where there is one. RequestError: another one lies there."""
        return create(self.path, self.spec) if exists(self.path) else None


@dataclass(frozen=True)
class Request:
    """What one command asks for."""

    config: Config
    datasets: str
    """names of the catalog, separated by spaces"""
    splits: tuple[str, ...] = ("train", "val")
    targets: str | None = None
    """all, none, or names; None: those that the setting's losses need"""
    share: tuple[int, int] | None = None
    """(i, n): part k belongs to k mod n = i, whatever is missing; None: whatever no other worker has claimed"""
    device: str = "auto"
    threads: int | None = None

    @property
    def speaks(self) -> bool:
        """Whether this process is the one of several (torchrun) that tells the user."""
        return os.environ.get("RANK", "0") == "0"

    @property
    def cutters(self) -> int:
        """Threads that cut crops."""
        return self.threads or processors()

    @functools.cached_property
    def named_targets(self) -> tuple[str, ...] | None:
        """The targets that are asked for by name; None: those that the losses need. RequestError: no such target, or no teacher for it."""
        asked, config = self.targets, self.config
        if asked == "none" or (asked is None and config.teacher is None):
            return ()
        if config.teacher is None:
            raise RequestError(f"--targets: expected a setting with a teacher, found {config.setting} without; choose another SETTING")
        if asked is None:
            return None
        if not (names := tuple(dict.fromkeys(asked.split()))):
            raise RequestError(f"--targets: expected all, none or some of {', '.join(KINDS)}, found no name; give one")
        return tuple(KINDS) if asked == "all" else tuple(kind(name).name for name in names)

    def check(self) -> None:
        """Opens and checks everything, see `pair_sets`."""
        self.pair_sets  # noqa: B018 - they are kept

    @functools.cached_property
    def pair_sets(self) -> tuple[PairSet, ...]:
        """Everything that is asked for, opened and checked, in order.

        RequestError: what cannot be had: targets, a teacher's file, a data set, room for the crops. What a cache holds of a data
        set that is another now is refused too; that the rest is the same is printed.
        """
        section, named = self.config.teacher, self.named_targets
        needed = named is None and any(needs_teacher(phase.losses) for phase in self.config.phases_or_one())
        if section is not None and (named or needed or section.weights is not None):
            require_teacher(section)
        splits = {split: members(self.datasets, split) for split in self.splits}
        everything = dict.fromkeys(name for names in splits.values() for name in names)
        wanted = [(name, split) for name in everything for split, names in splits.items() if name in names]
        for name in everything:  # before the annotation of the first is read
            dataset_entry(name)
        sets = tuple(self._pair_set(name, split) for name, split in wanted)
        cost.require_room(location(self.config.cache_dir), [one.crops for one in sets])
        return sets

    def _pair_set(self, name: str, split: str) -> PairSet:
        config, dataset = self.config, open_usable(self.config, name, split)
        path, spec = cache_of(config, dataset)
        cache = create(path, spec) if exists(path) else None
        if cache is not None and config.recut_pairs and self.speaks and has_pairs(cache):
            print(require_same(cache, dataset, config.recut_pairs), flush=True)
        return PairSet(dataset, path, spec, cost.crops_needed(cache, spec, CropWriter(dataset, config.pairs, self.cutters)))


def open_usable(config: Config, name: str, split: str) -> Dataset:
    """The data set, with sequences that pairs can be drawn from. RequestError: none, or still images for pairs.mode=causal."""
    dataset = open_entry(name, dataset_entry(name), split)
    if dataset.still and config.pairs.mode == "causal":
        raise RequestError(
            f"dataset {name}: expected video for pairs.mode=causal (test strictly after ref), found still images; use pairs.mode=interval"
        )
    dataset.usable(config.pairs)
    return dataset


def cache_of(config: Config, dataset: Dataset) -> tuple[Location, PairSetSpec]:
    """Where the cache of a pair set lies, and what it is."""
    identity = pair_identity(config.pairs, dataset.name, dataset.split) | {"content_sha256": dataset.content_hash}
    path = location(config.cache_dir) / f"{dataset.name}-{dataset.split}-{fingerprint(identity)[:10]}"
    arrays, bound = pair_arrays(config.pairs), crop_bytes_bound(config.pairs)
    return path, PairSetSpec(identity, identity["count"], arrays, bound, PART, CHUNK, {"sequences": dataset.sequences})


def create(path: Location, spec: PairSetSpec) -> Cache:
    """The cache of a pair set, created where there is none. RequestError: another one lies there."""
    return Cache.create(path, spec, remedy=f"remove {path} and run `make cache` again")
