"""Every loss, value and gradients, against a plain twin written from the formulas with whole teacher features."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from configs.schema import ImageConfig, PairsConfig
from kdlosses import Objective, compute, layers_of
from kdlosses.adaptive_hard import adaptive_hard
from kdlosses.gaussian import gaussian
from kdlosses.labels import label
from models import LAYERS, STRIDES, Outputs, prroi_pool
from pairs.batch import Boxes

EXACT, CACHED = 2e-5, 2e-3


def smooth_l1(a: Tensor, b: Tensor) -> Tensor:
    d = (a - b).abs()
    return torch.where(d < 1, 0.5 * d * d, d - 0.5).mean()


def mse(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).mean()


REG = {"mse": mse, "smooth_l1": smooth_l1}


def plain_side(boxes: Boxes, layer: str) -> int:
    """k of the public code, at the size and area factor of the test image."""
    k = math.ceil(58 * boxes.test.size / 288 * 5 / boxes.test.area_factor / STRIDES[layer])
    return k + (k % 2 == 0)


def plain_response(one: Outputs, boxes: Boxes, layer: str) -> tuple[Tensor, Tensor]:
    """Q (B, H, W) by a grouped convolution, and the patch."""
    k = plain_side(boxes, layer)
    patch = prroi_pool(one.ref[layer], boxes.ref_box[:, None], k, 1 / STRIDES[layer])[:, 0]
    batch, channels = patch.shape[:2]
    grouped = functional.conv2d(
        one.test[layer].reshape(1, batch * channels, *one.test[layer].shape[2:]),
        patch.reshape(batch * channels, 1, k, k),
        groups=batch * channels,
        padding=k // 2,
    )
    return grouped[0].unflatten(0, (batch, channels)).sum(1), patch


def bell(box: Tensor, layer: str, side: int, sigma: float) -> Tensor:
    return gaussian(box, (side, side), STRIDES[layer], sigma)


def twin_correlation_filter(one: Outputs, boxes: Boxes, normalise: str) -> Tensor:
    total = torch.zeros(())
    for layer in LAYERS:
        q, _ = plain_response(one, boxes, layer)
        q = q / q.max() if normalise == "batch" else torch.stack([row / row.max() for row in q])
        total = total + mse(q, bell(boxes.test_box, layer, q.shape[-1], 0.15))
    return total


def twin_target_response(student: Outputs, teacher: Outputs, boxes: Boxes, weights: str, form: str) -> Tensor:
    total = torch.zeros(())
    for layer in LAYERS:
        maps, patches = [], []
        for one in (student, teacher):
            w, patch = plain_response(one, boxes, layer)
            if weights == "gaussian":
                w = bell(boxes.test_box, layer, w.shape[-1], 0.25)
            w = w / w.sum()
            maps.append((one.test[layer] * w[:, None]).abs().sum(1))
            patches.append(patch.abs().sum(1))
        total = total + REG[form](*maps) + REG[form](*patches)
    return total


def twin_tracking(one: Outputs, boxes: Boxes) -> Tensor:
    total = torch.zeros(())
    for layer in ("layer1", "layer2", "layer3"):
        x, z = torch.fft.fft2(one.ref[layer]), torch.fft.fft2(one.test[layer])
        side = one.ref[layer].shape[-1]
        y = torch.fft.fft2(bell(boxes.ref_box, layer, side, 0.25))[:, None]
        w = y.conj() * x / ((x * x.conj()).sum(1, keepdim=True) + 1e-5)
        r = torch.fft.ifft2(w.conj() * z)
        assert r.imag.abs().max() < 1e-4
        total = total + mse(r.real, bell(boxes.test_box, layer, side, 0.25)[:, None].expand_as(r.real))
    return total


def twin_tracking_in_space(student: Outputs, boxes: Boxes, regularisation: float = 1e-5) -> Tensor:
    """The filter as numbers at lags, those that both maps have; r[u] = sum over lags v of w[v] z[u + v], wrapping around. float64."""
    total = torch.zeros((), dtype=torch.float64)
    for layer in ("layer1", "layer2", "layer3"):
        x, z = student.ref[layer].double(), student.test[layer].double()
        n, m = x.shape[-1], z.shape[-1]
        y = torch.fft.fft2(bell(boxes.ref_box, layer, n, 0.25).double())[:, None]
        spectrum = torch.fft.fft2(x)
        learnt = torch.fft.ifft2(y.conj() * spectrum / ((spectrum.abs() ** 2).sum(1, keepdim=True) + regularisation)).real
        lags = range(max(-(n // 2), -(m // 2)), min((n + 1) // 2, (m + 1) // 2))
        response = torch.zeros_like(z)
        for down in lags:
            for right in lags:
                response = response + learnt[..., down % n, right % n, None, None] * z.roll((-down, -right), (-2, -1))
        total = total + mse(response, bell(boxes.test_box, layer, m, 0.25).double()[:, None].expand_as(z))
    return total


def twin_fidelity(student: Outputs, teacher: Outputs, layers: tuple[str, ...], form: str) -> Tensor:
    total = torch.zeros(())
    for layer in layers:
        for images in (("ref", "ref"), ("test", "test")):
            a, b = (getattr(one, image)[layer].abs().sum(1) for one, image in zip((student, teacher), images, strict=True))
            total = total + REG[form](a, b)
    return total


def twin_projected(student: Outputs, teacher: Outputs, projection: dict[str, Tensor]) -> Tensor:
    total = torch.zeros(())
    for layer in ("layer2", "layer3"):
        for image in ("ref", "test"):
            s, t = getattr(student, image)[layer], getattr(teacher, image)[layer]
            total = total + mse(functional.conv2d(s, projection[layer][:, :, None, None]), t)
    return total


def run(
    kit: SimpleNamespace, student: Outputs, teacher: Outputs, boxes: Boxes, *, cached: bool = True, **losses: object
) -> tuple[Tensor, Objective]:
    """The one unweighted term of an objective, from the targets it declares and nothing else."""
    numbers = 1 if student.prediction.dim() == 2 else 4
    objective: Objective = kit.objective(numbers, **losses)
    kept = {layer: layer in layers_of(objective.needs.targets) for layer in LAYERS}
    seen = Outputs(teacher.prediction, *({k: v for k, v in maps.items() if kept[k]} for maps in (teacher.ref, teacher.test)))
    targets = compute(objective.needs.targets, seen, boxes, objective.projection)
    geometry = PairsConfig(ref=boxes.ref, test=boxes.test, proposals=kit.N)
    found = objective(student, kit.rounded(targets, numbers, geometry) if cached else targets, boxes)
    assert list(found) == list(losses)
    return sum(found.values(), torch.zeros(())), objective


@pytest.fixture(params=[1, 4])
def heads(request: pytest.FixtureRequest, kit: SimpleNamespace) -> tuple[Outputs, Outputs, Boxes]:
    """Student and teacher predictions of N (ATOM) and 4N (DRNet) numbers, partly beyond the knee of smooth L1."""
    student, teacher = (kit.outputs({}, 4, seed, numbers=request.param, grad=seed == 0) for seed in (0, 1))
    student.prediction = (2.5 * student.prediction).detach().requires_grad_()
    return student, teacher, kit.boxes(4)


@pytest.mark.parametrize("form", ["mse", "smooth_l1"])
def test_ground_truth(heads: tuple[Outputs, Outputs, Boxes], form: str, kit: SimpleNamespace) -> None:
    student, teacher, boxes = heads
    found, _ = run(kit, student, teacher, boxes, ground_truth={"form": form})
    wanted = label(boxes, 1 if student.prediction.dim() == 2 else 4)
    kit.same(found, REG[form](student.prediction, wanted), student, EXACT)


@pytest.mark.parametrize("form", ["mse", "smooth_l1"])
def test_teacher_soft(heads: tuple[Outputs, Outputs, Boxes], form: str, kit: SimpleNamespace) -> None:
    student, teacher, boxes = heads
    wanted = REG[form](student.prediction, teacher.prediction)
    kit.same(run(kit, student, teacher, boxes, cached=False, teacher_soft={"form": form})[0], wanted, student, EXACT)
    kit.same(run(kit, student, teacher, boxes, teacher_soft={"form": form})[0], wanted, student, CACHED)


@pytest.mark.parametrize("form", ["mse", "smooth_l1"])
def test_adaptive_hard_switches_on_the_difference(heads: tuple[Outputs, Outputs, Boxes], form: str, kit: SimpleNamespace) -> None:
    student, teacher, boxes = heads
    wanted = label(boxes, 1 if student.prediction.dim() == 2 else 4)
    of_student, of_teacher = (REG[form](one.prediction, wanted) for one in (student, teacher))
    gap = (of_teacher - of_student).item()
    on, _ = run(kit, student, teacher, boxes, cached=False, adaptive_hard={"form": form, "threshold": gap + 1e-3})
    kit.same(on, of_student, student, EXACT)
    off, _ = run(kit, student, teacher, boxes, cached=False, adaptive_hard={"form": form, "threshold": gap - 1e-3})
    assert off.item() == 0
    (gradient,) = torch.autograd.grad(off, student.prediction)
    assert not gradient.any()


def test_adaptive_hard_by_hand() -> None:
    wanted, teacher = torch.zeros(1, 2), torch.full((1, 2), 0.3)
    # l_t = 0.09; off from l_s <= 0.085
    for value, on in ((0.5, True), (0.2917, True), (0.2910, False), (0.0, False)):
        student = torch.full((1, 2), value)
        assert adaptive_hard(student, teacher, wanted, "mse", 0.005).item() == pytest.approx(value**2 if on else 0, abs=1e-7)


@pytest.mark.parametrize("layers", [("layer2", "layer3"), ("conv1", "layer3"), ("layer1",)])
@pytest.mark.parametrize("form", ["mse", "smooth_l1"])
def test_fidelity(layers: tuple[str, ...], form: str, geometry: PairsConfig, kit: SimpleNamespace) -> None:
    student, teacher, boxes = (
        kit.outputs(kit.STUDENT, 3, 0, geometry=geometry, grad=True),
        kit.outputs(kit.TEACHER, 3, 1, geometry=geometry),
        kit.boxes(3, geometry=geometry),
    )
    wanted = twin_fidelity(student, teacher, layers, form)
    for cached, bound in ((False, EXACT), (True, CACHED)):
        found, objective = run(kit, student, teacher, boxes, cached=cached, fidelity={"layers": layers, "form": form})
        assert objective.needs.student_layers == layers
        kit.same(found, wanted, student, bound)


@pytest.mark.parametrize("seed", [0, 7])
def test_projected_fidelity_from_a_fixed_projection(seed: int, geometry: PairsConfig, kit: SimpleNamespace) -> None:
    student, teacher, boxes = (
        kit.outputs(kit.STUDENT, 3, 0, geometry=geometry, grad=True),
        kit.outputs(kit.TEACHER, 3, 1, geometry=geometry, positive=True),
        kit.boxes(3, geometry=geometry),
    )
    for cached, bound in ((False, EXACT), (True, CACHED)):
        found, objective = run(kit, student, teacher, boxes, cached=cached, projected_fidelity={"seed": seed})
        assert objective.projection is not None
        kit.same(found, twin_projected(student, teacher, objective.projection), student, bound)


def test_projected_fidelity_takes_the_right_rows_of_its_target(geometry: PairsConfig, kit: SimpleNamespace) -> None:
    student, teacher, boxes = (
        kit.outputs(kit.STUDENT, 2, 0, geometry=geometry, grad=True),
        kit.outputs(kit.TEACHER, 2, 1, geometry=geometry),
        kit.boxes(2, geometry=geometry),
    )
    parts = [
        run(kit, student, teacher, boxes, cached=False, projected_fidelity={"layers": (layer,)})[0]
        for layer in ("layer2", "layer3", "conv1")
    ]
    whole = run(kit, student, teacher, boxes, cached=False, projected_fidelity={"layers": ("conv1", "layer3", "layer2")})[0]
    assert parts[0].item() != pytest.approx(parts[1].item(), rel=1e-2)
    kit.same(whole, parts[0] + parts[1] + parts[2], student, EXACT)


def test_projected_fidelity_trains_its_projection(geometry: PairsConfig, kit: SimpleNamespace) -> None:
    student, teacher, boxes = (
        kit.outputs(kit.STUDENT, 3, 0, geometry=geometry, grad=True),
        kit.outputs(kit.TEACHER, 3, 1, geometry=geometry),
        kit.boxes(3, geometry=geometry),
    )
    found, objective = run(kit, student, teacher, boxes, projected_fidelity={"projection": "trained"})
    assert objective.projection is None
    parameters = list(objective.parameters())
    copies = {layer: value.detach().clone().requires_grad_() for layer, value in zip(("layer2", "layer3"), parameters, strict=True)}
    wanted = twin_projected(student, teacher, copies)
    kit.same(found, wanted, student, CACHED)
    for first, second in zip(torch.autograd.grad(found, parameters), torch.autograd.grad(wanted, list(copies.values())), strict=True):
        assert kit.relative(first, second) < CACHED


@pytest.mark.parametrize("normalise", ["batch", "pair"])
def test_correlation_filter(normalise: str, geometry: PairsConfig, kit: SimpleNamespace) -> None:
    student, teacher, boxes = (
        kit.outputs(kit.STUDENT, 3, 0, geometry=geometry, grad=True),
        kit.outputs({}, 3, 1, geometry=geometry),
        kit.boxes(3, geometry=geometry),
    )
    found, _ = run(kit, student, teacher, boxes, correlation_filter={"normalise": normalise})
    kit.same(found, twin_correlation_filter(student, boxes, normalise), student, EXACT)


def test_correlation_filter_options_differ_and_dead_channels_stay_finite(kit: SimpleNamespace) -> None:
    student, teacher, boxes = kit.outputs(kit.STUDENT, 3, 0, grad=True), kit.outputs({}, 3, 1), kit.boxes(3)
    batch, pair = (run(kit, student, teacher, boxes, correlation_filter={"normalise": how})[0] for how in ("batch", "pair"))
    assert batch.item() != pytest.approx(pair.item(), rel=1e-3)
    with torch.no_grad():
        for maps in (*student.ref.values(), *student.test.values()):
            maps.zero_()
    for how in ("batch", "pair"):
        found, _ = run(kit, student, teacher, boxes, correlation_filter={"normalise": how})
        assert all(gradient is None or gradient.isfinite().all() for gradient in kit.gradients(found, student))


@pytest.mark.parametrize("form", ["mse", "smooth_l1"])
@pytest.mark.parametrize("weights", ["correlation", "gaussian"])
def test_target_response_from_cached_numbers_is_that_from_whole_features(
    weights: str, form: str, geometry: PairsConfig, kit: SimpleNamespace
) -> None:
    """Its weights are normalised over the batch, its target is not: the two must compose."""
    student, teacher = (
        kit.outputs(kit.STUDENT, 4, 0, geometry=geometry, grad=True),
        kit.outputs(kit.TEACHER, 4, 1, geometry=geometry, positive=True),
    )
    scale = torch.tensor([0.2, 1.0, 3.0, 20.0])[:, None, None, None]
    teacher = Outputs(teacher.prediction, {k: v * scale for k, v in teacher.ref.items()}, {k: v * scale for k, v in teacher.test.items()})
    boxes = kit.boxes(4, geometry=geometry)
    wanted = twin_target_response(student, teacher, boxes, weights, form)
    for cached, bound in ((False, 1e-4), (True, CACHED)):
        found, _ = run(kit, student, teacher, boxes, cached=cached, target_response={"weights": weights, "form": form})
        kit.same(found, wanted, student, bound)


def test_target_response_of_some_layers_takes_their_numbers(geometry: PairsConfig, kit: SimpleNamespace) -> None:
    student, teacher, boxes = (
        kit.outputs(kit.STUDENT, 2, 0, geometry=geometry, grad=True),
        kit.outputs(kit.TEACHER, 2, 1, geometry=geometry, positive=True),
        kit.boxes(2, geometry=geometry),
    )
    parts = [run(kit, student, teacher, boxes, target_response={"layers": (layer,)})[0] for layer in LAYERS]
    whole, _ = run(kit, student, teacher, boxes, target_response={})
    kit.same(whole, sum(parts[1:], parts[0]), student, EXACT)


def test_target_response_weighted_part_alone(geometry: PairsConfig, kit: SimpleNamespace) -> None:
    """The patch term outweighs the weighted one in value, so the weighted one is compared on its own: equal ref maps, equal patches."""
    student, boxes = kit.outputs(kit.TEACHER, 4, 0, geometry=geometry, positive=True, grad=True), kit.boxes(4, geometry=geometry)
    other = kit.outputs(kit.TEACHER, 4, 5, geometry=geometry, positive=True)
    teacher = Outputs(other.prediction, {k: v.detach() for k, v in student.ref.items()}, other.test)
    for layer in LAYERS:
        maps = []
        for one in (student, teacher):
            w, _ = plain_response(one, boxes, layer)
            maps.append((one.test[layer] * (w / w.sum())[:, None]).abs().sum(1))
        wanted = mse(*maps)
        targets = kit.rounded(compute(("response",), teacher, boxes), geometry=geometry)
        targets = {**targets, f"response/{layer}_patch": compute(("response",), teacher, boxes)[f"response/{layer}_patch"]}
        (found,) = kit.objective(target_response={"layers": (layer,)})(student, targets, boxes).values()
        assert kit.relative(found, wanted) < CACHED
        of_test = [torch.autograd.grad(value, student.test[layer], retain_graph=True)[0] for value in (found, wanted)]
        assert kit.relative(*of_test) < CACHED


def test_tracking(geometry: PairsConfig, kit: SimpleNamespace) -> None:
    student, teacher, boxes = (
        kit.outputs(kit.STUDENT, 3, 0, geometry=geometry, grad=True),
        kit.outputs({}, 3, 1, geometry=geometry),
        kit.boxes(3, geometry=geometry),
    )
    found, objective = run(kit, student, teacher, boxes, tracking={})
    assert objective.needs == ((), ("layer1", "layer2", "layer3"))
    kit.same(found, twin_tracking_in_space(student, boxes), student, EXACT)
    if geometry.ref.size == geometry.test.size:
        kit.same(found, twin_tracking(student, boxes), student, EXACT)


def test_tracking_of_an_odd_map() -> None:
    """The half spectrum of an odd width has no column that counts once but the first."""
    from kdlosses.tracking import tracking

    random = torch.Generator().manual_seed(0)
    ref, test = torch.randn(2, 3, 7, 7, generator=random), torch.randn(2, 3, 7, 7, generator=random)
    box = torch.tensor([[30.0, 40.0, 20.0, 20.0], [50.0, 20.0, 30.0, 10.0]])
    image = ImageConfig(size=112)
    found = tracking(ref, test, Boxes(box, box + 4, box[:, None], image, image), 16, 0.25, 1e-5)
    x, z, y = (torch.fft.rfft2(value) for value in (ref, test, gaussian(box, (7, 7), 16, 0.25)[:, None]))
    w = y.conj() * x / ((x * x.conj()).sum(1, keepdim=True) + 1e-5)
    wanted = mse(torch.fft.irfft2(w.conj() * z, s=(7, 7)), gaussian(box + 4, (7, 7), 16, 0.25)[:, None].expand(2, 3, 7, 7))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
