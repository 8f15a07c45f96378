"""Losses of distilled trackers, and the teacher numbers (targets) that they need.

What the room offers is listed in kdlosses/public.py, which brings torch and is imported when the first name of it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdlosses.public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    return getattr(importlib.import_module("kdlosses.public"), name)
