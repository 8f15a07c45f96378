"""Steps on a GPU: those of the processor within rounding, and none that waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import configs
from configs import Config
from tests.steps import config_of, loops, random_batch
from train.evaluate import Validation
from train.graphed import WARM
from train.loop import Meter, PhaseLoop

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
ROUNDING, GRADIENTS = 2e-3, 2e-2
"""Relative error of a term, and of the gradient of a part, between processor and GPU in float32"""
HALF = 0.2
"""Relative error of a term with bfloat16 against float32"""
TINY = "student.architecture=atom_resnet18tiny"
SLOW = "train.lr=0.000001"
"""Adam divides a gradient by its size: where that is nothing but rounding, the first step goes anywhere, by as much as the rate"""


def small(setting: str) -> tuple[str, ...]:
    """Changes that give a setting of ATOM a small student; DRNet has but one."""
    return () if setting.startswith("drnet") else (TINY,)


def step(loop: PhaseLoop, config: Config, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """The terms of one step, and the gradients by parameter."""
    meter = Meter(0.0)
    loop.one_step(random_batch(config, device), meter)
    gradients = {name: value.grad.cpu() for name, value in loop.students.named_parameters() if value.grad is not None}
    return meter.rows[0].cpu(), gradients


def same(found: tuple[Tensor, dict[str, Tensor]], wanted: tuple[Tensor, dict[str, Tensor]], of_terms: float, of_gradients: float) -> None:
    """Terms one by one, gradients as one vector a part (a single weight's may be next to nothing)."""
    assert torch.isfinite(wanted[0]).all() and wanted[0].abs().sum() > 0
    torch.testing.assert_close(found[0], wanted[0], rtol=of_terms, atol=1e-6)
    assert found[1].keys() == wanted[1].keys()
    for part in ("feature_extractor", "bb_regressor"):
        mine = [name for name in wanted[1] if part in name]
        error = sum(float((found[1][name] - wanted[1][name]).square().sum()) for name in mine)
        assert error <= of_gradients**2 * sum(float(wanted[1][name].square().sum()) for name in mine)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("setting", configs.settings())
def test_a_step_is_that_of_the_processor(setting, device, tmp_path):
    config = config_of(setting, SLOW)
    for (there, _), (here, _) in zip(loops(config, tmp_path, device), loops(config, tmp_path, CPU), strict=True):
        same(step(there, config, device), step(here, config, CPU), ROUNDING, GRADIENTS)


@pytest.mark.parametrize("setting", ["atom_cfkd"])
def test_bfloat16_is_near_float32(setting, device, tmp_path):
    of = []
    for precision in ("float32", "bfloat16"):
        config = config_of(setting, f"train.precision={precision}", "train.channels_last=true")
        loop, _ = next(loops(config, tmp_path, device))
        of.append(step(loop, config, device)[0])
    torch.testing.assert_close(of[1], of[0], rtol=HALF, atol=1e-3)
    assert not torch.equal(*of)


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """RuntimeError where the processor waits for the GPU."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("setting", configs.settings())
def test_no_step_waits(setting, device, tmp_path):
    config = config_of(setting, *small(setting))
    batch = random_batch(config, device)
    for loop, origin in loops(config, tmp_path, device):
        loop.one_step(batch, Meter(0.0))  # the first builds what later ones reuse
        meter, validation = Meter(0.0), Validation(len(loop.students.trackers), device)
        with no_waiting(device):
            loop.one_step(batch, meter)
            with torch.no_grad():
                targets = loop.targets(batch, origin)
                validation.add(*loop.forward(loop.step, batch, targets, 0), batch.boxes, targets.get("iou/iou"))
        assert torch.isfinite(meter.rows[0]).all()


def test_waiting_is_noticed(device):
    if device.type != "cuda":
        pytest.skip("only CUDA tells of waiting")
    with pytest.raises(RuntimeError, match="synchroniz"), no_waiting(device):
        torch.ones(1, device=device).item()


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("setting", ["atom_cfkd", "atom_compression"])
def test_a_compiled_step_is_the_eager_one(setting, device, tmp_path):
    config, of = config_of(setting, TINY), []
    for compiled in (False, True):
        loop, _ = next(loops(config, tmp_path, device))
        if compiled:
            loop.step.compile(fullgraph=True)
        of.append(step(loop, config, device))
    same(of[1], of[0], ROUNDING, GRADIENTS)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("setting", configs.settings())
def test_steps_that_are_replayed_are_those_that_are_launched(setting, device, tmp_path):
    """Of both kinds in turns, past the recording of each."""
    batches = [random_batch(config_of(setting), device, seed) for seed in range(2 * WARM + 4)]
    for number, batch in enumerate(batches):
        batch.fresh = number % 2 == 1
    of = []
    for recorded in ("false", "true"):
        config = config_of(setting, *small(setting), f"train.cuda_graph={recorded}", SLOW)
        for loop, _ in loops(config, tmp_path, device):
            meter = Meter(0.0)
            for batch in batches:
                loop.one_step(batch, meter)
            of.append((torch.stack(meter.rows).cpu(), torch.cat([value.detach().flatten().cpu() for value in loop.students.parameters()])))
            if device.type == "cuda" and recorded == "true":
                assert loop.graph is not None and loop.graph.works and len(loop.graph.recorded) == 2
    half = len(of) // 2
    for (terms, weights), (wanted, weights_wanted) in zip(of[half:], of[:half], strict=True):
        torch.testing.assert_close(terms, wanted, rtol=ROUNDING, atol=1e-6)
        torch.testing.assert_close(weights, weights_wanted, rtol=0, atol=len(batches) * 2e-6)


@pytest.mark.usefixtures("exact")
def test_one_process_of_a_group_steps_as_one_alone(device, tmp_path):
    """NCCL (gloo on a processor), DistributedDataParallel and SyncBatchNorm, with a single process."""
    config = config_of("atom_cfkd", TINY)
    alone, _ = next(loops(config, tmp_path, device))
    wanted = step(alone, config, device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        loop, _ = next(loops(config, tmp_path, device))
        if device.type == "cuda":
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(loop.students)
        loop.model = DistributedDataParallel(loop.step, broadcast_buffers=device.type != "cuda")
        same(step(loop, config, device), wanted, ROUNDING, GRADIENTS)
    finally:
        torch.distributed.destroy_process_group()
