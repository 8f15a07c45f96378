"""What `make cache` holds in memory, known before it starts. Letters: B pairs of a teacher batch."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from configs.arrays import TargetSpec
from configs.errors import RequestError
from configs.machine import free_memory
from configs.schema import PairsConfig
from configs.units import size_text
from models import STRIDES, network_sizes

SHARE = 4
"""What is free, over this, is the limit where none is set."""
_UNDER_WAY = 2  # batches: one is computed while the other is stored
_NETWORK = 3  # of the largest map: what a forward pass without gradients holds beside what it returns
_IMAGES = 5  # batches of decoded images


def limit(gigabytes: float | None) -> int:
    """Bytes that this process may hold; the processes of a machine (torchrun) share what is free."""
    if gigabytes is not None:
        return int(gigabytes * 1e9)
    return free_memory() // SHARE // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def work_bytes(architecture: str, pairs: PairsConfig, batch: int, specs: Sequence[TargetSpec], chunk: int) -> int:
    """Bytes that a teacher and the targets of its batches take at most, its weights and the crops of a part left out.

    Numbers go to the disk batch by batch, hence this depends on B and not on the pairs of a part; only compressed arrays wait until a
    chunk of `chunk` pairs is whole.
    """
    channels, _ = network_sizes(architecture)
    maps = {layer: 4 * count * sum((image.size // STRIDES[layer]) ** 2 for image in pairs.images) for layer, count in channels.items()}
    images = 4 * 3 * sum(image.size**2 for image in pairs.images)
    exact = max((sum(4 * int(np.prod(array.shape)) for array in spec.arrays) for spec in specs), default=0)
    stored = _UNDER_WAY * sum(spec.pair_bytes for spec in specs)
    pair = stored + 2 * exact + sum(maps.values()) + _NETWORK * max(maps.values()) + _IMAGES * images
    compressed = sum(array.row_bytes for spec in specs for array in spec.arrays if array.compress)
    return batch * pair + 2 * chunk * compressed


def require_memory(needed: int, most: int, batch: int) -> None:
    """RequestError: the work does not fit."""
    if needed > most:
        raise RequestError(
            f"memory: expected {size_text(needed)} for batches of {batch} pairs and these targets, found a limit of {size_text(most)};"
            " lower teacher.batch, ask for fewer targets (TARGETS=...), or raise memory_gb"
        )
