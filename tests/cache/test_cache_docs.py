"""docs/cache-format.md tells of the layout of today (tests/test_docs.py runs its Python)."""

from __future__ import annotations

from pathlib import Path

from cache import LAYOUT


def test_the_page_tells_of_this_layout():
    page = (Path(__file__).parents[2] / "docs" / "cache-format.md").read_text()
    assert f"(layout {LAYOUT})" in page and f'"layout": {LAYOUT}' in page
