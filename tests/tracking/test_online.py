"""The whole tracker on a picture that moves: it follows, says when the target is gone, repeats itself, refuses wrong input in one line."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import models
from configs.errors import RequestError
from configs.tracking import TrackingConfig
from models.convert import load_tracker
from models.deploy import deploy, halve, read_deployed
from models.teacher import DEMO_TEACHER
from pairs.boxes import box_iou
from tracking.online import OnlineTracker, build_tracker
from tracking.onnx_network import OnnxNetwork

CPU = torch.device("cpu")
SMALL = {"size": 64, "area_factor": 3.0, "classifier": {"layer": "layer2", "every": 3, "memory": 32}}
BOX = (60.0, 50.0, 30.0, 24.0)


def frame(x: float, y: float) -> np.ndarray:
    """A textured disc on a textured ground, RGB."""
    rng = np.random.default_rng(3)
    ground = cv2.resize(rng.integers(60, 120, (12, 16, 3), np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
    disc = cv2.resize(rng.integers(120, 255, (4, 5, 3), np.uint8), (30, 24), interpolation=cv2.INTER_NEAREST)
    left, top = round(x), round(y)
    ground[top : top + 24, left : left + 30] = disc
    return ground


def config(**more: object) -> TrackingConfig:
    return TrackingConfig.model_validate(SMALL | more)


def follow(tracker: OnlineTracker, frames: int = 6) -> tuple[list[tuple[float, float, float, float]], list[float]]:
    """Boxes of the disc that moves right by 3 pixels a frame, and their IoU with the truth."""
    tracker.init(frame(60, 50), BOX)
    boxes = [tracker.update(frame(60 + 3 * k, 50 + k)).box for k in range(1, frames)]
    truth = np.array([[60 + 3 * k, 50 + k, 30, 24] for k in range(1, frames)], float)
    return boxes, [float(overlap) for overlap in box_iou(np.array(boxes), truth)]


@pytest.fixture(scope="module")
def teacher() -> OnlineTracker:
    return build_tracker(DEMO_TEACHER, config(), CPU)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("student") / "tiny.safetensors"
    models.save_weights(models.build("atom_resnet18tiny"), path)
    return path


def test_it_follows_and_the_same_frames_give_the_same_boxes(teacher: OnlineTracker):
    classifier = build_tracker(DEMO_TEACHER, config(refinement={"steps": 0, "boxes": 1}), CPU)
    assert min(follow(classifier)[1]) > 0.6
    boxes, overlap = follow(teacher)
    assert min(overlap) > 0.3
    assert follow(teacher)[0] == boxes, "an init begins anew"
    assert follow(build_tracker(DEMO_TEACHER, config(seed=1), CPU))[0] != boxes


def test_a_target_that_is_gone_is_not_found_and_its_box_stays(teacher: OnlineTracker):
    teacher.init(frame(60, 50), BOX)
    last = teacher.update(frame(62, 50))
    gone = teacher.update(np.full_like(frame(0, 0), 90))
    assert last.state == "found" and gone.state == "not_found"
    assert gone.box == last.box and gone.score < 0.25 < last.score


def test_a_box_network_and_the_published_reading_work(tmp_path: Path):
    torch.manual_seed(0)
    models.save_weights(models.build("drnet_mobilenetsmall"), tmp_path / "d.safetensors")
    section = TrackingConfig.model_validate(SMALL | {"variant": "drnet", "reading": "subsample"})
    assert len(section.classifier.label_sigmas) == 2, "the variant's numbers stay where none are given"
    tracker = build_tracker(tmp_path / "d.safetensors", section, CPU)
    tracker.init(frame(60, 50), BOX)
    assert len(tracker.classifier.filters) == 2
    assert np.isfinite(tracker.update(frame(61, 50)).box).all()


def test_a_classifier_with_a_network_and_a_crop_of_its_own(student: Path):
    own = {"layer": "layer3", "size": 96, "area_factor": 4.0, "checkpoint": str(student)}
    tracker = build_tracker(DEMO_TEACHER, config(classifier=own), CPU)
    assert not tracker.together
    tracker.init(frame(60, 50), BOX)
    assert np.isfinite(tracker.update(frame(61, 50)).box).all()


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((1, 2, 0, 5), "with w, h > 0, found"),
        ((1, 2, float("nan"), 5), "expected a box x,y,w,h of finite numbers"),
        ((1, 2, 3), "expected a box x,y,w,h of finite numbers"),
        ("1,2,3,4", "expected a box x,y,w,h of finite numbers"),
        ((160, 20, 10, 10), "expected a box that meets the frame of 160 x 120"),
        ((-20, 20, 20, 10), "expected a box that meets the frame of 160 x 120"),
    ],
)
def test_a_wrong_box_is_refused(teacher: OnlineTracker, box, message: str):
    with pytest.raises(RequestError, match=message):
        teacher.init(frame(60, 50), box)


def test_wrong_frames_and_networks_are_refused(teacher: OnlineTracker, student: Path):
    with pytest.raises(RequestError, match=r"expected a frame \(H, W, 3\) of uint8, found float64"):
        teacher.init(frame(60, 50) / 255, BOX)
    with pytest.raises(RequestError, match=r"expected a frame .* found NoneType"):
        teacher.update(None)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"expected a network of the drnet tracker, found atom_resnet18tiny; set tracking.variant=atom"):
        build_tracker(student, config(variant="drnet"), CPU)
    with pytest.raises(RequestError, match="expected a checkpoint file, found nothing"):
        build_tracker(student.with_name("none.pth"), config(), CPU)


def _damaged(path: Path) -> dict[str, bytes]:
    """Files that are no tracker any more: a weight, a node, what it says of itself; also of those that have no checksum."""

    def changed(change, sealed: bool = True) -> bytes:
        model, _ = read_deployed(path)
        facts = {item.key: item for item in model.metadata_props}
        change(model, facts)
        if not sealed:
            model.metadata_props.remove(facts["sha256"])
        return model.SerializeToString()

    def weight(model, facts):
        tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
        tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]

    def node(model, facts):
        del model.graph.node[3]

    def says(key: str, value: str):
        return lambda model, facts: setattr(facts[key], "value", value)

    content = path.read_bytes()
    cut = {"junk": b"no graph", "empty": b"", "half": content[: len(content) // 2], "weight": changed(weight), "node": changed(node)}
    lies = {"size": "48", "architecture": "nonsense", "numbers": "4"}
    return cut | {"bare": changed(node, False)} | {key: changed(says(key, value), False) for key, value in lies.items()}


def test_one_onnx_file_tracks_as_its_checkpoint(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    network, _ = load_tracker(DEMO_TEACHER)
    deploy(network, tmp_path / "float32.onnx", 64)
    model, facts = read_deployed(tmp_path / "float32.onnx")
    halve(model)
    model.metadata_props.remove(next(item for item in model.metadata_props if item.key == "sha256"))  # as files of before
    (tmp_path / "float16.onnx").write_bytes(model.SerializeToString())
    assert facts.architecture == "atom_resnet18medium" and facts.numbers == 1
    assert (tmp_path / "float16.onnx").stat().st_size < 0.55 * (tmp_path / "float32.onnx").stat().st_size
    expected = np.array(follow(build_tracker(DEMO_TEACHER, config(), CPU), 3)[0])
    for precision, error in (("float32", 0.02), ("float16", 0.5)):
        found = np.array(follow(build_tracker(tmp_path / f"{precision}.onnx", config(), CPU), 3)[0])
        np.testing.assert_allclose(found, expected, atol=error)
    with pytest.raises(RequestError, match=r"expected tracking.size=64, as fixed in the file, found 96"):
        build_tracker(tmp_path / "float32.onnx", config(size=96), CPU)
    for name, content in _damaged(tmp_path / "float32.onnx").items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
        with pytest.raises(RequestError, match=r"\.onnx.*make it with `models deploy`"):
            OnnxNetwork(tmp_path / f"{name}.onnx", CPU)
    with pytest.raises(RequestError, match="int8: expected crops"):
        deploy(network, tmp_path / "q.onnx", 64, "int8")


def test_a_box_network_in_one_onnx_file_tracks_as_its_checkpoint(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    models.save_weights(models.build("drnet_mobilenetsmall"), tmp_path / "d.safetensors")
    network, _ = load_tracker(tmp_path / "d.safetensors")
    deploy(network, tmp_path / "d.onnx", 64)
    section = TrackingConfig.model_validate(SMALL | {"variant": "drnet"})
    expected, found = (np.array(follow(build_tracker(tmp_path / name, section, CPU), 3)[0]) for name in ("d.safetensors", "d.onnx"))
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert not np.allclose(expected, BOX, atol=1)
