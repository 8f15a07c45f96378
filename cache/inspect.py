"""Looking at a cache: what it holds, how far it is, what it weighs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cache.address import Location
from cache.backends.base import MADE
from cache.layout import LAYOUT
from cache.store import Cache
from cache.unit import Unit
from configs.errors import TeachOnceError
from configs.units import size_text


def cache_info(cache: Cache) -> dict[str, Any]:
    """Everything that `python -m cache info --json` prints."""
    return {
        "path": str(cache.path),
        "backend": cache.backend.kind,
        "layout": LAYOUT,
        "fingerprint": cache.fingerprint,
        "identity": cache.identity,
        "pairs": cache.count,
        "part": cache.part,
        "chunk": cache.chunk,
        "parts": cache.parts,
        "bytes": cache.backend.size(),
        "teachers": cache.teachers(),
        "units": {path: _unit(cache, unit) for path, unit in cache.units().items()},
        "history": _history(cache),
    }


def _unit(cache: Cache, unit: Unit) -> dict[str, Any]:
    stored_bytes = unit.nbytes()
    pairs = sum(stop - start for start, stop in (entry["pairs"] for entry in unit.entries().values()))

    def stored(count: int) -> dict[str, Any]:
        return {"bytes": count, "bytes_a_pair": round(count / pairs, 1) if pairs else None}

    arrays = {}
    for (name, count), placed in zip(stored_bytes.items(), unit.placed, strict=True):
        shape = ["bytes"] if placed.grid.rows != cache.count else list(placed.array.shape)
        arrays[name] = {"shape": shape, "dtype": placed.dtype.name, **stored(count), "doc": placed.array.doc}
    return {
        "parts_done": cache.parts - len(unit.missing()),
        "pairs_done": pairs,
        **stored(sum(stored_bytes.values())),
        # crops have no row to count
        "bytes_a_pair_uncompressed": None if unit is cache.pairs else unit.spec.pair_bytes,
        "about": unit.about,
        "identity": unit.identity,
        "made": _made(unit),
        "constants": {name: list(value.shape) for name, value in unit.constants.items()},
        "arrays": arrays,
    }


def _made(unit: Unit) -> list[dict[str, Any]]:
    """What the finished parts were made with, as far as it changes no more than rounding; with the parts of each."""
    kinds: dict[str, dict[str, Any]] = {}
    for part, entry in unit.entries().items():
        facts = entry.get(MADE)
        kinds.setdefault(json.dumps(facts, sort_keys=True), {"with": facts, "parts": []})["parts"].append(part)
    return list(kinds.values())


def _history(cache: Cache) -> dict[str, Any]:
    records = cache.history()
    seconds = [record["seconds"] for record in records if isinstance(record.get("seconds"), int | float)]
    return {"records": len(records), "seconds": round(sum(seconds), 3), "last": records[-1] if records else None}


def lines_of(info: Mapping[str, Any]) -> list[str]:
    """`cache_info` as text."""
    lines = [
        f"cache        {info['path']} ({info['backend']}, layout {info['layout']})",
        f"fingerprint  {info['fingerprint']}",
        f"pairs        {info['pairs']:,} in {info['parts']} parts of {info['part']:,} (chunks of {info['chunk']})",
        f"size         {size_text(info['bytes'])}",
        "identity",
        *_tree(info["identity"], "  "),
    ]
    for name, identity in info["teachers"].items():
        lines += [f"teacher {name}", *_tree(identity, "  ")]
    for path, unit in info["units"].items():
        each = "" if unit["bytes_a_pair"] is None else f", {unit['bytes_a_pair']:,} bytes a pair"
        plain = "" if path == "pairs" else f", {unit['bytes_a_pair_uncompressed']:,} a pair before compression"
        lines.append(f"{path}: {unit['parts_done']}/{info['parts']} parts, {size_text(unit['bytes'])}{each}{plain}")
        if path != "pairs":
            lines += [f"  {key.replace('_', ' ')}: {_words(value)}" for key, value in unit["about"].items()]
            lines += _tree(unit["identity"], "  ")
        lines += [f"  made with {_facts(kind['with'])}: {_ranges(kind['parts'])}" for kind in unit["made"]]
        for name, array in unit["arrays"].items():
            shape = "x".join(str(side) for side in array["shape"]) or "1"
            lines.append(f"  {name:<16} {array['dtype']:<8} {shape:<12} {size_text(array['bytes']):>10}  {array['doc']}")
        lines += [f"  constants/{name} {shape}" for name, shape in unit["constants"].items()]
    history = info["history"]
    last = f"; last {history['last']}" if history["last"] else ""
    return [*lines, f"history      {history['records']} records, {history['seconds']:,} s{last}"]


def _facts(facts: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{key} {value}" for key, value in facts.items()) if facts else "what is not recorded"


def _ranges(parts: list[int]) -> str:
    """`parts 0-3, 7`."""
    ends = [part for part in parts if part + 1 not in parts]
    starts = [part for part in parts if part - 1 not in parts]
    return "parts " + ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in zip(starts, ends, strict=True))


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _tree(value: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            lines += [f"{indent}{key}", *_tree(item, f"{indent}  ")]
        else:
            lines.append(f"{indent}{key}: {item}")
    return lines


def row_of(path: Location, name: str) -> list[str]:
    """One line of `python -m cache ls`: name, pairs, parts, size, targets with their parts."""
    try:
        cache = Cache.open(path)
        done = {path: f"{len(unit.entries())}/{cache.parts}" for path, unit in cache.units().items()}
        pairs, targets = done.pop("pairs"), [f"{path.removeprefix('targets/')} {parts}" for path, parts in done.items()]
        return [name, f"{cache.count:,}", pairs, size_text(cache.backend.size()), ", ".join(targets) or "-"]
    except TeachOnceError as error:
        return [name, "?", "?", "?", f"cannot be read: {error}"]
