"""How large a tracker is: parameters, bytes, multiply-adds."""

from __future__ import annotations

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from configs.schema import PairsConfig
from models.tracker import PARTS, Tracker, blueprint


def network_sizes(architecture: str) -> tuple[dict[str, int], int]:
    """layer -> channels, and numbers a proposal, of an architecture; nothing is allocated."""
    tracker = blueprint(architecture)
    return dict(tracker.channels), tracker.numbers


def flops(tracker: Tracker, pairs: PairsConfig) -> int:
    """Multiply-adds of one forward pass over one pair of that geometry: convolutions and matrix products.

    Counted by running a copy of the tracker on the CPU, so what is never run (layer4, the classifier) does not count.
    """
    still = copy.deepcopy(tracker).cpu().eval()
    ref, test = (torch.zeros(1, 3, image.size, image.size) for image in pairs.images)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        still(ref, test, torch.zeros(1, 4), torch.zeros(1, pairs.proposals, 4))
    return counter.get_total_flops() // 2  # the counter takes a multiply-add as two operations


def parameter_counts(tracker: Tracker) -> tuple[int, int]:
    """(all parameters, those of them that a forward pass uses)."""
    everything = sum(parameter.numel() for parameter in tracker.parameters())
    idle = [tracker.feature_extractor.get_submodule(stage) for stage in tracker.feature_extractor.unused]
    return everything, everything - sum(parameter.numel() for module in idle for parameter in module.parameters())


def size_facts(tracker: Tracker, pairs: PairsConfig) -> dict[str, object]:
    """Sizes by name: parameters, parameters_used, megabytes (float32, as run), mflops (10^6 multiply-adds a pair), by part."""
    everything, used = parameter_counts(tracker)
    return {
        "parameters": everything,
        "parameters_used": used,
        "megabytes": round(used * 4 / 1e6, 2),
        "mflops": round(flops(tracker, pairs) / 1e6, 1),
        "ref_size": pairs.ref.size,
        "test_size": pairs.test.size,
        **{f"parameters_{name}": sum(p.numel() for p in tracker.part(name).parameters()) for name in PARTS},
    }
