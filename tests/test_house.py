"""The house: short functions and files, few parameters, imports without circles, one name for one thing, a README of a few screens."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("bench", "cache", "configs", "kdlosses", "models", "pairs", "precompute", "tests", "tracking", "train")
FUNCTION_LINES, FILE_LINES, PARAMETERS, README_LINES = 50, 400, 8, 150

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> dict[Path, str]:
    """Every Python file of the project, from its root, with its text."""
    paths = [ROOT / "teachonce.py", *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))]
    return {path.relative_to(ROOT): path.read_text() for path in paths}


def functions(tree: ast.AST) -> Iterator[tuple[Function, bool]]:
    """Every function, also inside others, and whether its first parameter is self or cls."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in child.decorator_list)
                yield child, isinstance(node, ast.ClassDef) and not static


def long_functions(text: str) -> list[str]:
    """`line NAME: lines` of every function that is too long."""
    lengths = [(node, (node.end_lineno or 0) - node.lineno + 1) for node, _ in functions(ast.parse(text))]
    return [f"{node.lineno} {node.name}: {length} lines" for node, length in lengths if length > FUNCTION_LINES]


def crowded_functions(text: str) -> list[str]:
    """`line NAME: parameters` of every function that takes too many."""
    counts = []
    for node, bound in functions(ast.parse(text)):
        given = node.args
        starred = (given.vararg is not None) + (given.kwarg is not None)
        counts.append((node, len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) + starred - bound))
    return [f"{node.lineno} {node.name}: {count} parameters" for node, count in counts if count > PARAMETERS]


def renamed_imports(text: str) -> list[str]:
    """`line NAME as OTHER` of every name of the project that is imported under another name."""
    return [
        f"{node.lineno} {node.module}.{alias.name} as {alias.asname}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ROOMS
        for alias in node.names
        if alias.asname not in (None, alias.name)
    ]


def at_module_level(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not _for_types_alone(node):
            yield from at_module_level(node)


def _for_types_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports(files: dict[Path, str]) -> dict[str, set[str]]:
    """Module -> the modules of the project that its import runs, by name (`from a import b`: a.b where that is a module, else a)."""
    names = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): text for path, text in files.items()}
    graph: dict[str, set[str]] = {}
    for name, text in names.items():
        wanted = set()
        for node in at_module_level(ast.parse(text)):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            else:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                wanted |= {module if module in names else str(node.module) for module in inner}
        graph[name] = wanted & set(names)
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of imports, from a module back to itself; empty where there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))
    return []


@pytest.mark.parametrize("check", [long_functions, crowded_functions, renamed_imports])
def test_every_file_keeps_the_rule(check):
    places = [f"{path}:{place}" for path, text in sources().items() for place in check(text)]
    assert not places, f"{check.__doc__}\n" + "\n".join(places)


def test_no_file_is_longer_than_a_few_screens():
    places = [f"{path}: {count} lines" for path, text in sources().items() if (count := len(text.splitlines())) > FILE_LINES]
    assert not places, f"at most {FILE_LINES} lines a file:\n" + "\n".join(places)


def test_modules_do_not_import_each_other_in_a_circle():
    found = circle(imports(sources()))
    assert not found, "imports in a circle: " + " -> ".join(found)


def test_the_readme_is_a_few_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


def test_the_rules_see_what_they_forbid():
    body = "\n".join(f"    x = {i}" for i in range(FUNCTION_LINES))
    assert long_functions(f"class A:\n  def f():\n{body}\n") == [f"2 f: {FUNCTION_LINES + 1} lines"]
    assert not long_functions(f"def f():\n{body[: body.rindex(chr(10))]}\n")
    eight = ", ".join("abcdefgh")
    assert crowded_functions(
        f"def f({eight}, *rest): pass\nclass A:\n  def g({eight}, i): pass\n  @staticmethod\n  def h({eight}, *, i): pass"
    ) == [
        "1 f: 9 parameters",
        "5 h: 9 parameters",
    ]
    assert renamed_imports(
        "from cache.store import Cache as C\nfrom cache import Cache\nimport numpy as np\nfrom torch import nn as n"
    ) == ["1 cache.store.Cache as C"]
    files = {Path("a/__init__.py"): "", Path("a/b.py"): "from a import c", Path("a/c.py"): "if x:\n  import a.b"}
    assert circle(imports(files)) in (["a.b", "a.c", "a.b"], ["a.c", "a.b", "a.c"])
    late = {**files, Path("a/c.py"): "if TYPE_CHECKING:\n  import a.b\ndef f():\n  import a.b"}
    assert not circle(imports(late))
