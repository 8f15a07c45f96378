"""What every section of the schema is made of: its base class, and the types of values that several sections share."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from configs.architectures import ARCHITECTURES
from configs.errors import nearest

Layer = Literal["conv1", "layer1", "layer2", "layer3"]
"""A stage of a backbone."""
LAYERS: tuple[str, ...] = get_args(Layer)
"""From the image upwards."""

# Largest unsigned 64-bit seed is what the counter-based generator takes as half of its key.
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
"""Of pairs, frames, steps: more is a slip of the hand."""
Few = Annotated[int, Field(ge=1, lt=2**16)]
"""Of what is in memory at once."""
Weight = Annotated[float, Field(ge=0)]


def _text(value: str) -> str:
    if not value.strip() or not value.isprintable() or len(value) > 4000:
        raise ValueError(f"expected a text that can be printed, found {value!r:.60}; change it")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,99}", value):
        raise ValueError(f"expected the name of one folder (letters, digits, '.', '_', '-', '+', '='), found {value!r:.60}; change it")
    return value


def _stem(value: str) -> str:
    if value and ("/" in value or _text(value) in (".", "..")):
        raise ValueError(f"expected the name of a setting, without folder, found {value!r:.60}; change it")
    return value


def _architecture(value: str) -> str:
    if value not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"expected an architecture among {known}, found {value!r:.60}{nearest(value, ARCHITECTURES)}; correct the name")
    return value


def device_name(value: str) -> str:
    """The value. ValueError where no device has such a name."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,4})?", value):
        raise ValueError(f"expected auto, cpu, cuda or cuda:n, found {value!r:.60}; correct it")
    return value


Text = Annotated[str, AfterValidator(_text)]
Name = Annotated[str, AfterValidator(_name)]
"""Becomes a folder below another, and never one beside it."""
Stem = Annotated[str, AfterValidator(_stem)]
"""Of a file; becomes a folder as well."""
ArchitectureName = Annotated[str, AfterValidator(_architecture)]
Device = Annotated[str, AfterValidator(device_name)]


class Section(BaseModel):
    """Base of every section: unknown keys and numbers that are not finite are refused, values are checked on assignment."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """True would count as 1, and 1 as true."""
        kind = cls.model_fields[str(info.field_name)].annotation
        words = [word for each in get_args(kind) for word in get_args(each)] if bool in get_args(kind) else []
        is_flag = kind is bool or bool in get_args(kind)
        if is_flag and not isinstance(value, bool) and value not in words:
            raise ValueError(f"expected {', '.join([*words, 'true or false'])}, found {value!r:.60}; change it")
        if not is_flag and any(isinstance(item, bool) for item in (value if isinstance(value, list | tuple) else [value])):
            raise ValueError(f"expected anything but true or false, found {value!r:.60}; change it")
        return value
