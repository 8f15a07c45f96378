"""Labels, Gaussians and the cross-correlation against plain twins."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from configs.schema import PairsConfig
from kdlosses import correlation
from kdlosses.correlation import correlate, fft_size, target_patch
from kdlosses.gaussian import gaussian
from kdlosses.labels import box_label, iou_label, label
from models import STRIDES


def test_iou_label_matches_a_loop(kit: SimpleNamespace) -> None:
    boxes = kit.boxes(3)
    found = iou_label(boxes.proposals, boxes.test_box)
    for b in range(3):
        for n in range(kit.N):
            px, py, pw, ph = boxes.proposals[b, n].tolist()
            gx, gy, gw, gh = boxes.test_box[b].tolist()
            inter = max(0, min(px + pw, gx + gw) - max(px, gx)) * max(0, min(py + ph, gy + gh) - max(py, gy))
            assert found[b, n].item() == pytest.approx(2 * inter / (pw * ph + gw * gh - inter) - 1, abs=1e-5)
    assert torch.equal(label(boxes, 1), found)


def test_box_label_matches_a_loop(kit: SimpleNamespace) -> None:
    boxes = kit.boxes(3)
    found = box_label(boxes.proposals, boxes.test_box)
    for b in range(3):
        for n in range(kit.N):
            px, py, pw, ph = boxes.proposals[b, n].tolist()
            gx, gy, gw, gh = boxes.test_box[b].tolist()
            wanted = [(gx + gw / 2 - px - pw / 2) / pw, (gy + gh / 2 - py - ph / 2) / ph, math.log(gw / pw), math.log(gh / ph)]
            assert found[b, n].tolist() == pytest.approx(wanted, abs=1e-5)
    assert torch.equal(label(boxes, 4), found)


def test_gaussian_matches_a_loop_and_stands_on_the_box() -> None:
    box = torch.tensor([[16.0, 40.0, 24.0, 8.0], [3.0, 5.0, 30.0, 31.0]])
    found = gaussian(box, (12, 10), 8, 0.15)
    for b, (x, y, w, h) in enumerate(box.tolist()):
        for i in range(12):
            for j in range(10):
                dy = (i - (12 - 1) / 2) - ((y + h / 2) / 8 - 12 / 2)
                dx = (j - (10 - 1) / 2) - ((x + w / 2) / 8 - 10 / 2)
                wanted = math.exp(-(dy**2) / (2 * (0.15 * 12) ** 2) - dx**2 / (2 * (0.15 * 10) ** 2))
                assert found[b, i, j].item() == pytest.approx(wanted, rel=1e-4, abs=1e-7)
    # centre (28, 44) of the first box: the middle of the cells 3 (24 ... 32) and 5 (40 ... 48), hence exactly the peak
    assert found[0, 5, 3].item() == 1.0 == found[0].max().item()


def test_gaussian_is_differentiable_in_the_box() -> None:
    box = torch.tensor([[20.0, 40.0, 24.0, 8.0]], requires_grad=True)
    (found,) = torch.autograd.grad(gaussian(box, (12, 12), 8, 0.25)[0, 6, 2], box)
    step = 0.5
    for axis in range(4):
        shift = torch.zeros(1, 4)
        shift[0, axis] = step
        up, down = (gaussian(box.detach() + sign * shift, (12, 12), 8, 0.25)[0, 6, 2] for sign in (1, -1))
        assert found[0, axis].item() == pytest.approx((up - down).item() / (2 * step), rel=2e-2)


def test_a_patch_has_the_cells_of_a_target_in_the_test_map(geometry: PairsConfig, kit: SimpleNamespace) -> None:
    ref, boxes = kit.outputs(kit.STUDENT, 2, 0, geometry=geometry).ref, kit.boxes(2, geometry=geometry)
    sides = {96: [11, 5, 3, 3], 128: [17, 9, 5, 3], 64: [17, 9, 5, 3]}[geometry.test.size]
    for k, layer in zip(sides, ref, strict=True):
        plain = math.ceil(58 * geometry.test.size / 288 * 5 / geometry.test.area_factor / STRIDES[layer])
        assert k == plain + (plain % 2 == 0)
        assert target_patch(ref[layer], boxes, STRIDES[layer]).shape == (2, kit.STUDENT[layer], k, k)


def test_fft_sizes() -> None:
    assert [fft_size(n) for n in (158, 79, 40, 20, 7, 161)] == [160, 80, 40, 20, 8, 162]


def test_correlation_is_its_definition() -> None:
    random = torch.Generator().manual_seed(1)
    test, patch = torch.randn(2, 3, 6, 5, generator=random), torch.randn(2, 3, 3, 3, generator=random)
    found = correlate(test, patch)
    for b in range(2):
        for y in range(6):
            for x in range(5):
                wanted = 0.0
                for c in range(3):
                    for i in range(3):
                        for j in range(3):
                            if 0 <= y + i - 1 < 6 and 0 <= x + j - 1 < 5:
                                wanted += float(test[b, c, y + i - 1, x + j - 1] * patch[b, c, i, j])
                assert found[b, y, x].item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("side", "k", "channels"), [((48, 48), 11, 4), ((18, 18), 5, 64), ((13, 20), 9, 3), ((75, 60), 29, 30), ((5, 5), 5, 2)]
)
def test_correlation_matches_a_grouped_convolution(side: tuple[int, int], k: int, channels: int, kit: SimpleNamespace) -> None:
    random = torch.Generator().manual_seed(k)
    test, patch = (torch.randn(2, channels, *shape, generator=random, requires_grad=True) for shape in (side, (k, k)))
    exact_test, exact_patch = (value.detach().double().requires_grad_() for value in (test, patch))
    grouped = functional.conv2d(exact_test.flatten(0, 1)[None], exact_patch.flatten(0, 1)[:, None], groups=2 * channels, padding=k // 2)
    wanted = grouped[0].unflatten(0, (2, channels)).sum(1)
    found = correlate(test, patch)
    assert kit.relative(found, wanted) < 1e-6
    upstream = torch.randn(wanted.shape, generator=random)
    of_found = torch.autograd.grad(found, (test, patch), upstream)
    of_wanted = torch.autograd.grad(wanted, (exact_test, exact_patch), upstream.double())
    for first, second in zip(of_found, of_wanted, strict=True):
        assert kit.relative(first, second) < 1e-6


def test_correlation_gradient_by_finite_differences_and_one_sided() -> None:
    random = torch.Generator().manual_seed(3)
    test = torch.randn(2, 2, 5, 6, generator=random, dtype=torch.float64, requires_grad=True)
    patch = torch.randn(2, 2, 3, 3, generator=random, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(correlate, (test, patch))
    assert torch.autograd.gradcheck(correlate, (test, patch.detach()))
    assert torch.autograd.gradcheck(correlate, (test.detach(), patch))


def test_correlation_stays_float32_under_autocast(kit: SimpleNamespace) -> None:
    student, boxes = kit.outputs(kit.STUDENT, 2, 0), kit.boxes(2)
    ref, test = student.ref["layer2"], student.test["layer2"]
    plain = correlate(test, target_patch(ref, boxes, 8))
    with torch.autocast("cpu", torch.bfloat16):
        found = correlate(test, target_patch(ref, boxes, 8))
    assert found.dtype == torch.float32
    assert torch.equal(found, plain)


def test_correlation_in_blocks_of_pairs(monkeypatch: pytest.MonkeyPatch, kit: SimpleNamespace) -> None:
    """A CPU transforms some pairs at a time: 5 pairs in blocks of 2 are the same as in one."""
    random = torch.Generator().manual_seed(5)
    test, patch = (torch.randn(5, 3, side, side, generator=random, requires_grad=True) for side in (9, 5))
    results = []
    for cached in (2**30, 2 * 3 * 12 * 12):
        monkeypatch.setattr(correlation, "_CACHED", cached)
        assert correlation._chunk(test, (12, 12)) == (2 if cached < 2**30 else 2**30 // 432)
        found = correlate(test, patch)
        results.append((found, *torch.autograd.grad(found.square().sum(), (test, patch))))
    for first, second in zip(*results, strict=True):
        assert kit.relative(first, second) < 1e-6
