"""What training sees of tracking: a student in a few validation sequences, between two epochs (`train.hook` calls it by name)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

import models
from configs import Config
from configs.catalog import members
from configs.errors import RequestError
from tracking.contestants import fitted
from tracking.one_pass import one_pass
from tracking.online import build_tracker
from tracking.scores import score
from tracking.sequences import VideoSet, open_videos
from tracking.strips import stacked, strip

NAME = "student"


def prepare(config: Config) -> Callable[[nn.Module, torch.device], tuple[dict[str, float], np.ndarray]]:
    """What tracks the first train.track_sequences sequences of the validation data set: (student, device) -> (auc and ao, film strips).

    It leaves torch's random state as it was. RequestError: the data set is not at hand, is no video, or has no true boxes.
    """
    videos = _videos(config)
    tracking = fitted(config, config.student.architecture)

    def track(student: nn.Module, device: torch.device) -> tuple[dict[str, float], np.ndarray]:
        # building a network draws numbers that are the run's
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            path = Path(folder) / f"{NAME}.safetensors"
            models.save_weights(student.state_dict(), path)
            tracker = build_tracker(path, tracking, device)
            with torch.enable_grad():  # the refinement climbs a gradient
                answers = {NAME: {video.name: one_pass(tracker, video) for video in videos.videos}}
        scores = score(answers, videos)
        assert scores is not None
        numbers = scores.trackers[0].numbers
        strips = [strip(video, {NAME: answers[NAME][video.name].boxes}, video.name) for video in videos.videos]
        return {"auc": numbers["pytracking", "auc"].value, "ao": numbers["got10k", "ao"].value}, stacked(strips)

    return track


def _videos(config: Config) -> VideoSet:
    """Some sequences of the first data set of the validation."""
    dataset = config.val_dataset or config.dataset or ""
    try:
        videos = open_videos(members(dataset, "val")[0], "val").first(config.train.track_sequences)
    except RequestError as error:
        raise RequestError(f"train.track_every: expected video to track in, found none: {error}; or set train.track_every=0") from error
    if not all(video.annotated for video in videos.videos):
        raise RequestError(f"train.track_every: expected true boxes of all frames, found only the first of {videos.name}; set it to 0")
    return videos
