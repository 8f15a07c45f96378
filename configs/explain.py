"""The schema for people: its fields as the text of --help, and what does not fit it as one line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from configs.errors import RequestError, nearest
from configs.overrides import yaml_value
from configs.schema import Config

# Keys of earlier versions, and what takes their place.
RENAMED = {
    "pairs.crop_size": "pairs.ref.size and pairs.test.size",
    "pairs.search_area_factor": "pairs.ref.area_factor and pairs.test.area_factor",
    **{f"pairs.{image}_{jitter}": f"pairs.{image}.{jitter}" for image in ("ref", "test") for jitter in ("scale_jitter", "center_jitter")},
}


def parse(tree: dict[str, Any], where: str) -> Config:
    """Checks a plain tree against the schema; errors name the field, what was found and the nearest known key."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise RequestError(f"{where}: {_explained(error)}") from error


def field_help(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Every field of the schema as (dotted name, default, description): the text of --help."""
    for name, field in model.model_fields.items():
        inner = _section(field.annotation) if name not in ("phases", "second_student") else None
        if field.is_required():
            default = "required"
        else:
            default = "section" if inner and field.default is not None else yaml_value(field.get_default(call_default_factory=True))
        yield f"{prefix}{name}", default, field.description or str(inner.__doc__).split("\n")[0]
        if inner is not None:
            yield from field_help(inner, f"{prefix}{name}.")


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section class of an annotation (`Teacher`, `Teacher | None`, `tuple[Phase, ...]`), or None for a plain value."""
    return next((part for part in (annotation, *get_args(annotation)) if isinstance(part, type) and issubclass(part, BaseModel)), None)


def _explained(error: ValidationError) -> str:
    """The first fault in our form: field, expected, found, what to do; and how many more there are."""
    faults = error.errors()
    first = faults[0]
    place = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function-"))
    if first["type"] == "extra_forbidden" and place in RENAMED:
        line = f"expected {RENAMED[place]}, found {place}, their name in earlier versions; change {place}"
    elif first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"][:-1])
        line = f"expected a known key, found '{place:.80}'{nearest(str(first['loc'][-1]), known)}; known here: {', '.join(known)}"
    elif first["type"] == "value_error":
        line = f"{place}{': ' if place else ''}{str(first['msg']).removeprefix('Value error, ')}"
    else:
        message = first["msg"].replace("Input should be", "expected").replace("Field required", "expected a value")
        line = f"{place}: {message[0].lower() + message[1:]}, found {first['input']!r:.80}; change {place}"
    return line + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def _known_keys(place: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Config
    for part in map(str, place):
        if part in model.model_fields:
            model = _section(model.model_fields[part].annotation) or model
    return list(model.model_fields)
