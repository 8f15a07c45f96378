"""The rooms' imports go one way (docs/architecture.md): a room may import only what is listed for it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BELOW = {"configs", "pairs", "models", "kdlosses", "cache"}
# the console command stands on top of all; it names rooms and imports one when it is chosen
MAY_IMPORT: dict[str, set[str]] = {
    "configs": set(),
    "cache": {"configs"},
    "pairs": {"configs"},
    "models": {"configs", "pairs"},
    "kdlosses": {"configs", "pairs", "models"},
    "precompute": BELOW,
    "train": BELOW,
    "tracking": BELOW,
    "bench": BELOW | {"precompute", "train"},
}


def imported_rooms(source: str) -> set[str]:
    """Top-level names of every absolute import in a module, also of those inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names & (set(MAY_IMPORT) | {"teachonce", "tests"})


def test_imported_rooms_sees_nested_and_from_imports():
    assert imported_rooms("import torch\ndef f():\n    from cache.store import x\nimport train.loop") == {"cache", "train"}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_it_may(room: str):
    files = list((ROOT / room).rglob("*.py"))
    assert files, f"no source in {room}"
    for file in files:
        strangers = imported_rooms(file.read_text()) - MAY_IMPORT[room] - {room}
        assert not strangers, f"{file.relative_to(ROOT)} imports {sorted(strangers)}"
