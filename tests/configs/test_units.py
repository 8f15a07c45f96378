"""Numbers as people read them."""

from __future__ import annotations

import pytest

from configs.units import size_text


@pytest.mark.parametrize(
    "count, text",
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (12_345_678, "12.3 MB"), (5e9, "5.0 GB"), (2.5e15, "2,500.0 TB")],
)
def test_bytes_for_people(count, text):
    assert size_text(count) == text
