"""A run that tracks between its epochs: what it writes, and that it trains as if it had not."""

from __future__ import annotations

import json

import cv2
import pytest
import torch

from configs import RequestError
from train.run import run


@pytest.fixture
def video(tmp_path, demo_video, monkeypatch):
    """The world's data set, as video of the demo."""
    (tmp_path / "sets.yaml").write_text(f"tiny: {{kind: got10k, root: '{demo_video}', train: {{}}, val: {{}}}}\n")
    monkeypatch.setenv("DATASETS", str(tmp_path / "sets.yaml"))


def test_a_run_tracks_validation_sequences_and_trains_the_same(world, tmp_path, video, capsys):
    quick = ("train.batches=2", "train.val_batches=1", "train.check_pairs=0", "train.pictures=0", "train.refine_pairs=0", "recut_pairs=0")
    plain = run(world.config(*quick, setting="gt", runs=tmp_path / "plain"))
    asked = ("train.track_every=1", "train.track_sequences=1", "tracking.classifier.augment=false")
    folder = run(world.config(*quick, *asked, setting="gt", runs=tmp_path / "tracked"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tracked = [line for line in lines if line["kind"] == "track"]
    assert [(line["epoch"], line["step"]) for line in tracked] == [(1, 2), (2, 4)]
    assert all(0 < line["auc"] < 1 and 0 < line["ao"] < 1 for line in tracked)
    strips = cv2.imread(str(folder / "tracking" / "epoch0002.png"))
    assert strips is not None
    assert strips.std() > 20
    assert "tracking after epoch 2: AUC " in capsys.readouterr().out
    weights = [torch.load(place / "checkpoint.pt", weights_only=True) for place in (plain, folder)]
    mine, theirs = (json.dumps(_numbers(state)) for state in weights)
    assert mine == theirs


def _numbers(state):
    """Every tensor of the students in a checkpoint, as sums that a changed bit would change."""
    found = {name: tensor.double().sum().item() for name, tensor in state["students"].items() if torch.is_floating_point(tensor)}
    assert len(found) > 50
    return found


def test_video_that_is_not_at_hand_is_refused_before_the_run(world, tmp_path):
    with pytest.raises(RequestError, match=r"train.track_every: expected video to track in, found none: .*'tiny'.*set train.track_every=0"):
        run(world.config("train.track_every=1", setting="gt", runs=tmp_path))
    assert not (tmp_path / "gt").exists()
