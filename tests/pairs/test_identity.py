"""What makes two pair sets the same."""

from __future__ import annotations

import configs
from pairs.identity import pair_identity


def test_the_validation_split_has_no_photometry_and_its_own_count():
    pairs = configs.load("atom_cfkd", ["pairs.count=100", "pairs.val_count=20"]).pairs
    train, val = pair_identity(pairs, "demo", "train"), pair_identity(pairs, "demo", "val")
    assert (train["count"], val["count"]) == (100, 20)
    assert (val["brightness"], val["grey_probability"]) == (0, 0) and train["brightness"] == 0.2
    assert "val_count" not in train
    assert train["ref"] == {"size": 288, "area_factor": 5.0, "scale_jitter": 0.0, "center_jitter": 0.0}
