"""What lies in a checkpoint of any network: parameters by group, plain data, foreign names, and the nearest of our architectures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from configs.errors import printable
from models.checkpoint import misfits, read_state, state_dicts, with_our_names, wrapper_of
from models.files import is_safetensors
from models.safe_pickle import Foreign, LazyTensor, read_pickled
from models.tracker import ARCHITECTURES, PARTS, blueprint

DEPTH = 6
MOST = 60
"""Networks, groups of one, items of data and foreign names that are listed: a file may hold any number."""


class Form(NamedTuple):
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int


def file_contents(path: str | Path) -> dict[str, Any]:
    """Facts by name, fit for JSON: `networks`, `data` (settings and epochs that are plain), `foreign` and `nearest`.

    Takes every file that is safe to read, of whatever network. RequestError for a missing, damaged or hostile one.
    """
    path = Path(path)
    if is_safetensors(path):
        root, foreign, form = read_state(path)[0], [], "safetensors"
    else:
        contents = read_pickled(path)
        root, foreign, form = contents.root, contents.foreign, contents.form
    networks: dict[str, dict[str, Form]] = {}
    data: dict[str, object] = {}
    for where, value in _walk(root, "", DEPTH, set()):
        tensors = {name: _form(item) for name, item in value.items() if isinstance(name, str) and isinstance(item, LazyTensor | Tensor)}
        if tensors and len(networks) < MOST:
            networks[where] = tensors
        plain = {_below(where, name): item for name, item in value.items() if isinstance(name, str) and _is_plain(item)}
        data |= {printable(name, 120): _shown(item) for name, item in list(plain.items())[: MOST - len(data)]}
    facts: dict[str, Any] = {
        "file": form,
        "networks": {printable(where, 120): _network(tensors) for where, tensors in networks.items()},
        "data": data,
        "foreign": foreign[:MOST],
    }
    usual = [key for key in state_dicts(root) if key in networks]
    if networks:
        best = usual[0] if usual else max(networks, key=lambda where: len(networks[where]))
        facts["nearest"] = {"network": printable(best, 120), **nearest_architecture(networks[best])}
    return facts


def _below(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _walk(value: object, where: str, depth: int, seen: set[int]) -> Iterator[tuple[str, dict[Any, Any]]]:
    """(its keys joined by dots, dict) of every dict, each once, through what foreign objects hold; the outer ones first."""
    inner = value.state if isinstance(value, Foreign) else value
    if not isinstance(inner, dict) or id(inner) in seen or not depth:
        return
    seen.add(id(inner))
    yield where, inner
    for name, item in inner.items():
        if isinstance(name, str):
            yield from _walk(item, _below(where, name), depth - 1, seen)


def _form(tensor: Any) -> Form:
    """The file's word for it: shape () where it is none that a tensor can have."""
    shape = tensor.shape if isinstance(tensor.shape, tuple) and len(tensor.shape) <= 8 else ()
    shape = tuple(shape) if all(isinstance(n, int) and 0 <= n < 2**40 for n in shape) else ()
    known = isinstance(tensor.dtype, torch.dtype)
    dtype = str(tensor.dtype).removeprefix("torch.") if known else getattr(tensor.dtype, "origin", "unknown")
    return Form(shape, dtype, math.prod(shape) * (tensor.dtype.itemsize if known else 0))


def _is_plain(item: object) -> bool:
    if isinstance(item, list | tuple):
        return 0 < len(item) <= 8 and not any(isinstance(part, list | tuple) for part in item) and all(map(_is_plain, item))
    return isinstance(item, str | float | bool) or (isinstance(item, int) and abs(item) < 2**63)


def _shown(item: Any) -> object:
    if isinstance(item, list | tuple):
        return [_shown(part) for part in item]
    if isinstance(item, str):
        return printable(item, 120)
    return item if math.isfinite(item) else str(item)


def _network(tensors: Mapping[str, Form]) -> dict[str, Any]:
    """Totals, and the same by group: the first word of the names that is not common to all."""
    words = zip(*(name.split(".") for name in tensors), strict=False)
    common = len(list(itertools.takewhile(lambda column: len(set(column)) == 1, words)))
    groups: dict[str, dict[str, Form]] = {}
    for name, form in tensors.items():
        groups.setdefault(".".join(name.split(".")[: common + 1]), {})[name] = form
    shown = {printable(group, 120): _totals(members) for group, members in list(groups.items())[:MOST]}
    return {**_totals(tensors), "groups": shown}


def _totals(tensors: Mapping[str, Form]) -> dict[str, Any]:
    name, first = next(iter(tensors.items()))
    return {
        "tensors": len(tensors),
        "numbers": sum(math.prod(form.shape) for form in tensors.values()),
        "megabytes": round(sum(form.bytes for form in tensors.values()) / 1e6, 2),
        "first": f"{printable(name, 120)} {first.shape} {first.dtype}",
    }


def nearest_architecture(tensors: Mapping[str, Form]) -> dict[str, Any]:
    """The architecture that the fewest names and shapes keep from fitting: what is missing, extra and misshapen, and the parts that fit."""
    cut = len(wrapper_of(tensors))
    given = {name[cut:]: form.shape for name, form in tensors.items()}
    return min((_misfit(architecture, given) for architecture in ARCHITECTURES), key=lambda facts: facts["differ"])


def _misfit(architecture: str, given: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    tracker = blueprint(architecture)
    lists = misfits(tracker, with_our_names(tracker, given))
    bad = (*lists["missing"], *lists["misshapen"])
    return {
        "architecture": architecture,
        "differ": sum(map(len, lists.values())),
        **{kind: len(names) for kind, names in lists.items()},
        "examples": {kind: [printable(name, 120) for name in names[:3]] for kind, names in lists.items() if names},
        "parts_that_fit": [part for part, word in PARTS.items() if not any(name.startswith(f"{word}.") for name in bad)],
    }


def contents_lines(facts: Mapping[str, Any], path: str) -> list[str]:
    """What `file_contents` gives, as text."""
    lines = []
    for where, network in facts["networks"].items():
        lines.append(
            f"network     {where or '(top)'}: {network['tensors']} tensors, {network['numbers']:,} numbers, {network['megabytes']} MB"
        )
        for group, totals in network["groups"].items():
            sizes = f"{totals['tensors']} tensors, {totals['numbers']:,} numbers, {totals['megabytes']} MB"
            lines.append(f"              {group}: {sizes}, first {totals['first']}")
    lines += [f"data        {name}: {value}" for name, value in facts["data"].items()]
    if facts["foreign"]:
        lines.append(f"classes     not known here (left inert): {', '.join(facts['foreign'])}")
    near = facts.get("nearest")
    if near and near["differ"]:
        kinds = [f"{near[kind]} {kind} ({', '.join(names)}{', ...' if near[kind] > 3 else ''})" for kind, names in near["examples"].items()]
        lines.append(f"to use it   {near['architecture']} is nearest, {near['differ']} names or shapes differ: {', '.join(kinds)}")
    if near and near["differ"] and "backbone" in near["parts_that_fit"]:
        lines.append(f"            its backbone fits: student.architecture={near['architecture']} student.weights={path} starts from it")
    return lines
