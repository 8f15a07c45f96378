"""From YAML files and overrides to one resolved, typed `Config`, and back to text."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from configs.budget import at_budget
from configs.errors import RequestError, nearest
from configs.explain import parse
from configs.files import read_yaml
from configs.overrides import apply, merge
from configs.schema import Config

SETTINGS = Path(__file__).parent / "settings"
# A base that only holds what others share is no setting.
_SHARED = ("atom",)


def settings() -> dict[str, str]:
    """Every setting with its one-line description."""
    return {name: load(name).doc for name in _names()}


def load(setting: str, overrides: Sequence[str] = ()) -> Config:
    """Resolves a setting: its `base:` chain, then the environment, then overrides, the later winning.

    Args:
        setting: a name in configs/settings, or the path of a YAML file of the same form (its `base:` is
            looked up beside it first, then in configs/settings).
        overrides: `a.b=c` each, c read as YAML (`train.epochs=2`, `losses.fidelity=null`).
    `like: NAME` (in the file or as an override) takes data set, pair set, networks and budget of another setting, see `schema.Config`.
    The environment: CACHE_DIR and RUN_DIR set `cache_dir` and `run_dir`.

    Raises:
        RequestError: unknown setting, unknown key (with the nearest known one), a value of a wrong type, clashing options.
    """
    path = _find_setting(setting)
    like = next((override.removeprefix("like=") for override in reversed(overrides) if override.startswith("like=")), None)
    tree = _resolved(path, like)
    for key, variable in (("cache_dir", "CACHE_DIR"), ("run_dir", "RUN_DIR")):
        if os.environ.get(variable):
            tree[key] = os.environ[variable]
    tree = functools.reduce(apply, overrides, tree) | {"setting": path.stem}
    config = parse(tree, where=str(setting))
    # a budget that came from elsewhere counts all phases together
    return at_budget(config, config.train.epochs, None) if config.like and config.phases else config


def dump(config: Config) -> str:
    """The resolved configuration as YAML, which `yaml.safe_load` and `parse` read back to an equal Config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def read(path: Path) -> Config:
    """A configuration that `dump` wrote."""
    return parse(read_yaml(path), where=str(path))


def _names() -> list[str]:
    return sorted(path.stem for path in SETTINGS.glob("*.yaml") if path.stem not in _SHARED)


def _find_setting(setting: str) -> Path:
    if setting.endswith((".yaml", ".yml")):
        if not Path(setting).is_file():
            raise RequestError(f"setting: expected a YAML file, found none at {setting}; see configs/settings for examples")
        return Path(setting)
    if setting not in (known := _names()):
        raise RequestError(
            f"setting: expected one of {', '.join(known)}, found '{setting}'{nearest(setting, known)}; add it to configs/settings"
        )
    return SETTINGS / f"{setting}.yaml"


def _resolved(path: Path, like: str | None) -> dict[str, Any]:
    """The tree of a setting, on top of its bases and, where it or `like` names one, of another setting's sizes."""
    chain = _chain(path, ())
    trees = [tree for _, tree in chain]
    like = like or next((tree["like"] for tree in reversed(trees) if tree.get("like")), None)
    if like in (None, "null"):
        return _stacked(trees)
    other = _stacked(tree for _, tree in _chain(_find_setting(like), ()))
    # what all settings share gives way to the other's networks, what this one states does not
    shared = sum(file.parent == SETTINGS and file.stem in _SHARED for file, _ in chain)
    networks = {key: other[key] for key in ("student", "teacher") if other.get(key) is not None}
    tree = _stacked([*trees[:shared], networks, *trees[shared:]])
    sizes: dict[str, Any] = {key: other[key] for key in ("dataset", "val_dataset", "pairs") if key in other}
    budget = {key: value for key, value in other.get("train", {}).items() if key != "freeze"}
    return merge(tree, {**sizes, "train": budget, "like": like})


def _chain(path: Path, seen: tuple[Path, ...]) -> list[tuple[Path, dict[str, Any]]]:
    """A setting's files with their trees, that of the base first."""
    if path in seen:
        raise RequestError(
            f"{path}: expected a base: chain that ends, found a circle {' -> '.join(p.stem for p in (*seen, path))}; remove one base:"
        )
    tree = read_yaml(path)
    base = tree.pop("base", None)
    if base is None:
        return [(path, tree)]
    beside = path.parent / f"{base}.yaml"
    parent = beside if beside.is_file() else SETTINGS / f"{base}.yaml"
    if not parent.is_file():
        known = [p.stem for p in SETTINGS.glob("*.yaml")]
        raise RequestError(f"{path}: expected base: to be a setting, found '{base}'{nearest(str(base), known)}; see configs/settings")
    return [*_chain(parent, (*seen, path)), (path, tree)]


def _stacked(trees: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Each tree on top of the ones before it."""
    return functools.reduce(merge, trees, {})
