"""Looking at a cache: what it holds, how far it is, what it weighs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.layout import LAYOUT
from cache.store import Cache
from cache.unit import Unit
from configs.errors import TeachOnceError


def units(cache: Cache) -> dict[str, Unit]:
    """All units by path, the pair set first."""
    return {"pairs": cache.pairs, **{unit.path: unit for unit in cache.targets().values()}}


def describe(cache: Cache) -> dict[str, Any]:
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
        "units": {path: _unit(cache, unit) for path, unit in units(cache).items()},
        "history": _history(cache),
    }


def _unit(cache: Cache, unit: Unit) -> dict[str, Any]:
    stored_bytes = unit.nbytes()
    pairs = sum(stop - start for start, stop in (entry["pairs"] for entry in unit.entries().values()))
    arrays = {}
    for stored in unit.stored:
        name = stored.path.removeprefix(f"{unit.path}/")
        per_pair = round(stored_bytes[name] / pairs, 1) if pairs else None
        shape = ["bytes"] if stored.rows != cache.count else list(stored.shape)
        arrays[name] = {
            "shape": shape,
            "dtype": stored.dtype.name,
            "bytes": stored_bytes[name],
            "bytes_a_pair": per_pair,
            "doc": stored.doc,
        }
    total = sum(stored_bytes.values())
    return {
        "parts_done": cache.parts - len(unit.missing()),
        "pairs_done": pairs,
        "bytes": total,
        "bytes_a_pair": round(total / pairs, 1) if pairs else None,
        # crops have no row to count
        "bytes_a_pair_uncompressed": None if unit is cache.pairs else sum(stored.row_bytes for stored in unit.stored),
        "about": unit.about,
        "identity": unit.identity,
        "constants": {name: list(value.shape) for name, value in unit.constants.items()},
        "arrays": arrays,
    }


def _history(cache: Cache) -> dict[str, Any]:
    records = cache.history()
    seconds = [record["seconds"] for record in records if isinstance(record.get("seconds"), int | float)]
    return {"records": len(records), "seconds": round(sum(seconds), 3), "last": records[-1] if records else None}


def size_text(count: float) -> str:
    """Bytes for people: 1,234 B, 12.3 MB, ... (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} B" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def lines_of(info: Mapping[str, Any]) -> list[str]:
    """`describe` as text."""
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
        for name, array in unit["arrays"].items():
            shape = "x".join(str(side) for side in array["shape"]) or "1"
            lines.append(f"  {name:<16} {array['dtype']:<8} {shape:<12} {size_text(array['bytes']):>10}  {array['doc']}")
        lines += [f"  constants/{name} {shape}" for name, shape in unit["constants"].items()]
    history = info["history"]
    lines.append(
        f"history      {history['records']} records, {history['seconds']:,} s" + (f"; last {history['last']}" if history["last"] else "")
    )
    return lines


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


def row_of(path: Path, name: str) -> list[str]:
    """One line of `python -m cache ls`: name, pairs, parts, size, targets with their parts."""
    try:
        cache = Cache.open(path)
        done = cache.parts - len(cache.pairs.missing())
        targets = [
            f"{teacher}/{target} {cache.parts - len(unit.missing())}/{cache.parts}" for (teacher, target), unit in cache.targets().items()
        ]
        return [name, f"{cache.count:,}", f"{done}/{cache.parts}", size_text(cache.backend.size()), ", ".join(targets) or "-"]
    except TeachOnceError as error:
        return [name, "?", "?", "?", f"cannot be read: {error}"]
