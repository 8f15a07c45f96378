"""Checkpoints of a run: one file, replaced in one step, from which the run goes on bit for bit, and the one before it.

A file is what torch.save writes, then a trailer with the SHA-256 of it. A file whose SHA-256 differs is never used: the one before is.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from configs import RunError
from configs.files import atomic_writer, fsync_folder, read_regular

FILE, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
VERSION = 3
UNSEALED = 2
"""The version that had no trailer, still read."""
_MARK = b"\nTeachOnce checkpoint, SHA-256 of all before: "
_TRAILER = len(_MARK) + 64


@dataclass
class Position:
    """Where a run stands. Counts are of finished work, over all phases.

    `phase` is the phase that the next step belongs to, `epoch_step` the steps of an epoch that is not finished; `seconds` is the time spent
    training so far. `inputs` names what was trained from (fingerprints of the caches and of the teacher), so that a run does not go on from
    others.
    `threads` are torch's: with another count, sums are rounded otherwise. 0: not known.
    """

    phase: int = 0
    phase_epoch: int = 0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    inputs: dict[str, str] = field(default_factory=dict)
    threads: int = 0
    epoch_step: int = 0

    @property
    def within_phase(self) -> bool:
        """Whether steps of `phase` are done, so that its optimizer and schedule go on."""
        return self.phase_epoch > 0 or self.epoch_step > 0


class Checkpoint(NamedTuple):
    """One that was read: tensors on the CPU."""

    position: Position
    state: dict[str, Any]
    path: Path
    note: str
    """a line for the user where it is not the latest; else empty"""


def save(
    folder: Path,
    position: Position,
    students: nn.Module,
    objective: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    meter: dict[str, Any],
) -> None:
    """Writes students, objective, optimizer, schedule, position, meter and the random state of torch; keeps the checkpoint before."""
    state: dict[str, Any] = {
        "version": VERSION,
        "position": asdict(position),
        "students": students.state_dict(),
        "objective": objective.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "meter": meter,
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    content = io.BytesIO()
    torch.save(state, content)
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    path = folder / FILE
    if path.exists():
        # killed from here on, the run goes on from this file under its new name
        path.replace(folder / PREVIOUS)
        fsync_folder(folder)
    with atomic_writer(path) as stream:
        stream.write(content.getbuffer())
        stream.write(_MARK + digest.encode())


def load(folder: Path) -> Checkpoint | None:
    """The latest checkpoint that is whole, or None where there is none. Changes no file.

    Raises:
        RunError: there are checkpoints, and none is whole or of this version.
    """
    faults = []
    for path in (folder / FILE, folder / PREVIOUS):
        if not os.path.lexists(path):
            continue
        try:
            position, state = _read(path)
        except RunError as error:
            faults.append(str(error))
            continue
        what = faults[0] if faults else f"{folder / FILE}: expected it beside {PREVIOUS}, found none"
        note = "" if path.name == FILE else f"{what}; goes on from the one before, after step {position.step:,}"
        return Checkpoint(position, state, path, note)
    if faults:
        raise RunError(f"{'; '.join(faults)}; delete {folder} to start the run anew, or put a copy of {FILE} there")
    return None


def adopt(checkpoint: Checkpoint) -> None:
    """Makes the one that a run goes on from the latest, so that the next one does not push it out for a damaged file."""
    if checkpoint.path.name != FILE:
        checkpoint.path.replace(checkpoint.path.with_name(FILE))
        fsync_folder(checkpoint.path.parent)


def _read(path: Path) -> tuple[Position, dict[str, Any]]:
    try:
        content = memoryview(read_regular(path))
    except OSError as error:
        raise RunError(f"{path}: expected a checkpoint, found {error.strerror}") from error
    body, trailer = content[:-_TRAILER], bytes(content[-_TRAILER:])
    sealed = trailer.startswith(_MARK)
    if sealed and (found := hashlib.sha256(body).hexdigest()) != (wanted := trailer[len(_MARK) :].decode(errors="replace")):
        raise RunError(f"{path}: expected the SHA-256 {wanted:.12}..., found {found:.12}...: the file is damaged")
    try:
        state = torch.load(io.BytesIO(body if sealed else content), map_location="cpu", weights_only=True)
        version = state["version"]
        position = Position(**state["position"]) if version in (VERSION, UNSEALED) else Position()
        counts = (position.phase, position.phase_epoch, position.epoch, position.step, position.epoch_step)
        good = all(isinstance(count, int) and count >= 0 for count in counts) and isinstance(position.inputs, dict)
    except Exception as error:  # a damaged file fails in any way
        raise RunError(f"{path}: expected a checkpoint, found a file that does not load") from error
    if version not in (VERSION, UNSEALED):
        raise RunError(f"{path}: expected a checkpoint of version {VERSION}, found version {version!r:.20}")
    if not good or (version == VERSION and not sealed):
        raise RunError(f"{path}: expected a whole checkpoint, found {'one cut short' if good else 'no position in it'}")
    return position, state


@contextlib.contextmanager
def _fits(what: str) -> Iterator[None]:
    """A state that is not of these objects fails in any way: RunError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise RunError(
            f"{FILE}: expected the {what} of this run, found others ({error!s:.200}); delete the run's folder to start it anew"
        ) from error


def restore(state: dict[str, Any], students: nn.Module) -> None:
    """Puts the students and the random state back. RunError: it is of other students."""
    with _fits("weights and random state"):
        students.load_state_dict(state["students"])
        torch.set_rng_state(state["rng"])
        if len(state["cuda_rng"]) == torch.cuda.device_count() > 0:
            torch.cuda.set_rng_state_all(state["cuda_rng"])


def restore_phase(state: dict[str, Any], objective: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """Puts back what belongs to a phase: for a checkpoint from within it. RunError: it is of another."""
    with _fits("objective, optimizer and schedule"):
        objective.load_state_dict(state["objective"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
