"""A run as it lies on disk, read back for reports and studies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import configs
import models
from configs import Config, PairsConfig, RequestError, RunError
from configs.files import fingerprint, write_atomic
from train.log import PICTURES, read_metrics

CONFIG = "config.yaml"
RESULT = "result.json"
STUDENT = "student.safetensors"
SECOND = "second_student.safetensors"


@dataclass(frozen=True)
class RunRecord:
    """One run: its configuration, its metrics and, once it has finished, its result (see `train.run`)."""

    folder: Path
    config: Config
    train: list[dict[str, Any]]
    val: list[dict[str, Any]]
    result: dict[str, Any] | None

    @property
    def label(self) -> str:
        """`setting/name`."""
        return f"{self.config.setting}/{self.folder.name}"

    @property
    def before(self) -> dict[str, Any]:
        """The validation before training; empty if there is none."""
        return self.val[0] if self.val and self.val[0]["epoch"] == 0 else {}

    @property
    def after(self) -> dict[str, Any]:
        """The latest validation; empty if there is none after training began."""
        return self.val[-1] if self.val and self.val[-1]["epoch"] > 0 else {}

    def pictures(self) -> list[Path]:
        """Pictures of pairs, the earliest first."""
        return sorted((self.folder / PICTURES).glob("*.png"))


def folder_of(config: Config) -> Path:
    """Where a configuration's run lies: run_dir/setting/name; train.name, or seed<seed>, of another setting's sizes <like>-seed<seed>."""
    default = f"{config.like}-seed{config.train.seed}" if config.like else f"seed{config.train.seed}"
    return Path(config.run_dir) / config.setting / (config.train.name or default)


def read_run(folder: Path) -> RunRecord:
    """The run in a folder. RequestError if there is none."""
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise RequestError(
            f"{folder}: expected the folder of a run (with {CONFIG}), found none; give what `make train` printed as `run: PATH`"
        )
    metrics = read_metrics(folder)
    kinds = {kind: [record for record in metrics if record["kind"] == kind] for kind in ("train", "val")}
    return RunRecord(folder, configs.read(folder / CONFIG), kinds["train"], kinds["val"], result_of(folder))


def result_of(folder: Path) -> dict[str, Any] | None:
    """What a finished run has written; None of another. RunError: the file is damaged."""
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        result = dict(json.loads(path.read_bytes()))
        # files of before have none
        whole = result.pop("sha256", None) in (None, fingerprint(result)) and isinstance(result.get("steps", 0), int)
    except (ValueError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise RunError(f"{path}: expected what its SHA-256 says, found other text; delete it and run the same command: it is written anew")
    return result


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Marks a run as finished."""
    write_atomic(folder / RESULT, json.dumps({**result, "sha256": fingerprint(result)}, indent=1) + "\n")


def budget(config: Config) -> tuple[int, int]:
    """(steps, pairs) that a whole run takes."""
    steps = config.train.batches * sum(phase.epochs for phase in config.phases_or_one())
    return steps, steps * config.train.batch


def trained_parameters(architecture: str) -> int:
    """Parameters that a tracker uses: stages that are never run left out."""
    import torch  # a folder is read without

    with torch.device("meta"):
        return models.parameter_counts(models.build(architecture))[1]


def mflops(architecture: str, pairs: PairsConfig) -> float:
    """Multiply-adds of one forward pass over one pair of that geometry, in millions, as `python -m models show` counts them."""
    import torch

    # building draws weights; a run's random state is its own
    with torch.random.fork_rng(devices=[]):
        return models.flops(models.build(architecture), pairs) / 1e6
