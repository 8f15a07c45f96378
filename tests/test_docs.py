"""The documents: their Python runs, their links and commands exist, and their tables are what the code says."""

from __future__ import annotations

import contextlib
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml

import models
import teachonce
from configs.catalog import DATASETS
from kdlosses import TARGETS, kinds
from kdlosses.modules import MODULES
from models.backbones import BACKBONES
from models.tracker import ARCHITECTURES
from precompute.datasets import KINDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# what a page may add rows to, for its own blocks only
TABLES = (ARCHITECTURES, BACKBONES, KINDS, MODULES, TARGETS, kinds.KINDS)
RUNNABLE = re.compile(r"^```python run\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def demo_cache(demo_video: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small cache of the demo's video and the bundled teacher, as the command line makes it; the environment names its folder."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("DEMO_ROOT", demo_video), ("CACHE_DIR", folder / "caches"), ("TEACHONCE_INDEX", folder / "index")):
            patch.setenv(name, str(value))
        words = "precompute cache --dataset demo --setting demo --split train --pairs 64 --device cpu --threads 1 train.feed=torch"
        assert teachonce.main(words.split()) == 0
        yield next((folder / "caches").glob("demo-train-*"))


def blocks(page: Path) -> list[str]:
    """The page's runnable blocks, each on the lines where it stands, so that a traceback names the place."""
    text = page.read_text()
    return ["\n" * (text[: match.start(1)].count("\n")) + match[1] for match in RUNNABLE.finditer(text)]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, demo_cache, tmp_path, monkeypatch):
    module = types.ModuleType(f"page_{page.stem}")
    module.__dict__.update(CACHE=demo_cache, WEIGHTS=models.DEMO_TEACHER, TMP=tmp_path)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    tables: tuple[dict[Any, Any], ...] = TABLES
    with contextlib.ExitStack() as restored:
        for table in tables:
            restored.enter_context(mock.patch.dict(table))  # what a page adds is gone behind it
        for block in blocks(page):
            exec(compile(block, str(page), "exec"), module.__dict__)


def test_the_readme_has_python_that_runs():
    assert len(blocks(ROOT / "README.md")) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_commands_of_a_page_exist(page):
    text = page.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text)]
    assert not [link for link in links if link and not (page.parent / link).exists()]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", text, re.MULTILINE)) <= targets
    assert set(re.findall(r"teachonce ([a-z]+)", text)) <= {*teachonce.COMMANDS}


def test_the_table_of_data_sets_is_the_catalog():
    table = (ROOT / "docs" / "settings.md").read_text().split("| name | what | folder |\n")[1].split("\n\n")[0]
    names = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(names) == sorted(yaml.safe_load(DATASETS.read_text()))
