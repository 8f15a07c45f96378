"""Checkpoints of a run: one file, replaced in one step, from which the run goes on bit for bit."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from configs import RunError
from configs.files import atomic_writer

FILE = "checkpoint.pt"
VERSION = 2


@dataclass
class Position:
    """Where a run stands. Counts are of finished work, over all phases.

    `phase` is the phase that the next epoch belongs to; `seconds` is the time spent training so far.
    `inputs` names what was trained from (fingerprints of the caches and of the teacher), so that a run does not go on from others.
    `threads` are torch's: with another count, sums are rounded otherwise. 0: not known.
    """

    phase: int = 0
    phase_epoch: int = 0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    inputs: dict[str, str] = field(default_factory=dict)
    threads: int = 0


def save(path: Path, position: Position, students: nn.Module, objective: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """Writes students, objective, optimizer, schedule, position and the random state of torch in one step (`atomic_writer`)."""
    state: dict[str, Any] = {
        "version": VERSION,
        "position": asdict(position),
        "students": students.state_dict(),
        "objective": objective.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    with atomic_writer(path) as stream:
        torch.save(state, stream)


def load(path: Path) -> tuple[Position, dict[str, Any]] | None:
    """The position and the state that `save` wrote (tensors on the CPU), or None where there is no checkpoint.

    Raises:
        RunError: the file is not a checkpoint of this version.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file fails in any way
        raise RunError(f"{path}: expected a checkpoint, found a file that does not load; delete it to start the run anew") from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise RunError(f"{path}: expected a checkpoint of version {VERSION}, found another; delete the run's folder to start anew")
    return Position(**state["position"]), state


def restore(state: dict[str, Any], students: nn.Module) -> None:
    """Puts the students and the random state back."""
    students.load_state_dict(state["students"])
    torch.set_rng_state(state["rng"])
    if len(state["cuda_rng"]) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda_rng"])


def restore_phase(state: dict[str, Any], objective: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """Puts back what belongs to a phase: for a checkpoint from within it."""
    objective.load_state_dict(state["objective"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
