"""Who is evaluated: trackers of checkpoints and what they are compared with, as small picklable descriptions."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2

import configs
import models
from configs import Config
from configs.errors import RequestError
from configs.files import sha256_file
from configs.tracking import VARIANTS, TrackingConfig, variant_of
from models.checkpoint import guess_architecture, read_state
from models.deploy import read_deployed
from tracking import baselines
from tracking.classifier import narrow_label
from tracking.one_pass import Tracker
from tracking.online import build_tracker
from tracking.refining import RefinementOnly
from tracking.request import named_path, require_baselines

Kind = Literal["checkpoint", "classifier", "refinement", "still", "opencv"]


@dataclass(frozen=True)
class Contestant:
    """One tracker: its name (a folder's), what it is, and for those of a checkpoint its file and configuration."""

    name: str
    kind: Kind
    checkpoint: Path | None = None
    config: TrackingConfig | None = None

    def build(self, device: str) -> Tracker:
        """The tracker. RequestError: a file that is none, or of another family."""
        if self.kind == "still":
            return baselines.StandingStill()
        if self.kind == "opencv":
            return baselines.OpenCVTracker(self.name.removeprefix("opencv-"))
        assert self.checkpoint is not None
        assert self.config is not None
        config = baselines.classifier_only(self.config) if self.kind == "classifier" else self.config
        tracker = build_tracker(self.checkpoint, config, models.pick_device(device))
        return RefinementOnly(tracker.network, tracker.classifier_network, config) if self.kind == "refinement" else tracker

    def identity(self) -> dict[str, Any]:
        """What its answers depend on."""
        if self.kind == "opencv":
            return {"kind": self.kind, "opencv": cv2.__version__, "tracker": self.name}
        if self.checkpoint is None or self.config is None:
            return {"kind": self.kind}
        own = self.config.classifier.checkpoint
        return {
            "kind": self.kind,
            "checkpoint_sha256": sha256_file(self.checkpoint),
            **({"classifier_sha256": sha256_file(Path(own))} if own else {}),
            "tracking": self.config.model_dump(mode="json"),
        }

    def gain(self) -> float | None:
        """The refinement gain that a run wrote into its weights file; None where it says nothing."""
        if self.kind != "checkpoint" or self.checkpoint is None or self.checkpoint.suffix == ".onnx":
            return None
        try:
            return float(read_state(self.checkpoint)[1]["refinement_gain"])
        except (KeyError, ValueError):
            return None


def contestants(
    checkpoints: Sequence[str], chosen: Sequence[str], setting: str | None, overrides: Sequence[str], seeds: Sequence[int] = ()
) -> list[Contestant]:
    """The trackers of an evaluation: checkpoints, given as PATH or NAME=PATH, then the baselines chosen (of `BASELINES`).

    seeds: every checkpoint is tracked once with each of these as NAME-track<seed>; none: once, as it is.
    RequestError: a file that is not there, two trackers of one name, an unknown baseline, wrong overrides.
    """
    found = [of_checkpoint(text, setting, overrides) for text in checkpoints]
    if seeds:
        found = [_seeded(one, seed) for one in found for seed in seeds]
    require_baselines(chosen)
    if "still" in chosen:
        found.append(Contestant("still", "still"))
    if "opencv" in chosen and (best := baselines.opencv_name()):
        found.append(Contestant(f"opencv-{best}", "opencv"))
    first = found[0] if checkpoints else None
    if first is not None and first.config is not None:
        # DRNet answers with the network's box at once, and an ONNX file has its refinement built in: there is none to leave out
        whole = first.config.variant == "drnet" or (first.checkpoint is not None and first.checkpoint.suffix == ".onnx")
        halves: list[Kind] = ["refinement"] if whole else ["classifier", "refinement"]
        found += [Contestant(f"{first.name}-{half}", half, first.checkpoint, first.config) for half in halves if half in chosen]
    names = [contestant.name for contestant in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise RequestError(f"--checkpoint: expected a name for each tracker, found {', '.join(sorted(twice))} twice; give NAME=PATH")
    return found


def _seeded(one: Contestant, seed: int) -> Contestant:
    assert one.config is not None
    config = TrackingConfig.model_validate(one.config.model_dump(exclude_unset=True) | {"seed": seed})
    return replace(one, name=f"{one.name}-track{seed}", config=config)


def of_checkpoint(text: str, setting: str | None, overrides: Sequence[str]) -> Contestant:
    """A checkpoint as PATH or NAME=PATH. Unnamed, that of a run is <setting>-<run>, any other its file's stem."""
    name, path = named_path(text)
    if not name:
        name = path.stem if path.stem not in ("student", "second_student") else f"{path.parent.parent.name}-{path.parent.name}"
        name = re.sub(r"[^A-Za-z0-9_.+=-]", "_", name)
    config = tracking_config(path, setting, overrides)
    if known := narrow_label(config):
        print(f"note: {name}: {known}", file=sys.stderr)
    return Contestant(name, "checkpoint", path, config)


def tracking_config(checkpoint: Path, setting: str | None, overrides: Sequence[str]) -> TrackingConfig:
    """The section `tracking` for a checkpoint.

    The setting: the one given, else that of the run that the file lies in or says it is of, else atom_cfkd. Unless it or an override states
    them, the variant follows the network, and size and area_factor the crops that the network was trained on.
    """
    if checkpoint.suffix == ".onnx":
        _, facts = read_deployed(checkpoint)
        architecture, metadata, overrides = facts.architecture, {"setting": facts.setting}, [f"tracking.size={facts.size}", *overrides]
    else:
        state, metadata = read_state(checkpoint)
        architecture = guess_architecture(state)
    run = checkpoint.parent / "config.yaml"
    trained = configs.read(run) if setting is None and run.is_file() else None
    name = setting or (trained.setting if trained is not None else metadata.get("setting", ""))
    if setting is None and name not in configs.settings():
        name = "atom_cfkd"
    config = configs.load(name, [f"tracking.variant={variant_of(architecture)}", *overrides])
    return fitted(config if trained is None else config.model_copy(update={"pairs": trained.pairs}), architecture)


def fitted(config: Config, architecture: str) -> TrackingConfig:
    """The section `tracking` for a network of a run: what it does not state follows the network and the crops it is trained on."""
    given, crop, variant = config.tracking.model_dump(exclude_unset=True), config.pairs.test, variant_of(architecture)
    own = VARIANTS[given.get("variant", variant)]
    crops = {key: value for key, value in (("size", crop.size), ("area_factor", crop.area_factor)) if key not in own}
    return TrackingConfig.model_validate({"variant": variant} | crops | given)
