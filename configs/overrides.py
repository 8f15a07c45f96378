"""Values on top of a configuration tree: one `a.b=c` of a command line, or one tree of a file on another."""

from __future__ import annotations

import re
from typing import Any

from configs.errors import RequestError
from configs.yaml_text import parse_yaml


def nested(override: str) -> dict[str, Any]:
    """One `a.b=c` (c read as YAML) as the tree {a: {b: c}}. RequestError: no such form, or no YAML."""
    key, equals, text = override.partition("=")
    if not equals or not all(part.strip() for part in key.split(".")):
        raise RequestError(
            f"override: expected key=value (train.epochs=2), found '{override:.100}'; write the key, '=' and the value without spaces"
        )
    try:
        value = parse_yaml(text) if text else None
        # YAML reads 1e-3 as a string; whoever types it means the number
        if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
            value = float(value)
    except ValueError as error:
        raise RequestError(f"override {key:.100}: expected a YAML value, found '{text:.100}'; quote it") from error
    first, *inner = key.split(".")
    for part in reversed(inner):
        value = {part: value}
    return {first: value}


def check_place(tree: dict[str, Any], override: str) -> None:
    """RequestError where an override `a.b=c` names something below what is no section of the tree."""
    parts = override.partition("=")[0].split(".")
    node: Any = tree
    for end, part in enumerate(parts[:-1], 1):
        node = node.get(part) if isinstance(node, dict) else _item(node, part, override) if _is_list_of_sections(node) else None
        if end == 1 and part == "phases" and not node:
            raise RequestError(f"override {override:.100}: expected a setting with phases, found one without; set train.epochs and losses")
        if not isinstance(node, dict | int | float | None) and not _is_list_of_sections(node):
            raise RequestError(
                f"override {'.'.join(parts):.100}: expected '{'.'.join(parts[:end]):.100}' to be a section, found {node!r:.100};"
                " override it as a whole"
            )


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, mappings merged key by key, items of a list of mappings by their number, everything else replaced."""
    return base | {key: _laid_over(base.get(key), value) for key, value in over.items()}


def _laid_over(old: Any, new: Any) -> Any:
    """`new` on top of `old`. A number stands for the weight of a loss, so it never drops the loss' other fields, nor they it."""
    if isinstance(new, dict):
        if _is_list_of_sections(old):
            numbered = {str(number): item for number, item in enumerate(old)}
            for number in new:
                _item(old, str(number), "phases")
            return list(merge(numbered, {str(number): item for number, item in new.items()}).values())
        return merge(old if isinstance(old, dict) else {"weight": old} if _is_number(old) else {}, new)
    return {**old, "weight": new} if isinstance(old, dict) and _is_number(new) else new


def _is_list_of_sections(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _item(items: list[Any], number: str, where: str) -> Any:
    """The item that a part of a key names. RequestError: there is none."""
    if not re.fullmatch("[0-9]{1,6}", number) or int(number) >= len(items):
        last = len(items) - 1
        raise RequestError(f"{where:.100}: expected the number of a phase, 0 to {last}, found '{number:.40}'; correct it")
    return items[int(number)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def yaml_value(value: Any) -> str:
    """A default as one would type it in an override."""
    if isinstance(value, tuple):
        return "[" + ", ".join(map(yaml_value, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
