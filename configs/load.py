"""From YAML files and overrides to one resolved, typed `Config`, and back to text."""

from __future__ import annotations

import functools
import os
import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from configs.errors import RequestError, nearest
from configs.schema import Config, Pairs, Phase

SETTINGS = Path(__file__).parent / "settings"
DATASETS = Path(__file__).parent / "datasets.yaml"
# Layout of the pair set's numbers: raised whenever code changes what pair i is.
PAIRS_VERSION = 1
# A base that only holds what others share is no setting.
_SHARED = ("atom",)


def settings() -> dict[str, str]:
    """Every setting with its one-line description."""
    names = sorted(path.stem for path in SETTINGS.glob("*.yaml") if path.stem not in _SHARED)
    return {name: load(name).doc for name in names}


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
    tree = _resolved(path, _like(overrides))
    for key, variable in (("cache_dir", "CACHE_DIR"), ("run_dir", "RUN_DIR")):
        if os.environ.get(variable):
            tree[key] = os.environ[variable]
    for override in overrides:
        _apply(tree, override)
    tree["setting"] = path.stem
    config = parse(tree, where=str(setting))
    # a budget that came from elsewhere counts all phases together
    return at_budget(config, config.train.epochs, None) if config.like and config.phases else config


def parse(tree: dict[str, Any], where: str) -> Config:
    """Checks a plain tree against the schema; errors name the field, what was found and the nearest known key."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise RequestError(f"{where}: {_explain(error)}") from error


def dump(config: Config) -> str:
    """The resolved configuration as YAML, which `yaml.safe_load` and `parse` read back to an equal Config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def read(path: Path) -> Config:
    """A configuration that `dump` wrote."""
    return parse(_read_yaml(path), where=str(path))


def pair_identity(pairs: Pairs, dataset: str, split: str) -> dict[str, Any]:
    """What defines a pair set apart from the data set's content: the settings' share of a cache's identity.

    The validation split has no photometry and a count of its own; both are part of the identity as they are used.
    """
    fields = pairs.model_dump(mode="json")
    val_count = fields.pop("val_count")
    if split == "val":
        fields |= {"count": val_count, "grey_probability": 0.0, "brightness": 0.0}
    return {"pairs_version": PAIRS_VERSION, "dataset": dataset, "split": split, **fields}


def dataset_entry(name: str, catalog: Path | None = None) -> dict[str, Any]:
    """The entry of a data set with its root's environment variables resolved.

    The catalog is configs/datasets.yaml, with the entries of the file that DATASETS names (if any) on top.

    Raises:
        RequestError: unknown name, or an environment variable of its root that is not set (named).
    """
    entries = _read_yaml(catalog or DATASETS)
    if catalog is None and os.environ.get("DATASETS"):
        entries |= _read_yaml(Path(os.environ["DATASETS"]))
    if name not in entries:
        raise RequestError(
            f"dataset: expected one of {', '.join(entries)}, found '{name}'{nearest(name, entries)}; add it to configs/datasets.yaml"
        )
    entry = dict(entries[name])

    def resolve(match: re.Match[str]) -> str:
        variable, default = match["name"], match["default"]
        if value := os.environ.get(variable, default):
            return value
        raise RequestError(
            f"dataset {name}: expected the environment variable {variable} to name its folder, found it unset; export {variable}=/path"
        )

    entry["root"] = re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}", resolve, str(entry["root"]))
    return entry


def at_budget(config: Config, epochs: int | None, batches: int | None) -> Config:
    """The configuration with `epochs` in all and `batches` an epoch; phases and the learning-rate schedule shrink in proportion."""
    phases = config.phases_or_one()
    before = sum(phase.epochs for phase in phases)
    train = config.train.model_dump()
    if batches is not None:
        train["batches"] = batches
    if epochs is not None:
        if epochs < len(phases):
            raise RequestError(
                f"epochs: expected at least one for each of {config.setting}'s {len(phases)} phases, found {epochs}; give more"
            )
        # a schedule that came with a budget of its own is in proportion to that
        train["lr_step"] = max(1, round(config.train.lr_step * epochs / (config.train.epochs if config.like else before)))
        train["epochs"] = epochs
    shared = share_epochs(config.phases, epochs) if epochs is not None else config.phases
    tree = config.model_dump() | {"train": train, "phases": [phase.model_dump() for phase in shared]}
    return parse(tree, where=config.setting)


def share_epochs(phases: tuple[Phase, ...], epochs: int) -> tuple[Phase, ...]:
    """Phases of `epochs` in all, in the proportions they had, each at least one."""
    total, done, passed, found = sum(phase.epochs for phase in phases), 0, 0, []
    for place, phase in enumerate(phases):
        passed += phase.epochs
        left = len(phases) - place - 1
        length = min(max(1, round(epochs * passed / total) - done), epochs - done - left)
        found.append(phase.model_copy(update={"epochs": length}))
        done += length
    return tuple(found)


def describe(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Every field of the schema as (dotted name, default, description): the text of --help."""
    for name, field in model.model_fields.items():
        inner = _section(field.annotation)
        dotted = f"{prefix}{name}"
        if inner is not None and name not in ("phases", "second_student"):
            if field.description:
                default = "null" if field.default is None else "section"
                yield dotted, default, field.description
            else:
                yield dotted, "null", (inner.__doc__ or "").split("\n")[0]
            yield from describe(inner, f"{dotted}.")
        else:
            yield (
                dotted,
                "required" if field.is_required() else yaml_value(field.get_default(call_default_factory=True)),
                field.description or "",
            )


def yaml_value(value: Any) -> str:
    """A default as one would type it in an override."""
    if isinstance(value, tuple):
        return "[" + ", ".join(map(yaml_value, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section class inside an annotation (`Teacher | None`), or None for a plain value."""
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, BaseModel) else None
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) in (typing.Union, typing.Annotated):
        return next((found for part in typing.get_args(annotation) if (found := _section(part)) is not None), None)
    return None


def _find_setting(setting: str) -> Path:
    if setting.endswith((".yaml", ".yml")):
        if not Path(setting).is_file():
            raise RequestError(f"setting: expected a YAML file, found none at {setting}; see configs/settings for examples")
        return Path(setting)
    known = sorted(path.stem for path in SETTINGS.glob("*.yaml") if path.stem not in _SHARED)
    if setting not in known:
        raise RequestError(
            f"setting: expected one of {', '.join(known)}, found '{setting}'{nearest(setting, known)}; add it to configs/settings"
        )
    return SETTINGS / f"{setting}.yaml"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise RequestError(f"expected a YAML file, found none at {path}; check the name") from error
    except yaml.YAMLError as error:
        raise RequestError(f"{path}: expected YAML, found {' '.join(str(error).split())}; mend the file") from error
    if not isinstance(tree, dict):
        raise RequestError(f"{path}: expected a mapping of keys, found {type(tree).__name__}; see configs/settings/atom_cfkd.yaml")
    return tree


def _like(overrides: Sequence[str]) -> str | None:
    """What the last `like=NAME` says."""
    found = [override.partition("=")[2] for override in overrides if override.startswith("like=")]
    return found[-1] if found else None


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
    return _merge(tree, {**sizes, "train": budget, "like": like})


def _chain(path: Path, seen: tuple[Path, ...]) -> list[tuple[Path, dict[str, Any]]]:
    """A setting's files with their trees, that of the base first."""
    if path in seen:
        raise RequestError(
            f"{path}: expected a base: chain that ends, found a circle {' -> '.join(p.stem for p in (*seen, path))}; remove one base:"
        )
    tree = _read_yaml(path)
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
    return functools.reduce(_merge, trees, {})


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, mappings merged key by key, everything else replaced."""
    merged = dict(base)
    for key, value in over.items():
        merged[key] = _over(merged.get(key), value)
    return merged


def _over(old: Any, new: Any) -> Any:
    """`new` on top of `old`. A number stands for the weight of a loss, so it never drops the loss' other fields, nor they it."""
    if isinstance(new, dict):
        return _merge(old if isinstance(old, dict) else {"weight": old} if _is_number(old) else {}, new)
    return {**old, "weight": new} if isinstance(old, dict) and _is_number(new) else new


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RequestError(
            f"override: expected key=value (train.epochs=2), found '{override}'; write the key, '=' and the value without spaces"
        )
    try:
        value = yaml.safe_load(text) if text else None
        # YAML reads 1e-3 as a string; whoever types it means the number
        if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
            value = float(value)
    except yaml.YAMLError as error:
        raise RequestError(f"override {key}: expected a YAML value, found '{text}'; quote it") from error
    *parents, last = key.split(".")
    node = tree
    for index, parent in enumerate(parents):
        inner = node.get(parent)
        if isinstance(inner, list | str) or (inner is not None and not isinstance(inner, dict | int | float)):
            raise RequestError(
                f"override {key}: expected '{'.'.join(parents[: index + 1])}' to be a section, found {inner!r}; override it as a whole"
            )
        # a weight alone (fidelity: 100) becomes the section it is short for
        node[parent] = dict(inner) if isinstance(inner, dict) else {} if inner is None else {"weight": inner}
        node = node[parent]
    node[last] = _over(node.get(last), value)


def _explain(error: ValidationError) -> str:
    """The first fault in our form: field, expected, found, what to do; and how many more there are."""
    faults = error.errors()
    first = faults[0]
    place = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function-"))
    if first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"][:-1])
        line = f"expected a known key, found '{place}'{nearest(str(first['loc'][-1]), known)}; known here: {', '.join(known)}"
    elif first["type"] == "value_error":
        line = f"{place}{': ' if place else ''}{str(first['msg']).removeprefix('Value error, ')}"
    else:
        message = first["msg"].replace("Input should be", "expected").replace("Field required", "expected a value")
        line = f"{place}: {message[0].lower() + message[1:]}, found {first['input']!r}; change {place}"
    return line + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def _known_keys(place: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Config
    for part in place:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        annotation = model.model_fields[part].annotation
        arguments = typing.get_args(annotation) if typing.get_origin(annotation) is tuple else (annotation,)
        model = _section(arguments[0]) or model
    return list(model.model_fields)
