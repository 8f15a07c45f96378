"""Who is evaluated and what is tracked in one video: names, configurations, halves of a tracker, and the files of `make track`."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import configs
import models
import teachonce
from configs.errors import RequestError, RunError
from pairs.frames import video_frames
from tracking.baselines import OPENCV, OpenCVTracker, opencv_name
from tracking.clip import film
from tracking.contestants import contestants, of_checkpoint
from tracking.frames import FileFrames
from tracking.one_pass import one_pass
from tracking.request import BASELINES, parse_box
from tracking.sequences import Video, open_videos

QUICK = ("tracking.size=64", "tracking.classifier.augment=false", "tracking.classifier.first_rounds=1", "tracking.refinement.boxes=2")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A random student, as a run leaves it: crops of 96 pixels."""
    folder = tmp_path_factory.mktemp("runs") / "gt" / "seed0"
    torch.manual_seed(0)
    models.save_weights(models.build("atom_resnet18tiny"), folder / "student.safetensors")
    config = configs.load("gt", ["pairs.test.size=96", "pairs.test.area_factor=4", "student.architecture=atom_resnet18tiny"])
    (folder / "config.yaml").write_text(configs.dump(config))
    return folder / "student.safetensors"


@pytest.fixture
def video(demo_video, monkeypatch) -> Video:
    """Six frames of the demo."""
    monkeypatch.setenv("DEMO_ROOT", str(demo_video))
    whole = open_videos("demo").videos[0]
    assert isinstance(whole.frames, FileFrames)
    return Video(whole.name, replace(whole.frames, names=whole.frames.names[:6]), whole.truth[:6], whole.visible[:6])


def test_a_checkpoint_is_named_by_its_run_or_by_the_user(weights, tmp_path):
    assert of_checkpoint(str(weights), None, []).name == "gt-seed0"
    assert of_checkpoint(f"mine={weights}", None, []).name == "mine"
    strange = tmp_path / "a b=c.safetensors"
    strange.write_bytes(weights.read_bytes())
    assert of_checkpoint(str(strange), None, []).name == "a_b=c"
    with pytest.raises(RequestError, match=r"CHECKPOINT: expected a weights file, found nothing at none.safetensors"):
        of_checkpoint("x=none.safetensors", None, [])
    with pytest.raises(RequestError, match="found a folder"):
        of_checkpoint(str(weights.parent), None, [])


def test_the_configuration_follows_the_run_unless_something_states_it(weights, tmp_path):
    config = of_checkpoint(str(weights), None, []).config
    assert (config.variant, config.size, config.area_factor) == ("atom", 96, 4)
    config = of_checkpoint(str(weights), None, ["tracking.size=64"]).config
    assert (config.size, config.area_factor) == (64, 4)
    config = of_checkpoint(str(weights), None, ["tracking.variant=atom_vot"]).config
    assert (config.size, config.area_factor, config.localisation.window) == (224, 4, True)
    lonely = tmp_path / "lonely.safetensors"
    models.save_weights(models.build("drnet_mobilenetsmall"), lonely)
    config = of_checkpoint(str(lonely), None, []).config
    assert (config.variant, config.size, config.area_factor) == ("drnet", 320, 5.5)
    # its box is the network's at once: there is no refinement to leave out
    assert [one.kind for one in contestants([str(lonely)], ("classifier", "refinement"), None, [])] == ["checkpoint", "refinement"]
    demo = of_checkpoint(str(models.DEMO_TEACHER), None, []).config
    assert demo.size == configs.load("demo_teacher").pairs.test.size == 144


def test_baselines_stand_beside_the_first_checkpoint(weights):
    found = contestants([f"a={weights}", f"b={weights}"], BASELINES, None, [])
    best = opencv_name()
    expected = ["a", "b", "still", *([f"opencv-{best}"] if best else []), "a-classifier", "a-refinement"]
    assert [contestant.name for contestant in found] == expected
    assert len({str(contestant.identity()) for contestant in found}) == len(found) - 1  # a and b are one network
    with pytest.raises(RequestError, match="expected a name for each tracker, found a twice"):
        contestants([f"a={weights}", f"a={weights}"], [], None, [])
    with pytest.raises(RequestError, match=r"--baselines: expected none or some of still.*found 'stil'"):
        contestants([], ["stil"], None, [])


def test_each_half_of_a_tracker_leaves_the_other_out(weights, video):
    classifier, refinement = contestants([f"a={weights}"], BASELINES, None, QUICK)[-2:]
    sizes = one_pass(classifier.build("cpu"), video).boxes[:, 2:]
    assert np.abs(sizes - video.truth[0, 2:]).max() < 1e-3
    alone = one_pass(refinement.build("cpu"), video)
    assert np.isfinite(alone.boxes).all()
    assert np.abs(alone.boxes[1:, 2:] - video.truth[0, 2:]).max() > 0.01
    # it begins each frame at the last box, so it cannot jump to where a classifier would
    assert set(alone.states) == {"found"}


def test_opencv_follows_what_moves_and_refuses_a_box_outside():
    name = opencv_name()
    if name is None:
        pytest.skip(f"this OpenCV has none of {', '.join(OPENCV)}")
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    scene = cv2.GaussianBlur(noise, (0, 0), 3) // 4
    patch = cv2.resize(noise[:8, :8], (32, 32), interpolation=cv2.INTER_NEAREST)

    def frame(left: int) -> np.ndarray:
        image = scene.copy()
        image[40:72, left : left + 32] = patch
        return image

    tracker = OpenCVTracker(name)
    tracker.init(frame(30), (30, 40, 32, 32))
    results = [tracker.update(frame(30 + 4 * step)) for step in range(1, 6)]
    assert abs(results[-1].box[0] - 50) < 12
    with pytest.raises(RequestError, match="expected a box that meets the frame of 160 x 120"):
        tracker.init(frame(30), (500, 40, 32, 32))
    with pytest.raises(RequestError, match="expected its tracker NONE, found none"):
        OpenCVTracker("NONE")


def test_one_video_gives_boxes_and_a_film_side_by_side(weights, video, tmp_path, capsys):
    folder = Path(video.frames.folder)
    clip = tmp_path / "clip"
    clip.mkdir()
    for name in video.frames.names:
        (clip / name).write_bytes((folder / name).read_bytes())
    (clip / video.frames.names[3]).write_bytes(b"no image")
    box = ",".join(map(str, video.truth[0]))
    words = ["tracking", "track", "--checkpoint", f"a={weights}", "--checkpoint", f"b={weights}", "--video", str(clip), "--box", box]
    assert teachonce.main([*words, "--out", str(tmp_path / "out"), "--device", "cpu", *QUICK]) == 0
    printed = capsys.readouterr().out
    assert f"video: {tmp_path / 'out' / 'tracked.mp4'}" in printed
    assert "warning: frame 4: expected an image" in printed
    rows = list(csv.DictReader((tmp_path / "out" / "a.csv").open()))
    assert [int(row["frame"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert (rows[3]["state"], rows[3]["score"], rows[3]["x"]) == ("skipped", "", rows[2]["x"])
    assert [float(rows[0][name]) for name in "xywh"] == pytest.approx(video.truth[0].tolist(), abs=1e-3)
    assert (tmp_path / "out" / "b.csv").read_text() == (tmp_path / "out" / "a.csv").read_text()
    pictures = list(video_frames(tmp_path / "out" / "tracked.mp4"))
    height, width = next(iter(video.frames)).shape[:2]
    assert [picture.shape for picture in pictures] == [(height // 2 * 2, 2 * (width // 2 * 2), 3)] * 6
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.csv", "b.csv", "tracked.mp4"]


@pytest.mark.parametrize("text", ["1,2,3", "1,2,3,x", "1,2,nan,4", "1,2,0,4", "1,2,3,-4", "inf,2,3,4", ""])
def test_a_box_that_is_none_is_one_line(text):
    with pytest.raises(RequestError, match="BOX: expected x,y,w,h of finite numbers with w and h above 0, found"):
        parse_box(text)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--box", "9000,10,20,20"), "expected a box that meets the frame"),
        (("--box", "1,2,3"), "BOX: expected x,y,w,h"),
        ((), "no window to ask in; give BOX=x,y,w,h"),
        (("--box", "1,2,30,40", "train.epochs=2"), "expected a field of tracking"),
        (("--box", "1,2,30,40", "tracking.sise=2"), "nearest: 'size'"),
    ],
)
def test_wrong_requests_write_nothing(weights, demo_video, tmp_path, monkeypatch, capsys, words, found):
    def no_window(*given):
        raise cv2.error("no window")

    monkeypatch.setattr(cv2, "selectROI", no_window)
    monkeypatch.chdir(tmp_path)
    clip = demo_video / "val" / "GOT-10k_Val_000001"
    given = ["tracking", "track", "--checkpoint", str(weights), "--video", str(clip), "--device", "cpu"]
    assert teachonce.main([*given, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert found in line
    assert not (tmp_path / "tracked").exists()


def test_labels_that_fall_between_the_cells_are_told_of(weights, capsys):
    # a target of 96 / 4 pixels has 1.5 cells of layer3, its label a quarter of them
    of_checkpoint(f"a={weights}", None, [])
    of_checkpoint(f"b={weights}", None, ["tracking.classifier.label_cells=0.3"])
    of_checkpoint(f"c={weights}", None, ["tracking.classifier.label_cells=0.3", "tracking.classifier.layer=layer1"])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(
        "note: b: the classifier's label has a sigma of 0.38 cells: below 0.75 a target between two cells looks like"
    )


def test_a_film_that_lacks_frames_is_none(tmp_path, monkeypatch):
    class Full:  # OpenCV says nothing of a disk that is full
        def __init__(self, writer: Any) -> None:
            self.release, self.write = writer.release, lambda picture: None

    picture = np.zeros((32, 48, 3), np.uint8)
    for free, error, words in ((2**30, RunError, "expected a video of 3 frames, found 1 written"), (0, OSError, "No space left")):
        monkeypatch.setattr("tracking.clip.free_bytes", lambda folder, free=free: free)
        with pytest.raises(error, match=words), film(tmp_path / "a.mp4", 25.0) as made:
            made.show(picture)
            monkeypatch.setattr(made, "writer", Full(made.writer))
            made.show(picture)
            made.show(picture)
        assert not list(tmp_path.iterdir())
