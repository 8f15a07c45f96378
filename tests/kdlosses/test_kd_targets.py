"""Targets: sizes, independence of the rest of the batch, range, the drawn projection."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import configs
import models
from configs.errors import RequestError
from configs.schema import Losses, PairsConfig
from kdlosses import TARGETS, Sizes, compute, draw_projection, layers_of, sizes_of, target, target_spec
from models import LAYERS

RESNET18 = {"conv1": 64, "layer1": 64, "layer2": 128, "layer3": 256}
RESNET50 = {"conv1": 64, "layer1": 256, "layer2": 512, "layer3": 1024}
MOBILENET = {"conv1": 32, "layer1": 24, "layer2": 32, "layer3": 64}


def bytes_of(sizes: Sizes, names: Iterable[str] = TARGETS) -> dict[str, int]:
    return {name: target_spec(name, sizes).pair_bytes for name in names}


def test_sizes_of_the_published_setting() -> None:
    """Bytes a pair of ATOM ResNet-18 at crop 288: response and projected carry a few float32 numbers beside."""
    sizes = bytes_of(Sizes(RESNET18, 1, PairsConfig(), MOBILENET))
    assert sizes["iou"] == 32
    assert sizes["abs_sum"] == 6_480
    assert sizes["response"] == 57_432 + 24
    assert sizes["response_gaussian"] == sizes["response"]
    assert sizes["projected"] == 248_832 + 16
    assert sizes["features"] == 995_328
    drnet = bytes_of(Sizes(RESNET50, 4, PairsConfig()), ("iou", "abs_sum", "features"))
    assert drnet == {"iou": 128, "abs_sum": sizes["abs_sum"], "features": 4 * sizes["features"]}


def test_each_image_has_the_shapes_of_its_own_size(kit: SimpleNamespace) -> None:
    sizes = Sizes(RESNET18, 1, kit.shaped((128, 2.0), (256, 4.0)), MOBILENET)
    shapes = {f"{name}/{array.name}": array.shape for name in TARGETS for array in target_spec(name, sizes).arrays}
    assert (shapes["abs_sum/layer2_ref"], shapes["abs_sum/layer2_test"]) == ((16, 16), (32, 32))
    assert (shapes["projected/layer3_ref"], shapes["projected/layer3_test"]) == ((64, 8, 8), (64, 16, 16))
    assert (shapes["features_shallow/conv1_ref"], shapes["features_shallow/conv1_test"]) == ((64, 64, 64), (64, 128, 128))
    # 58 pixels of 288 at factor 5 are 64.4 of 256 at factor 4
    assert [shapes[f"response/{layer}_patch"][0] for layer in LAYERS] == [33, 17, 9, 5]
    assert [shapes[f"response/{layer}_weighted"][0] for layer in LAYERS] == [128, 64, 32, 16]


def test_table_follows_the_code() -> None:
    for name, row in TARGETS.items():
        assert row.name == name
        assert row.needed_by and set(row.needed_by) <= set(Losses.model_fields)
        assert set(row.layers) <= set(LAYERS)
    assert {name for name, row in TARGETS.items() if row.projected} == {"projected", "projected_shallow"}
    assert {name for name, row in TARGETS.items() if row.whole} == {"features", "features_shallow"}
    changed = {"abs_sum", "abs_sum_shallow", "projected", "projected_shallow", "features", "features_shallow"}
    assert {name: row.version for name, row in TARGETS.items()} == {name: 2 if name in changed else 1 for name in TARGETS}


def test_identity_of_a_target(kit: SimpleNamespace) -> None:
    """Rounding belongs to whole features alone, the projection to projected targets."""
    for name, row in TARGETS.items():
        plain, coarse = (target_spec(name, replace(kit.sizes(), feature_bits=bits, projection_seed=3)) for bits in (None, 5))
        facts = {"target": name, "version": row.version}
        if row.projected:
            facts |= {"projection_seed": 3, "student_channels": {layer: kit.STUDENT[layer] for layer in row.layers}}
            drawn = draw_projection(3, kit.STUDENT, kit.TEACHER)
            assert {layer: matrix.tolist() for layer, matrix in plain.constants.items()} == {
                layer: drawn[layer].tolist() for layer in row.layers
            }
        assert plain.identity == facts and bool(plain.constants) == row.projected
        assert coarse.identity == facts | ({"feature_bits": 5} if row.whole else {})
        assert not any(array.compress for array in plain.arrays)
        assert all(array.compress == row.whole for array in coarse.arrays)
        assert plain.pair_bytes == coarse.pair_bytes
    assert target_spec("abs_sum", kit.sizes()).about == {
        "doc": "channel-summed absolute features (layer2, layer3)",
        "needed_by": ["fidelity"],
    }


def test_sizes_of_a_setting() -> None:
    config = configs.load("atom_compression", ["losses.projected_fidelity.seed=4", "pairs.ref.size=128"])
    assert config.teacher is not None
    spec = models.TeacherSpec("other", "atom_resnet18medium", None, "", "float32", 32, 5)
    sizes = sizes_of(config, spec)
    assert sizes == Sizes(models.network_sizes(spec.architecture)[0], 1, config.pairs, MOBILENET, 5, 4)
    assert sizes_of(config, config.teacher) == replace(sizes, teacher_channels=RESNET18, feature_bits=None)
    two = [
        f"phases=[{', '.join(f'{{epochs: 1, losses: {{projected_fidelity: {{seed: {seed}}}}}}}' for seed in seeds)}]"
        for seeds in ((6, 6), (6, 7))
    ]
    assert sizes_of(configs.load("atom_compression", two[:1]), spec).projection_seed == 6
    with pytest.raises(RequestError, match=r"losses.projected_fidelity.seed: expected one over all phases, found 6, 7; set one"):
        sizes_of(configs.load("atom_compression", two[1:]), spec)


@pytest.mark.parametrize("numbers", [1, 4])
def test_compute_gives_the_declared_arrays(numbers: int, geometry: PairsConfig, kit: SimpleNamespace) -> None:
    teacher = kit.outputs(kit.TEACHER, 2, 0, geometry=geometry, numbers=numbers, grad=True)
    found = compute(TARGETS, teacher, kit.boxes(2, geometry=geometry), draw_projection(0, kit.STUDENT, kit.TEACHER))
    wanted = {}
    for name in TARGETS:
        for array in target_spec(name, kit.sizes(numbers, geometry)).arrays:
            wanted[f"{name}/{array.name}"] = (2, *array.shape)
    assert {key: tuple(value.shape) for key, value in found.items()} == wanted
    assert all(value.dtype == torch.float32 and not value.requires_grad for value in found.values())


def test_a_target_depends_on_its_own_pair_alone(geometry: PairsConfig, kit: SimpleNamespace) -> None:
    teacher, boxes = kit.outputs(kit.TEACHER, 4, 0, geometry=geometry), kit.boxes(4, geometry=geometry)
    projection = draw_projection(0, kit.STUDENT, kit.TEACHER)
    together = compute(TARGETS, teacher, boxes, projection)
    for index in range(4):
        alone = compute(TARGETS, kit.row(teacher, index), kit.row(boxes, index), projection)
        for key, value in alone.items():
            assert kit.relative(together[key][index : index + 1], value) < 2e-6, key


def test_response_fits_float16_whatever_the_features_are(kit: SimpleNamespace) -> None:
    teacher, boxes = kit.outputs(kit.TEACHER, 3, 0, positive=True), kit.boxes(3)
    for maps in (teacher.ref, teacher.test):
        for layer in maps:
            maps[layer] = maps[layer] * 100
    teacher.test["layer2"][1] = 0
    found = compute(("response", "response_gaussian"), teacher, boxes)
    assert found["response/scale"].max() > 65_504
    for name in ("response", "response_gaussian"):
        for layer in LAYERS:
            peaks = found[f"{name}/{layer}_weighted"].amax((1, 2))
            assert peaks.tolist() == pytest.approx([1.0, 0.0 if layer == "layer2" else 1.0, 1.0])
        assert found[f"{name}/scale"][1, 2] == 1
    assert all(value.isfinite().all() for value in kit.rounded(found).values())


def test_compute_is_float32_under_autocast(kit: SimpleNamespace) -> None:
    teacher, boxes, projection = kit.outputs(kit.TEACHER, 2, 0), kit.boxes(2), draw_projection(0, kit.STUDENT, kit.TEACHER)
    plain = compute(TARGETS, teacher, boxes, projection)
    with torch.autocast("cpu", torch.bfloat16):
        found = compute(TARGETS, teacher, boxes, projection)
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
    teacher, boxes = kit.outputs({"layer2": 8}, 2, 0), kit.boxes(2)
    with pytest.raises(RequestError, match=r"one of the targets iou, .*, found 'abs_sun' \(nearest: 'abs_sum'\); correct the name"):
        target("abs_sun")
    with pytest.raises(RequestError, match=r"expected teacher features of layer3 for target 'abs_sum', found layer2; ask the teacher"):
        compute(("abs_sum",), teacher, boxes)
    with pytest.raises(RequestError, match=r"expected the projection for a projected target, found none; pass draw_projection"):
        compute(("projected",), kit.outputs(kit.TEACHER, 2, 0), boxes)
    with pytest.raises(RequestError, match=r"expected the student's channels for a projected target, found none; give Sizes"):
        target_spec("projected", Sizes(RESNET18, 1, PairsConfig()))
