"""What makes two pair sets the same."""

from __future__ import annotations

from typing import Any

from configs.schema import PairsConfig

# Layout of the pair set's numbers: raised whenever code changes what pair i is.
PAIRS_VERSION = 2


def pair_identity(pairs: PairsConfig, dataset: str, split: str) -> dict[str, Any]:
    """What defines a pair set apart from the data set's content: the settings' share of a cache's identity.

    The validation split has no photometry and a count of its own; both are part of the identity as they are used.
    """
    fields = pairs.model_dump(mode="json")
    val_count = fields.pop("val_count")
    if split == "val":
        fields |= {"count": val_count, "grey_probability": 0.0, "brightness": 0.0}
    return {"pairs_version": PAIRS_VERSION, "dataset": dataset, "split": split, **fields}
