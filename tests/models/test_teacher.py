"""Which teacher, with which weights; which device."""

from __future__ import annotations

import hashlib

import pytest
import torch

import configs
import models
import models.teacher
from configs.errors import RequestError
from configs.schema import TeacherConfig
from pairs.decode import PREPROCESS_VERSION

TINY = "atom_resnet18tiny"


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(1)
    models.save_weights(models.build(TINY), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_a_teacher_with_its_weights(weights):
    section = TeacherConfig(architecture=TINY, weights=str(weights), batch=8, dtype="bfloat16", feature_bits=4)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    teacher = models.choose_teacher(section)
    assert teacher == models.TeacherSpec(TINY, TINY, weights, digest, "bfloat16", 8, 4, note="")
    assert teacher.identity() == {
        "architecture": TINY,
        "weights_sha256": digest,
        "dtype": "bfloat16",
        "preprocess_version": PREPROCESS_VERSION,
    }
    network = teacher.load(torch.device("cpu"))
    assert (network.dtype, network.tracker.architecture) == (torch.bfloat16, TINY)
    for name, tensor in models.read_state(weights)[0].items():
        assert torch.equal(network.tracker.state_dict()[name], tensor)
    assert models.choose_teacher(section.model_copy(update={"name": "mine"})).name == "mine"


def test_without_weights_the_bundled_teacher_stands_in():
    teacher = models.choose_teacher(TeacherConfig(architecture="atom_resnet50"))
    assert (teacher.architecture, teacher.name, teacher.weights) == ("atom_resnet18medium", "atom_resnet18medium", models.DEMO_TEACHER)
    assert teacher.digest == models.weights_digest(models.DEMO_TEACHER)
    assert teacher.note == (
        "warning: teacher: expected weights for atom_resnet50 (TEACHER=checkpoint.pth), found none; goes on with the bundled demo teacher"
        " (atom_resnet18medium, trained on generated video): good for trials, not for results"
    )
    assert teacher.load(torch.device("cpu")).tracker.architecture == "atom_resnet18medium"
    named = TeacherConfig(architecture="atom_resnet50", name="mine")
    assert models.choose_teacher(named).name == "mine"
    demo = models.demo_teacher(named)
    assert (demo.name, demo.identity()) == ("atom_resnet18medium", teacher.identity())
    assert demo.note == (
        "warning: teacher: expected atom_resnet50, found no targets of it; goes on with those of the bundled demo teacher"
        " (atom_resnet18medium, trained on generated video): good for trials, not for results"
    )


def test_teachers_that_are_refused(weights, tmp_path, monkeypatch):
    with pytest.raises(RequestError, match=r"^teacher: expected weights for drnet_resnet50, found none; pass TEACHER=checkpoint.pth$"):
        models.choose_teacher(TeacherConfig(architecture="drnet_resnet50"))
    with pytest.raises(
        RequestError, match=r"^teacher: expected a weights file, found none at .*x.pth; correct TEACHER= or teacher.weights"
    ):
        models.choose_teacher(TeacherConfig(weights=str(tmp_path / "x.pth")))
    with pytest.raises(RequestError, match=r"found 'atom_resnet81' \(nearest: 'atom_resnet18"):
        configs.load("ts", ["teacher.architecture=atom_resnet81", f"teacher.weights={weights}"])
    other = models.choose_teacher(TeacherConfig(architecture="atom_resnet18small", weights=str(weights)))
    with pytest.raises(RequestError, match=r"it is of atom_resnet18tiny: choose that architecture"):
        other.load(torch.device("cpu"))
    unknown = models.TeacherSpec("mine", TINY, None, "", "float32", 8, None)
    with pytest.raises(RequestError, match=r"^teacher mine: expected its weights, found none at hand; give teacher.weights=FILE$"):
        unknown.load(torch.device("cpu"))
    monkeypatch.setattr(models.teacher, "DEMO_TEACHER", tmp_path / "atom_resnet18medium.safetensors")
    with pytest.raises(RequestError, match="teacher: expected a weights file, found none at"):
        models.demo_teacher(TeacherConfig())


@pytest.mark.parametrize(
    ("name", "gpus", "device"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:1"),
        ("cuda", 2, "cuda:1"),
        ("cuda:0", 2, "cuda:0"),
        ("cpu", 2, "cpu"),
    ],
)
def test_a_device_is_picked(monkeypatch, name, gpus, device):
    with_gpus(monkeypatch, gpus)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert models.pick_device(name) == torch.device(device)
    monkeypatch.delenv("LOCAL_RANK")
    assert models.pick_device(name) == torch.device(device.replace("1", "0"))


@pytest.mark.parametrize(
    ("name", "gpus", "message"),
    [
        ("gpu", 0, "expected auto, cpu, cuda or cuda:n, found 'gpu'; correct it"),
        ("", 0, "expected auto, cpu, cuda or cuda:n, found ''; correct it"),
        ("meta", 0, "expected auto, cpu, cuda or cuda:n, found 'meta'; correct it"),
        ("cuda", 0, "expected a CUDA device for 'cuda', found 0; use auto or cpu"),
        ("cuda:2", 2, "expected a CUDA device for 'cuda:2', found 2; use auto or cpu"),
    ],
)
def test_a_device_that_is_not_there(monkeypatch, name, gpus, message):
    with_gpus(monkeypatch, gpus)
    for field in ("train.device", "--device"):
        with pytest.raises(RequestError) as caught:
            models.pick_device(name, field)
        assert str(caught.value) == f"{field}: {message}"
    monkeypatch.setenv("LOCAL_RANK", "2")
    if gpus:
        with pytest.raises(RequestError, match=r"^train.device: expected a CUDA device for 'cuda:2', found 2"):
            models.pick_device("auto")


def with_gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
