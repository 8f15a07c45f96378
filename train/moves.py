"""What may change between the beginning and the rest of a run, and what is another run: refused by field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.identity import flatten
from configs import Config, RequestError

if TYPE_CHECKING:
    from train.checkpoint import Position

MOVABLE = {
    "train.epochs": "length: of a phase that is not over, beyond the epochs that are done",
    "run_dir": "place: the run is the files of its folder",
    "train.name": "place: so the folder may be renamed",
    "cache_dir": "place: what the caches hold is compared",
    "teacher.weights": "place: what the file holds is compared",
    "doc": "words",
    "memory_gb": "of make cache",
    "train.device": "machine: changes no number but by rounding",
    "train.feed": "machine: which decoder",
    "train.channels_last": "speed: changes no number but by rounding",
    "train.compile": "speed: changes no number but by rounding",
    "train.feed_threads": "machine",
    "train.caches": "place: what the caches hold is compared",
    "recut_pairs": "checked before the first step only",
    "train.verify": "checked before it is used, or not",
    "train.check_pairs": "checked before the first epoch only",
    "train.val_every": "when a run is looked at",
    "train.log_every": "when a run is looked at",
    "train.pictures": "when a run is looked at",
    "train.track_every": "when a run is looked at",
    "train.track_sequences": "when a run is looked at",
    "train.checkpoint_every": "how much of it a kill costs",
    "train.checkpoint_minutes": "how much of it a kill costs",
}
"""Field -> why another value of it goes on with the same run. With phases, phases.N.epochs stands for train.epochs."""


def refuse_other(before: Config | None, config: Config, folder: Path) -> None:
    """RequestError where the folder holds the run of a configuration that differs in more than what is movable."""
    if before is None:
        return
    there, here = _fields(before), _fields(config)
    changed = [
        f"{key}: there {there.get(key)!r:.80}, wanted {here.get(key)!r:.80}"
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key) and key not in MOVABLE
    ]
    if changed:
        raise RequestError(
            f"{folder}: expected a run of this configuration, found another's ({'; '.join(changed)});"
            f" give this run a name of its own with train.name=NAME, or delete {folder} (a run goes on with another {', '.join(MOVABLE)})"
        )


def _fields(config: Config) -> dict[str, Any]:
    """Every field by its dotted name, those of phases by their numbers; lengths left out."""
    tree = config.model_dump(mode="json")
    tree["phases"] = {str(number): {**phase, "epochs": None} for number, phase in enumerate(tree["phases"])}
    tree["train"]["epochs"] = None
    return flatten(tree)


def refuse_other_inputs(position: Position, now: Mapping[str, str], folder: Path) -> None:
    """RequestError where a run would go on from other caches or another teacher than it began with."""
    began = position.inputs
    changed = [f"{key}: there {began.get(key)}, found {now[key]}" for key in now if began.get(key) != now[key]]
    if changed:
        raise RequestError(
            f"{folder}: expected the caches and the teacher that the run began with, found others ({'; '.join(changed)});"
            f" give this run a name of its own with train.name=NAME, or delete {folder}"
        )


def go_on(position: Position, before: Config, config: Config, folder: Path) -> list[str]:
    """Sets the position of a run back into its last phase where more of that is to be done; lines on the phases of another length.

    RequestError: a phase that is over would have another length, or one would end before what is done of it.
    """
    then, now = ([phase.epochs for phase in each.phases_or_one()] for each in (before, config))
    last = len(now) - 1
    finished, number = position.phase > last, min(position.phase, last)
    # what is done follows from the checkpoint alone: the configuration may have been written by an attempt that was killed
    done = position.epoch - sum(now[:last]) if finished else position.phase_epoch
    lines = []
    for place, (old, new) in enumerate(zip(then, now, strict=True)):
        field = f"phases.{place}.epochs" if config.phases else "train.epochs"
        least = done if finished else done + 1
        if (place < number and new != old) or (place == number and new < least):
            wanted = f"{old}, for that phase is over" if place < number else f"at least {least}, for {done} are done"
            raise RequestError(f"{folder}: {field}: expected {wanted}, found {new}; set it so, or begin another run with train.name=NAME")
        if old != new:
            lines.append(f"{field} is {new}, was {old}")
    if finished and now[last] > done:
        position.phase, position.phase_epoch = last, done
    return lines
