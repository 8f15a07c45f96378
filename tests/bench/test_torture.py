"""Slices of `make torture`: nothing missed, nothing used, nothing lost, nothing left."""

from __future__ import annotations

from bench import torture


def test_damage_anywhere_in_a_cache_is_found_and_mended(tmp_path):
    result = torture.damage(tmp_path, tries=25, seed=5)
    assert result == (25, 0, 0, 0, 0)


def test_workers_that_die_leave_the_cache_that_is_made_in_peace(tmp_path):
    torture.worker(tmp_path / "peace")
    peace = torture.tree(tmp_path / "peace")
    result = torture.shared(tmp_path / "shared", peace, workers=2, kills=2, seed=1)
    assert result.different == result.faults == 0
    assert torture.verify_path(tmp_path / "shared") == []
