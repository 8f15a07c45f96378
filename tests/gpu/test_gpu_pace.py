"""What batches hold while a GPU is behind its host."""

from __future__ import annotations

import pytest
import torch

from train.data.pace import LEAD, Pace

pytestmark = pytest.mark.gpu
BATCH = 2**25


def test_a_host_that_is_faster_than_the_gpu_holds_few_batches(device):
    """As the feed's decoder: each batch in memory of a stream of its own, let go when its step is queued."""
    if device.type != "cuda":
        pytest.skip("memory of a GPU")
    aside, present, paced = torch.cuda.Stream(device), torch.cuda.current_stream(device), Pace(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    for _ in range(40):
        paced.step()
        with torch.cuda.stream(aside):
            images = torch.empty(BATCH, dtype=torch.uint8, device=device)
        present.wait_stream(aside)
        images.record_stream(present)
        torch.cuda._sleep(10_000_000)  # about 5 ms, many times what the host takes
        del images
    torch.cuda.synchronize(device)
    assert torch.cuda.memory_reserved(device) - before <= (LEAD + 2) * BATCH
