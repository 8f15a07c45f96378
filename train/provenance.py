"""Where a student comes from: what its weights file says of itself, so that a file alone can be traced and told from another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs import Config
from models import weights_digest
from train.evaluate import PREFIXES
from train.inputs import Inputs
from train.reports.run_folder import budget


def provenance(config: Config, inputs: Inputs, after: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Text by name for the metadata of a student's weights file.

    setting, seed, steps, batch; losses (JSON, a list entry a phase: term -> weight); cache_train and cache_val (names and identities of the
    pair sets); starts_from (imagenet, or the digest of the weights that it began with); teacher and teacher_sha256 (its name and the
    digest of its weights) where one taught; and every number of its last validation, by the name in metrics.jsonl. prefix: of the numbers
    that are this student's own (`train.evaluate.PREFIXES`).
    """
    facts = {"setting": config.setting, "seed": config.train.seed, "steps": budget(config)[0], "batch": config.train.batch}
    losses = [{name: term.weight for name, term in phase.losses.active().items()} for phase in config.phases_or_one()]
    caches = {f"cache_{split}": getattr(inputs, split) for split in ("train", "val")}
    named = {key: " ".join(f"{cache.identity['dataset']}:{cache.fingerprint}" for cache in some) for key, some in caches.items()}
    teacher = {"teacher": inputs.teacher.name, "teacher_sha256": inputs.teacher.digest} if inputs.teacher is not None else {}
    section = config.second_student if prefix and config.second_student is not None else config.student
    start = {"starts_from": _start(section.weights)} if section.weights is not None else {}
    others = tuple(other for other in (*PREFIXES, "teacher_") if other not in ("", prefix))
    own = {name: value for name, value in after.items() if isinstance(value, float) and not name.startswith(others)}
    numbers = {name.removeprefix(prefix): f"{value:.6g}" for name, value in own.items() if name.startswith(prefix)}
    return {name: str(value) for name, value in facts.items()} | {"losses": json.dumps(losses)} | named | start | teacher | numbers


def _start(weights: str) -> str:
    """The weights that training began with, as they are now: by digest, or by name where no file is there (a run may go on without)."""
    return f"sha256:{weights_digest(weights)}" if Path(weights).is_file() else weights
