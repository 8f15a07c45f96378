"""YAML as configurations need it: plain data of a bounded size, whatever the text is."""

from __future__ import annotations

from typing import Any

import yaml

MOST_BYTES = 2**20
DEPTH = 40
ALIASES = 32
"""Of mappings and lists: each may double what a text stands for."""
_LARGEST = 2**64


class _Loader(yaml.SafeLoader):
    """PyYAML's, with bounds on depth, aliases and numbers."""

    depth = aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        anchored = isinstance(self.peek_event(), yaml.AliasEvent)
        self.depth += 1
        if self.depth > DEPTH:
            raise yaml.YAMLError(f"more than {DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        self.aliases += anchored and not isinstance(node, yaml.ScalarNode)
        if self.aliases > ALIASES:
            raise yaml.YAMLError(f"more than {ALIASES} aliases")
        return node

    def whole_number(self, node: Any) -> int:
        value = self.construct_yaml_int(node)
        if abs(value) > _LARGEST:
            raise yaml.YAMLError("a whole number beyond 64 bits")
        return int(value)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.whole_number)


def parse_yaml(text: str | bytes) -> Any:
    """The plain data of a text. ValueError, in one line: no YAML, no UTF-8, too long, too deep, too many aliases, too large a number."""
    if len(text) > MOST_BYTES:
        raise ValueError(f"{len(text):,} bytes, of at most {MOST_BYTES:,}")
    try:
        return yaml.load(text.decode("utf-8-sig") if isinstance(text, bytes) else text, _Loader)
    # besides its own errors, what a value that looks like a number or a date makes Python raise
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, AttributeError, TypeError, KeyError, IndexError) as error:
        raise ValueError(" ".join(str(error).split())) from error
