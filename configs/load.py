"""From YAML files and overrides to one resolved, typed `Config`, and back to text."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from configs.budget import share_epochs
from configs.errors import RequestError, nearest
from configs.explain import parse
from configs.files import is_file, read_yaml
from configs.overrides import check_place, merge, nested
from configs.schema import Config
from configs.use import require_use

SETTINGS = Path(__file__).parent / "settings"
# A base that only holds what others share is no setting.
_SHARED = ("atom",)
# Of a tree with phases: the epochs of all of them together, stated after the phases and not shared out yet.
_TOTAL = "epochs of all phases"


def settings() -> dict[str, str]:
    """Every setting with its one-line description."""
    return {name: load(name).doc for name in _names()}


def load(setting: str, overrides: Sequence[str] = (), *, strict: bool = True) -> Config:
    """Resolves a setting: its `base:` chain, then the environment, then overrides, the later winning.

    Args:
        setting: a name in configs/settings, or the path of a YAML file of the same form (its `base:` is
            looked up beside it first, then in configs/settings).
        overrides: `a.b=c` each, c read as YAML (`train.epochs=2`, `losses.fidelity=null`, `phases.0.epochs=1`).
        strict: False where the same overrides go to several settings, of which one at least has to make use of each (`configs.use`).
    `like: NAME` (in the file or as an override) takes data set, pair set, networks, budget and tracker of another one, see `schema.Config`.
    The environment: CACHE_DIR and RUN_DIR set `cache_dir` and `run_dir`.

    Raises:
        RequestError: unknown setting, unknown key (with the nearest known one), a value of a wrong type, clashing options, an override
            that the setting makes no use of.
    """
    path = _find_setting(setting)
    like = next((override.removeprefix("like=") for override in reversed(overrides) if override.startswith("like=")), None)
    tree = _resolved(path, like)
    for key, variable in (("cache_dir", "CACHE_DIR"), ("run_dir", "RUN_DIR")):
        if os.environ.get(variable):
            tree[key] = os.environ[variable]
    for override in overrides:
        check_place(tree, override)
        tree = _lay(tree, nested(override), f"override {override.partition('=')[0]}")
    config = parse(_shared_out(tree, path.stem), where=str(setting))
    if strict:
        require_use(overrides, config)
    return config


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
        if not is_file(setting):
            raise RequestError(f"setting: expected a YAML file, found none at {setting}; see configs/settings for examples")
        return Path(setting)
    if setting not in (known := _names()):
        raise RequestError(
            f"setting: expected one of {', '.join(known)}, found '{setting:.80}'{nearest(setting, known)}; add it to configs/settings"
        )
    return SETTINGS / f"{setting}.yaml"


def _resolved(path: Path, like: str | None) -> dict[str, Any]:
    """The tree of a setting, on top of its bases and, where it or `like` names one, of another setting's sizes."""
    chain = _chain(path, ())
    trees = [tree for _, tree in chain]
    like = like or next((tree["like"] for tree in reversed(trees) if tree.get("like")), None)
    if like in (None, "null"):
        return _stacked(trees)
    if not isinstance(like, str):
        raise RequestError(f"{path}: like: expected the name of a setting, found {like!r:.60}; see configs/settings")
    other = _stacked(tree for _, tree in _chain(_find_setting(like), ()))
    # what all settings share gives way to the other's networks, what this one states does not
    shared = sum(file.parent == SETTINGS and file.stem in _SHARED for file, _ in chain)
    networks = {key: other[key] for key in ("student", "teacher") if other.get(key) is not None}
    tree = _stacked([*trees[:shared], networks, *trees[shared:]])
    sizes: dict[str, Any] = {key: other[key] for key in ("dataset", "val_dataset", "pairs", "tracking") if key in other}
    budget = {key: value for key, value in other.get("train", {}).items() if key != "freeze"}
    return _lay(tree, {**sizes, "train": budget, "like": like})


def _chain(path: Path, seen: tuple[Path, ...]) -> list[tuple[Path, dict[str, Any]]]:
    """A setting's files with their trees, that of the base first."""
    if path in seen:
        raise RequestError(
            f"{path}: expected a base: chain that ends, found a circle {' -> '.join(p.stem for p in (*seen, path))}; remove one base:"
        )
    # the config.yaml of a run is of the setting that it states
    tree = {"setting": path.stem} | (_shipped(path) if path.parent == SETTINGS else read_yaml(path))
    base = tree.pop("base", None)
    if base is None:
        return [(path, tree)]
    beside = path.parent / f"{base}.yaml"
    parent = beside if is_file(beside) else SETTINGS / f"{base}.yaml"
    if not is_file(parent):
        known = [p.stem for p in SETTINGS.glob("*.yaml")]
        raise RequestError(f"{path}: expected base: to be a setting, found '{base!s:.80}'{nearest(str(base), known)}; see configs/settings")
    return [*_chain(parent, (*seen, path)), (path, tree)]


@functools.cache
def _shipped(path: Path) -> dict[str, Any]:
    """A file of configs/settings: most are bases of others, and reading YAML takes longer than all the rest. Not to be changed."""
    return read_yaml(path)


def _stacked(trees: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Each tree on top of the ones before it."""
    return functools.reduce(_lay, trees, {})


def _lay(tree: dict[str, Any], over: dict[str, Any], where: str = "") -> dict[str, Any]:
    """`over` on top of `tree`. Of a tree with phases `train.epochs` counts all of them together (see `_shared_out`).

    RequestError: losses or train.freeze of a tree with phases, each of which has its own.
    """
    phases, train = over.get("phases"), over.get("train")
    whole = "phases" in over and not isinstance(phases, dict)
    if whole:
        tree = {key: value for key, value in tree.items() if key != _TOTAL}
    elif phases is not None:
        tree = _shared_out(tree, where)  # what is laid over is a phase as it is
    laid = merge(tree, over)
    if not laid.get("phases"):
        return laid
    for name, value in (("losses", over.get("losses")), ("train.freeze", train.get("freeze") if isinstance(train, dict) else None)):
        # a file that was written whole (config.yaml of a run) says that there are none
        if value is not None and not (whole and (not value or (isinstance(value, dict) and not any(value.values())))):
            key = name.removeprefix("train.")
            raise RequestError(
                f"{where or 'phases'}: expected {name} of a phase, found {len(laid['phases'])} phases with {key} of their own;"
                f" state phases.N.{key} (N from 0), as in phases.0.{key}={{...}}"
            )
    return {**laid, _TOTAL: train["epochs"]} if not whole and isinstance(train, dict) and "epochs" in train else laid


def _shared_out(tree: dict[str, Any], setting: str) -> dict[str, Any]:
    """The tree with the epochs that were stated for all phases together shared out among them in proportion.

    Values that the schema will refuse are left to it.
    """
    total, phases = tree.get(_TOTAL), tree.get("phases")
    tree = {key: value for key, value in tree.items() if key != _TOTAL}
    if total is None or not isinstance(phases, list) or not all(isinstance(phase, dict) for phase in phases):
        return tree
    lengths = [phase.get("epochs", 0) for phase in phases]
    if not all(type(length) is int and length > 0 for length in (total, *lengths)):
        return tree
    shares = share_epochs(lengths, total, setting)
    return tree | {"phases": [phase | {"epochs": share} for phase, share in zip(phases, shares, strict=True)]}
