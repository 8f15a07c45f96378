"""Where every number of the teacher comes from, decided and printed before the first step.

A pure function of the configuration, of what each loss needs, of what the caches hold and of whether the teacher's
weights are at hand. A loss whose target is missing is an error here; it is never dropped and never changed.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import configs
from configs import Config, RequestError
from configs.load import SETTINGS, yaml_value

# What one cache holds of each target: "" = all of it, else why it cannot be used ("3 of 32 parts missing").
Held = Mapping[str, str]
# What each term of one phase needs of the teacher: term -> targets.
TermNeeds = Mapping[str, Sequence[str]]
ABSENT = "not in the cache"


@dataclass(frozen=True)
class Sources:
    """Where the targets of one phase come from, in one split."""

    cached: tuple[str, ...] = ()
    online: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One line of the table: one term of one phase."""

    phase: int
    term: str
    weight: float
    targets: tuple[str, ...]
    train: str
    val: str
    why: str


@dataclass(frozen=True)
class Plan:
    """The decision: `train[p]`, `mixed[p]` and `val[p]` say where phase p's targets come from.

    `mixed` is for the batches with fresh augmentation (train.mix, or all of them with train.augment=fresh).
    """

    rows: tuple[Row, ...]
    train: tuple[Sources, ...]
    mixed: tuple[Sources, ...]
    val: tuple[Sources, ...]

    @property
    def needs_teacher(self) -> bool:
        """Whether any batch of the run starts the teacher."""
        return any(sources.online for sources in (*self.train, *self.mixed, *self.val))

    def table(self) -> str:
        """The plan as an aligned text table, one term a line."""
        head = ("phase", "loss", "weight", "needs of the teacher", "training", "validation", "why")
        lines = [head] + [
            (str(r.phase + 1), r.term, f"{r.weight:g}", ", ".join(r.targets) or "-", r.train, r.val, r.why) for r in self.rows
        ]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head) - 1)]
        return "\n".join("  ".join([*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[-1]]) for line in lines)


def make_plan(config: Config, needs: Sequence[TermNeeds], train: Held, val: Held, weights: str | None) -> Plan:
    """Decides for each term of each phase: cache, online teacher or none.

    Args:
        config: the run.
        needs: for each phase, what each active term needs (`Objective.per_term`), in the order of `phases_or_one`.
        train, val: what the two caches hold of this teacher's targets.
        weights: the teacher's weights file, or None where none is at hand.

    Raises:
        RequestError: a target is neither cached (or may not be used) nor computable here; names the command that adds it.
    """
    phases = config.phases_or_one()
    wanted = [tuple(dict.fromkeys(target for targets in phase.values() for target in targets)) for phase in needs]
    replayed = recorded_images(config)
    training = tuple(
        _training(config, targets, train, weights) if replayed else _online(config, targets, weights, _why_not_replayed(config))
        for targets in wanted
    )
    mixed: tuple[Sources, ...] = tuple(Sources() for _ in wanted)
    if config.train.mix > 0 or config.train.augment == "fresh":
        why = f"train.mix={config.train.mix:g} makes some batches fresh" if config.train.mix > 0 else _why_not_replayed(config)
        mixed = tuple(_online(config, targets, weights, why) for targets in wanted)
    validation = tuple(_validation(config, targets, val, weights) for targets in wanted)
    rows = [
        _row(config, number, term, phase.losses.active()[term].weight, tuple(terms[term]), training[number], validation[number], train)
        for number, (phase, terms) in enumerate(zip(phases, needs, strict=True))
        for term in terms
    ]
    return Plan(tuple(rows), training, mixed, validation)


def recorded_images(config: Config) -> bool:
    """Whether the student sees the very images that the teacher saw when the cache was made."""
    if config.train.augment == "none":
        return config.pairs.brightness == 0 and config.pairs.grey_probability == 0
    return config.train.augment == "replay"


def _why_not_replayed(config: Config) -> str:
    if config.train.augment == "fresh":
        return "train.augment=fresh: the teacher must see the new image"
    return "train.augment=none: cached targets belong to the recorded photometry"


def _training(config: Config, targets: tuple[str, ...], held: Held, weights: str | None) -> Sources:
    if config.train.teacher == "online":
        return _online(config, targets, weights, "train.teacher=online")
    return _cached_or_online(config, targets, held, weights, "train")


def _validation(config: Config, targets: tuple[str, ...], held: Held, weights: str | None) -> Sources:
    # validation always replays the recorded pairs, so what is cached is right whatever the training does
    return _cached_or_online(config, targets, held, weights, "val")


def _cached_or_online(config: Config, targets: tuple[str, ...], held: Held, weights: str | None, split: str) -> Sources:
    missing = {target: reason for target in targets if (reason := held.get(target, ABSENT))}
    if missing and (config.train.teacher == "cached" or weights is None):
        found = "; ".join(f"{target}: {reason}" for target, reason in missing.items())
        other = "" if weights is not None else " (with the TEACHER=FILE that the cache was made with)"
        if config.train.teacher != "cached":
            other += ", or give the teacher's weights with teacher.weights=FILE to compute it online"
        name = (config.teacher.name or config.teacher.architecture) if config.teacher is not None else "(none)"
        raise RequestError(
            f"teacher {name}: expected its targets {', '.join(missing)} in the {split} cache, found {found};"
            f" run `{cache_command(config, split)}` to add it{other}"
        )
    return Sources(tuple(t for t in targets if t not in missing), tuple(missing))


def _online(config: Config, targets: tuple[str, ...], weights: str | None, why: str) -> Sources:
    if not targets:
        return Sources()
    if config.train.teacher == "cached":
        raise RequestError(
            f"train.teacher=cached: expected targets of the recorded images, found {why};"
            " set train.augment=replay and train.mix=0, or train.teacher=auto with teacher.weights=FILE"
        )
    if weights is None:
        raise RequestError(
            f"{why}: expected the teacher's weights to compute {', '.join(targets)} online, found none at hand;"
            " give teacher.weights=FILE, or set train.augment=replay train.mix=0 train.teacher=auto to use the cache"
        )
    return Sources(online=targets)


def _row(config: Config, phase: int, term: str, weight: float, targets: tuple[str, ...], train: Sources, val: Sources, held: Held) -> Row:
    train_from, val_from = _where(targets, train), _where(targets, val)
    mix = config.train.mix
    if not targets:
        why = "needs no teacher"
    elif mix > 0:
        train_from, why = f"{train_from}, {mix:.0%} online", f"train.mix={mix:g}: that share of the batches is fresh"
    elif not recorded_images(config):
        why = _why_not_replayed(config)
    elif config.train.teacher == "online":
        why = "train.teacher=online"
    elif absent := {target: held.get(target, ABSENT) for target in targets if target in train.online}:
        why = "; ".join(f"{target}: {reason}" for target, reason in absent.items()) + "; the weights are at hand"
    else:
        why = "recorded images, complete in the cache"
    return Row(phase, term, weight, targets, train_from, val_from, why)


def _where(targets: Iterable[str], sources: Sources) -> str:
    targets = tuple(targets)
    kinds = [kind for kind, names in (("cache", sources.cached), ("online teacher", sources.online)) if set(names) & set(targets)]
    return " + ".join(kinds) or "none"


def cache_command(config: Config, split: str, dataset: str | None = None) -> str:
    """The `make cache ...` that adds what this configuration needs to `split` (of one data set, or of all), with every difference
    from the setting's file."""
    file = SETTINGS / f"{config.setting}.yaml"
    plain = configs.load(config.setting) if file.is_file() else Config(losses=config.losses, phases=config.phases)
    dataset = dataset or (config.dataset if split == "train" else config.val_dataset or config.dataset)
    words = ["make", "cache", f"DATASET={shlex.quote(dataset) if dataset else 'NAME'}", f"SETTING={config.setting or 'FILE'}"]
    if config.pairs.count != plain.pairs.count:
        words.append(f"PAIRS={config.pairs.count}")
    if config.pairs.val_count != plain.pairs.val_count:
        words.append(f"VAL_PAIRS={config.pairs.val_count}")
    if config.val_dataset is not None:
        words.append(f"SPLIT={split}")
    if config.teacher and config.teacher.weights:
        words.append(f"TEACHER={shlex.quote(config.teacher.weights)}")
    if config.cache_dir != Config.model_fields["cache_dir"].default:
        words.append(f"CACHE_DIR={shlex.quote(config.cache_dir)}")
    changed = _changes(config, plain)
    if changed:
        words.append(f"ARGS={shlex.quote(' '.join(changed))}")
    return " ".join(words)


def _changes(config: Config, plain: Config) -> list[str]:
    """Overrides of what a cache depends on: sampling, teacher and losses."""
    lines: list[str] = []
    for section, skipped in (("pairs", ("count", "val_count")), ("teacher", ("weights", "batch")), ("losses", ())):
        now, before = getattr(config, section), getattr(plain, section)
        if now is None or now == before:
            continue
        old = before.model_dump(mode="json") if before is not None else {}
        for key, value in now.model_dump(mode="json").items():
            if key not in skipped and value != old.get(key):
                lines += _leaves(f"{section}.{key}", value, old.get(key))
    return lines


def _leaves(key: str, value: object, old: object) -> list[str]:
    if not isinstance(value, dict):
        # without spaces: ARGS is cut at them
        return [f"{key}={yaml_value(tuple(value) if isinstance(value, list) else value)}".replace(", ", ",")]
    before = old if isinstance(old, dict) else {}
    return [
        line for name, inner in value.items() if not before or inner != before.get(name) for line in _leaves(f"{key}.{name}", inner, None)
    ]
