"""Targets: sizes, independence of the rest of the batch, range, the drawn projection."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from configs.errors import RequestError
from configs.schema import Losses
from kdlosses import TARGETS, compute, draw_projection, layers_of, table, target
from models import LAYERS

RESNET18 = {"conv1": 64, "layer1": 64, "layer2": 128, "layer3": 256}
RESNET50 = {"conv1": 64, "layer1": 256, "layer2": 512, "layer3": 1024}
MOBILENET = {"conv1": 32, "layer1": 24, "layer2": 32, "layer3": 64}


def test_sizes_of_the_published_setting() -> None:
    """Bytes a pair of ATOM ResNet-18 at crop 288: response and projected carry a few float32 numbers beside."""
    sizes = {row.name: row.bytes for row in table(RESNET18, 1, 16, 288, student_channels=MOBILENET)}
    assert sizes["iou"] == 32
    assert sizes["abs_sum"] == 6_480
    assert sizes["response"] == 57_432 + 24
    assert sizes["response_gaussian"] == sizes["response"]
    assert sizes["projected"] == 248_832 + 16
    assert sizes["features"] == 995_328
    drnet = {row.name: row.bytes for row in table(RESNET50, 4, 16, 288)}
    assert drnet["iou"] == 128
    assert drnet["abs_sum"] == sizes["abs_sum"]
    assert drnet["features"] == 4 * sizes["features"]
    assert "projected" not in drnet


def test_table_follows_the_code(kit: SimpleNamespace) -> None:
    assert [row.name for row in table(kit.TEACHER, 1, kit.N, kit.CROP, student_channels=kit.STUDENT)] == list(TARGETS)
    assert [row.name for row in table(kit.TEACHER, 1, kit.N, kit.CROP, names=("abs_sum", "iou"))] == ["abs_sum", "iou"]
    for name, one in TARGETS.items():
        assert one.name == name
        assert set(one.needed_by) <= set(Losses.model_fields)
        assert set(one.layers) <= set(LAYERS)


def test_rounding_is_identity_of_whole_features_alone() -> None:
    """Without it the identity is what it was before there was any, so that older caches stay what they are."""
    for name, one in TARGETS.items():
        assert one.identity(None) == {"target": name, "version": one.version}
        assert one.identity(5) == one.identity(None) | ({"feature_bits": 5} if name in ("features", "features_shallow") else {})


@pytest.mark.parametrize("numbers", [1, 4])
def test_compute_gives_the_declared_arrays(numbers: int, kit: SimpleNamespace) -> None:
    teacher = kit.outputs(kit.TEACHER, 2, 0, numbers=numbers, grad=True)
    found = compute(TARGETS, teacher, kit.pairs(2), draw_projection(0, kit.STUDENT, kit.TEACHER))
    wanted = {}
    for name, one in TARGETS.items():
        for array in one.arrays(kit.TEACHER, numbers, kit.N, kit.CROP, student_channels=kit.STUDENT):
            wanted[f"{name}/{array.name}"] = (2, *array.shape)
    assert {key: tuple(value.shape) for key, value in found.items()} == wanted
    assert all(value.dtype == torch.float32 and not value.requires_grad for value in found.values())


def test_a_target_depends_on_its_own_pair_alone(kit: SimpleNamespace) -> None:
    teacher, pairs, projection = kit.outputs(kit.TEACHER, 4, 0), kit.pairs(4), draw_projection(0, kit.STUDENT, kit.TEACHER)
    together = compute(TARGETS, teacher, pairs, projection)
    for index in range(4):
        alone = compute(TARGETS, kit.row(teacher, index), kit.row(pairs, index), projection)
        for key, value in alone.items():
            assert kit.relative(together[key][index : index + 1], value) < 2e-6, key


def test_response_fits_float16_whatever_the_features_are(kit: SimpleNamespace) -> None:
    teacher, pairs = kit.outputs(kit.TEACHER, 3, 0, positive=True), kit.pairs(3)
    for maps in (teacher.ref, teacher.test):
        for layer in maps:
            maps[layer] = maps[layer] * 100
    teacher.test["layer2"][1] = 0
    found = compute(("response", "response_gaussian"), teacher, pairs)
    assert found["response/scale"].max() > 65_504
    for name in ("response", "response_gaussian"):
        for layer in LAYERS:
            peaks = found[f"{name}/{layer}_weighted"].amax((1, 2))
            assert peaks.tolist() == pytest.approx([1.0, 0.0 if layer == "layer2" else 1.0, 1.0])
        assert found[f"{name}/scale"][1, 2] == 1
    assert all(value.isfinite().all() for value in kit.rounded(found).values())


def test_compute_is_float32_under_autocast(kit: SimpleNamespace) -> None:
    teacher, pairs, projection = kit.outputs(kit.TEACHER, 2, 0), kit.pairs(2), draw_projection(0, kit.STUDENT, kit.TEACHER)
    plain = compute(TARGETS, teacher, pairs, projection)
    with torch.autocast("cpu", torch.bfloat16):
        found = compute(TARGETS, teacher, pairs, projection)
    assert all(torch.equal(found[key], value) for key, value in plain.items())


def test_layers_that_the_teacher_must_return() -> None:
    assert layers_of(("iou",)) == ()
    assert layers_of(("abs_sum", "iou", "projected")) == ("layer2", "layer3")
    assert layers_of(("response",)) == LAYERS == layers_of(("features", "abs_sum_shallow"))


def test_projection_is_a_pure_function_of_seed_layer_and_channels() -> None:
    found = draw_projection(3, MOBILENET, RESNET18)
    assert list(found) == list(LAYERS)
    assert all(found[layer].shape == (RESNET18[layer], MOBILENET[layer]) and found[layer].dtype == torch.float32 for layer in LAYERS)
    again = draw_projection(3, {"layer3": 64}, RESNET18)
    assert list(again) == ["layer3"]
    assert torch.equal(again["layer3"], found["layer3"])
    assert not torch.equal(draw_projection(4, MOBILENET, RESNET18)["layer3"], found["layer3"])
    # Xavier-normal, within 5 standard errors of the deviation
    for layer, matrix in found.items():
        wanted = np.sqrt(2 / (RESNET18[layer] + MOBILENET[layer]))
        assert abs(matrix.std().item() / wanted - 1) < 5 / np.sqrt(2 * matrix.numel())
        assert abs(matrix.mean().item()) < 5 * wanted / np.sqrt(matrix.numel())


def test_what_compute_refuses(kit: SimpleNamespace) -> None:
    teacher, pairs = kit.outputs({"layer2": 8}, 2, 0), kit.pairs(2)
    with pytest.raises(RequestError, match=r"one of the targets iou, .*, found 'abs_sun' \(nearest: 'abs_sum'\); correct the name"):
        target("abs_sun")
    with pytest.raises(RequestError, match=r"expected teacher features of layer3 for target 'abs_sum', found layer2; ask the teacher"):
        compute(("abs_sum",), teacher, pairs)
    with pytest.raises(RequestError, match=r"expected the projection for a projected target, found none; pass draw_projection"):
        compute(("projected",), kit.outputs(kit.TEACHER, 2, 0), pairs)
    with pytest.raises(RequestError, match=r"expected the student's channels for a projected target, found none; pass student_channels"):
        TARGETS["projected"].arrays(RESNET18, 1, 16, 288)
