"""Where every number of the teacher comes from, decided and printed before the first step.

A pure function of the configuration, of what each loss needs, of what the caches hold and of whether the teacher's
weights are at hand. A loss whose target is missing is an error here; it is never dropped and never changed.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import configs
from configs import Config, RequestError
from configs.catalog import members
from configs.load import SETTINGS
from configs.overrides import yaml_value
from kdlosses.kinds import KINDS

# What one cache holds of each target: "" = all of it, else why it cannot be used ("3 of 32 parts missing").
Held = Mapping[str, str]
# What each term of one phase needs of the teacher: term -> targets.
TermNeeds = Mapping[str, Sequence[str]]
ABSENT = "not in the cache"


@dataclass(frozen=True)
class Origin:
    """Where the targets of one phase come from, in one split."""

    cached: tuple[str, ...] = ()
    online: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlanRow:
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
    """The decision: `train[p]`, `fresh[p]` and `val[p]` say where phase p's targets come from.

    `fresh` is for the batches with fresh augmentation (train.mix, or all of them with train.augment=fresh), `train` for the others.
    """

    rows: tuple[PlanRow, ...]
    train: tuple[Origin, ...]
    fresh: tuple[Origin, ...]
    val: tuple[Origin, ...]

    @property
    def needs_teacher(self) -> bool:
        """Whether any batch of the run starts the teacher."""
        return any(origin.online for origin in (*self.train, *self.fresh, *self.val))

    def table(self) -> str:
        """The plan as an aligned text table, one term a line."""
        head = ("phase", "loss", "weight", "needs of the teacher", "training", "validation", "why")
        lines = [head] + [
            (str(r.phase + 1), r.term, f"{r.weight:g}", ", ".join(r.targets) or "-", r.train, r.val, r.why) for r in self.rows
        ]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head) - 1)]
        return "\n".join("  ".join([*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[-1]]) for line in lines)


def make_plan(config: Config, needs: Sequence[TermNeeds], train: Held, val: Held, weights: Path | str | None) -> Plan:
    """Decides for each term of each phase: cache, online teacher or none.

    Args:
        config: the run.
        needs: for each phase, what each active term needs (`Objective.per_term`), in the order of `phases_or_one`.
        train, val: what the two caches hold of this teacher's targets.
        weights: the teacher's weights file, or None where none is at hand.

    Raises:
        RequestError: a target is neither cached (or may not be used) nor computable here; names the command that adds it.
    """
    wanted = [tuple(dict.fromkeys(target for targets in phase.values() for target in targets)) for phase in needs]
    augment = config.train.augment
    training = tuple(_training(config, targets, train, weights, augment) for targets in wanted)
    fresh = tuple(Origin() for _ in wanted)
    if config.train.mix > 0 or augment == "fresh":
        fresh = tuple(_training(config, targets, train, weights, "fresh") for targets in wanted)
    validation = tuple(_cached_or_online(config, targets, (), val, weights, "val") for targets in wanted)
    rows = [
        _row(config, number, term, tuple(targets), (training[number], fresh[number], validation[number]), train)
        for number, terms in enumerate(needs)
        for term, targets in terms.items()
    ]
    return Plan(tuple(rows), training, fresh, validation)


def why_not_cached(config: Config, target: str, augment: str) -> str:
    """Why a cached target does not belong to batches of this augmentation (replay, fresh, none); "" where it does.

    Every target belongs to the images that the teacher saw; one with a number a proposal belongs to the recorded proposals as well.
    """
    pairs = config.pairs
    recorded = {"brightness": pairs.brightness > 0, "grey": pairs.grey_probability > 0}
    if augment == "none":
        gone = [name for name, there in recorded.items() if there]
        return f"train.augment=none: the teacher saw the recorded {' and '.join(gone)}" if gone else ""
    if augment == "fresh":
        new = [name for name in config.train.fresh if name != "proposals" and recorded.get(name, True)]
        if new:
            return f"fresh {', '.join(new)}: the teacher must see the new image"
        if "proposals" in config.train.fresh and KINDS[target].per_proposal:
            return "fresh proposals: the teacher must judge the new ones"
    return ""


def _training(config: Config, targets: tuple[str, ...], held: Held, weights: Path | str | None, augment: str) -> Origin:
    """Where the targets of training batches of one augmentation come from."""
    reasons = {target: why for target in targets if (why := why_not_cached(config, target, augment))}
    if config.train.teacher == "online":
        reasons = {target: reasons.get(target, "train.teacher=online") for target in targets}
    if reasons:
        _require_teacher(config, reasons, weights)
    return _cached_or_online(config, targets, tuple(reasons), held, weights, "train")


def _cached_or_online(
    config: Config, targets: tuple[str, ...], online: Collection[str], held: Held, weights: Path | str | None, split: str
) -> Origin:
    """`online` for sure, the others from the cache, or online too where it lacks them and the weights are at hand.

    Validation always replays the recorded pairs, so what is cached is right there whatever the training does.
    """
    missing = {target: reason for target in targets if target not in online and (reason := held.get(target, ABSENT))}
    if missing and (config.train.teacher == "cached" or weights is None):
        reasons = "; ".join(f"{target}: {reason}" for target, reason in missing.items())
        other = "" if weights is not None else " (with TEACHER=FILE, its weights)"
        if config.train.teacher != "cached":
            other += ", or give the teacher's weights with teacher.weights=FILE to compute it online"
        name = (config.teacher.name or config.teacher.architecture) if config.teacher is not None else "(none)"
        raise RequestError(
            f"teacher {name}: expected its targets {', '.join(missing)} in the {split} cache, found {reasons};"
            f" run `{cache_command(config, split)}` to add it{other}"
        )
    computed = tuple(target for target in targets if target in online or target in missing)
    return Origin(tuple(target for target in targets if target not in computed), computed)


def _require_teacher(config: Config, reasons: Mapping[str, str], weights: Path | str | None) -> None:
    """RequestError where targets must be computed online and may not be, or cannot be."""
    why = "; ".join(dict.fromkeys(reasons.values()))
    if config.train.teacher == "cached":
        raise RequestError(
            f"train.teacher=cached: expected targets of the recorded images, found {why};"
            " set train.augment=replay and train.mix=0, or train.teacher=auto with teacher.weights=FILE"
        )
    if weights is None:
        raise RequestError(
            f"{why}: expected the teacher's weights to compute {', '.join(reasons)} online, found none at hand;"
            " give teacher.weights=FILE, or set train.augment=replay train.mix=0 train.teacher=auto to use the cache"
        )


def _row(config: Config, phase: int, term: str, targets: tuple[str, ...], origins: tuple[Origin, Origin, Origin], held: Held) -> PlanRow:
    """origins: of training batches, of fresh ones, of validation."""
    train, fresh, val = origins
    train_from, val_from = _where(targets, train), _where(targets, val)
    mix = config.train.mix
    of_fresh = [why for target in targets if (why := why_not_cached(config, target, "fresh"))] if mix > 0 else []
    if not targets:
        why = "needs no teacher"
    elif of_fresh:
        train_from, why = f"{train_from}, {mix:.0%} {_where(targets, fresh)}", f"train.mix={mix:g}: {of_fresh[0]}"
    elif reasons := [why for target in targets if (why := why_not_cached(config, target, config.train.augment))]:
        why = reasons[0]
    elif config.train.teacher == "online":
        why = "train.teacher=online"
    elif absent := {target: held.get(target, ABSENT) for target in targets if target in train.online}:
        why = "; ".join(f"{target}: {reason}" for target, reason in absent.items()) + "; the weights are at hand"
    else:
        why = "belongs to the batches, complete in the cache"
    weight = config.phases_or_one()[phase].losses.active()[term].weight
    return PlanRow(phase, term, weight, targets, train_from, val_from, why)


def _where(targets: Iterable[str], origin: Origin) -> str:
    targets = tuple(targets)
    kinds = [kind for kind, names in (("cache", origin.cached), ("online teacher", origin.online)) if set(names) & set(targets)]
    return " + ".join(kinds) or "none"


def datasets_of(config: Config, split: str) -> dict[str, str]:
    """Data set -> the word that the user typed for it, of a split, in order; a mixture stands for its list of that split."""
    words: dict[str, str] = {}
    for word in str(config.dataset if split == "train" else config.val_dataset or config.dataset).split():
        for name in _known_members(word, split):
            words.setdefault(name, word)
    return words


def _known_members(word: str, split: str) -> tuple[str, ...]:
    try:
        return members(word, split)
    except RequestError:
        # a data set of another machine's catalog: its cache may be here all the same
        return (word,)


def cache_command(config: Config, split: str, dataset: str | None = None) -> str:
    """The `make cache ...` that adds what this configuration needs to `split` (of one data set, or of all), with every difference
    from the setting's file."""
    file = SETTINGS / f"{config.setting}.yaml"
    like = [f"like={config.like}"] if config.like else []
    plain = configs.load(config.setting, like) if file.is_file() else Config(losses=config.losses, phases=config.phases)
    dataset = dataset or (config.dataset if split == "train" else config.val_dataset or config.dataset)
    words = [
        "make",
        "cache",
        f"DATASET={shlex.quote(dataset) if dataset else 'NAME'}",
        f"SETTING={shlex.quote(config.setting + '.yaml' * (not file.is_file()))}",
    ]
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
    changed = like + _changes(config, plain)
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
