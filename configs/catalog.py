"""The catalog of data sets by name: configs/datasets.yaml, with the entries of the file that $DATASETS names on top."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.errors import RequestError, nearest
from configs.files import read_yaml

DATASETS = Path(__file__).parent / "datasets.yaml"
# ${NAME}, ${NAME:-default}, and $NAME where it is a whole name of the path
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}|(?<![^/])\$(?P<plain>[A-Za-z_]\w*)(?![^/])")


def dataset_entry(name: str) -> dict[str, Any]:
    """The entry of a plain data set with its root's environment variables resolved.

    RequestError: an unknown name, a mixture, a wrong entry, or an environment variable of its root that is not set (named).
    """
    entry = dict(_entry(name, _catalog()))
    if _is_mixture(entry):
        names = dict.fromkeys(entry["train"] + entry["val"])
        raise RequestError(f"dataset {name}: expected one data set, found a mixture; name its members: {', '.join(names)}")

    def resolve(match: re.Match[str]) -> str:
        variable = match["name"] or match["plain"]
        if value := os.environ.get(variable, match["default"]):
            return str(value)
        raise RequestError(
            f"dataset {name}: expected the environment variable {variable} to name its folder, found it unset; export {variable}=/path"
        )

    entry["root"] = _VARIABLE.sub(resolve, entry["root"])
    return entry


def is_known(name: str) -> bool:
    """Whether the catalog has a data set of that name."""
    return name in _catalog()


def members(name: str, split: str) -> tuple[str, ...]:
    """The plain data sets that a dataset string means for a split (train or val), each once, in order.

    name: names of the catalog, separated by spaces. A plain one stands for itself in both splits, a mixture for its list of this split.
    RequestError: no name, an unknown one, or a wrong entry.
    """
    catalog = _catalog()
    plain: list[str] = []
    for word in name.split():
        entry = _entry(word, catalog)
        plain += entry[split] if _is_mixture(entry) else [word]
    if not plain:
        raise RequestError(f"dataset: expected one of {', '.join(catalog)}, found no name; give one")
    return tuple(dict.fromkeys(plain))


def _entry(name: str, catalog: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    if name not in catalog:
        raise RequestError(
            f"dataset: expected one of {', '.join(catalog)}, found '{name}'{nearest(name, catalog)}; add it to configs/datasets.yaml"
        )
    return catalog[name]


def _catalog() -> dict[str, dict[str, Any]]:
    """Every entry, checked."""
    catalog, places = read_yaml(DATASETS), {}
    own = Path(os.environ.get("DATASETS") or DATASETS)
    if not own.is_file():
        raise RequestError(f"DATASETS: expected the path of a YAML file, found none at {own}; correct it or unset it")
    if own != DATASETS:
        catalog |= (entries := read_yaml(own, "configs/datasets.yaml"))
        places = dict.fromkeys(entries, own)
    for name, entry in catalog.items():
        if fault := _fault(name, entry, catalog):
            raise RequestError(f"dataset {name}: {fault}; mend its entry in {places.get(name, 'configs/datasets.yaml')}")
    return catalog


def _is_mixture(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("kind") == "mixture"


def _fault(name: Any, entry: Any, catalog: Mapping[Any, Any]) -> str | None:
    """What is wrong with the form of an entry: expected, found. Options are checked where the data set is opened."""
    if not isinstance(name, str) or name.split() != [name]:
        return f"expected a name of one word (a number in quotes), found {name!r:.60}"
    if "/" in name or "\\" in name or name.startswith(".") or not name.isprintable():
        return f"expected a name that a cache's folder can begin with, found {name!r:.60}"
    if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry):
        return f"expected a mapping of named keys, found {entry!r:.60}"
    if _is_mixture(entry):
        if strange := sorted(entry.keys() - {"kind", "train", "val"}):
            return f"expected a mixture to have kind, train and val only, found {', '.join(strange)}"
        return _fault_of_list("train", entry.get("train"), catalog) or _fault_of_list("val", entry.get("val"), catalog)
    for key in ("kind", "root"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            return f"expected {key} to be a text, found {entry.get(key)!r:.60}"
    for split in ("train", "val"):
        if not isinstance(entry.get(split), dict | None):
            return f"expected {split} to be a mapping of options, found {entry[split]!r:.60}"
    return None


def _fault_of_list(split: str, names: Any, catalog: Mapping[Any, Any]) -> str | None:
    """What is wrong with a mixture's list of data sets."""
    if not isinstance(names, list) or not names:
        return f"expected {split} to be a list of data sets, found {names!r:.60}"
    for name in names:
        if not isinstance(name, str) or name not in catalog:
            return f"expected {split} to name data sets of the catalog, found {name!r:.60}{nearest(str(name), map(str, catalog))}"
        if _is_mixture(catalog[name]):
            return f"expected {split} to name plain data sets, found the mixture '{name}'"
    return None
