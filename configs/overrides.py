"""Values on top of a configuration tree: one `a.b=c` of a command line, or one tree of a file on another."""

from __future__ import annotations

import re
from typing import Any

import yaml

from configs.errors import RequestError


def apply(tree: dict[str, Any], override: str) -> dict[str, Any]:
    """One `a.b=c` (c read as YAML) on top of a tree. RequestError: no such form, or a place that is no section."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RequestError(
            f"override: expected key=value (train.epochs=2), found '{override}'; write the key, '=' and the value without spaces"
        )
    try:
        value: Any = yaml.safe_load(text) if text else None
        # YAML reads 1e-3 as a string; whoever types it means the number
        if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
            value = float(value)
    except yaml.YAMLError as error:
        raise RequestError(f"override {key}: expected a YAML value, found '{text}'; quote it") from error
    parts = key.split(".")
    node: Any = tree
    for end, part in enumerate(parts[:-1], 1):
        node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict | int | float | None):
            raise RequestError(
                f"override {key}: expected '{'.'.join(parts[:end])}' to be a section, found {node!r}; override it as a whole"
            )
    for part in reversed(parts):
        value = {part: value}
    return merge(tree, value)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, mappings merged key by key, everything else replaced."""
    return base | {key: _laid_over(base.get(key), value) for key, value in over.items()}


def _laid_over(old: Any, new: Any) -> Any:
    """`new` on top of `old`. A number stands for the weight of a loss, so it never drops the loss' other fields, nor they it."""
    if isinstance(new, dict):
        return merge(old if isinstance(old, dict) else {"weight": old} if _is_number(old) else {}, new)
    return {**old, "weight": new} if isinstance(old, dict) and _is_number(new) else new


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def yaml_value(value: Any) -> str:
    """A default as one would type it in an override."""
    if isinstance(value, tuple):
        return "[" + ", ".join(map(yaml_value, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
