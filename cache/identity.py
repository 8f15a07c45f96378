"""Identities: dictionaries of everything that changes a stored number, and how two of them differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from configs.errors import RequestError

_LONGEST = 80  # characters of a value in a message; a SHA-256 (64) is always shown whole


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one: `{"a": {"b": 1}}` becomes `{"a.b": 1}`. An empty dictionary is kept as a value."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping) and item:
            flat.update(flatten(item, f"{name}."))
        else:
            flat[name] = item
    return flat


def _shown(flat: Mapping[str, Any], field: str) -> str:
    if field not in flat:
        return "nothing"
    text = json.dumps(flat[field], default=str, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def plain(value: Any) -> Any:
    """`value` as JSON gives it back (tuples become lists), so that stored and wanted identities compare."""
    return json.loads(json.dumps(value, allow_nan=False))


def diff(cached: Mapping[str, Any], wanted: Mapping[str, Any], *, ignore: Iterable[str] = ()) -> list[str]:
    """Lines `field: cached X, wanted Y`, one for each field that differs, in alphabetical order.

    Fields of nested dictionaries are named with dots; an ignored name covers all fields below it.
    """
    left, right = flatten(plain(dict(cached))), flatten(plain(dict(wanted)))
    skipped = tuple(ignore)

    def counts(field: str) -> bool:
        return not any(field == name or field.startswith(f"{name}.") for name in skipped)

    def differs(field: str) -> bool:
        cached_value, wanted_value = left.get(field), right.get(field)
        # True == 1 in Python, but no field that changed from one to the other means the same
        same = cached_value == wanted_value and isinstance(cached_value, bool) == isinstance(wanted_value, bool)
        return (field in left) != (field in right) or not same

    changed = [field for field in sorted({*left, *right}) if counts(field) and differs(field)]
    return [f"{field}: cached {_shown(left, field)}, wanted {_shown(right, field)}" for field in changed]


def require(cached: Mapping[str, Any], wanted: Mapping[str, Any], *, what: str, remedy: str, ignore: Iterable[str] = ()) -> None:
    """RequestError with the differences, if any; `what` names the thing compared, `remedy` the command that mends it."""
    lines = diff(cached, wanted, ignore=ignore)
    if lines:
        raise RequestError(f"{what}: expected the wanted identity, found another ({'; '.join(lines)}); {remedy}")
