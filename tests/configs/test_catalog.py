"""The catalog: roots, mixtures, a file of one's own, and what a wrong entry is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from configs.catalog import dataset_entry, members
from configs.errors import RequestError


@pytest.fixture
def own(tmp_path, monkeypatch) -> Callable[[str], Path]:
    """Writes the file that DATASETS names."""

    def write(text: str) -> Path:
        file = tmp_path / "mine.yaml"
        file.write_text(text)
        monkeypatch.setenv("DATASETS", str(file))
        return file

    return write


def test_dataset_roots_come_from_the_environment(monkeypatch):
    monkeypatch.delenv("GOT10K_ROOT", raising=False)
    with pytest.raises(RequestError, match="GOT10K_ROOT to name its folder, found it unset"):
        dataset_entry("got10k")
    monkeypatch.setenv("GOT10K_ROOT", "/somewhere")
    assert dataset_entry("got10k")["root"] == "/somewhere"
    monkeypatch.delenv("DEMO_ROOT", raising=False)
    assert dataset_entry("demo")["root"] == "data/demo"
    with pytest.raises(RequestError, match=r"found 'got10' \(nearest: 'got10k'\)"):
        dataset_entry("got10")


def test_a_variable_may_stand_without_braces_where_it_is_a_whole_name(own, monkeypatch):
    monkeypatch.setenv("PLACE", "/some where")
    for root, found in (
        ("$PLACE/x", "/some where/x"),
        ("$PLACE", "/some where"),
        ("/a/$PLACE", "/a//some where"),
        ("/a$PLACE/b$", "/a$PLACE/b$"),
    ):
        own(f"mine: {{kind: got10k, root: '{root}', train: {{}}}}\n")
        assert dataset_entry("mine")["root"] == found
    own("mine: {kind: got10k, root: $NO_SUCH_PLACE/x, train: {}}\n")
    with pytest.raises(RequestError, match="environment variable NO_SUCH_PLACE to name its folder, found it unset"):
        dataset_entry("mine")


def test_the_published_protocol_has_a_name():
    assert members("cfkd_protocol", "train") == ("lasot", "trackingnet", "coco")
    assert members("cfkd_protocol", "val") == ("trackingnet",)
    with pytest.raises(RequestError, match="expected one data set, found a mixture; name its members: lasot, trackingnet, coco"):
        dataset_entry("cfkd_protocol")


def test_plain_names_stand_for_themselves_and_each_is_named_once():
    assert members("got10k", "train") == members(" got10k ", "val") == ("got10k",)
    assert members("got10k  coco cfkd_protocol", "train") == ("got10k", "coco", "lasot", "trackingnet")
    assert members("got10k  coco cfkd_protocol", "val") == ("got10k", "coco", "trackingnet")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("got10k lazot", r"dataset: expected one of demo, .*found 'lazot' \(nearest: 'lasot'\)"),
        ("cfkd_protocl", r"nearest: 'cfkd_protocol'"),
        ("", "expected one of demo, .*found no name; give one"),
    ],
)
def test_a_wrong_name_is_refused(name, message):
    with pytest.raises(RequestError, match=message):
        members(name, "train")


def test_entries_of_ones_own_come_on_top(own):
    own(
        "mine: {kind: folder, root: /here, train:, val: {folder: v}}\n"
        "got10k: {kind: got10k, root: /there, train: {}}\n"
        "both: {kind: mixture, train: [mine, coco], val: [got10k]}\n"
    )
    assert dataset_entry("mine") == {"kind": "folder", "root": "/here", "train": None, "val": {"folder": "v"}}
    assert dataset_entry("got10k")["root"] == "/there"
    assert (members("both", "train"), members("both", "val")) == (("mine", "coco"), ("got10k",))
    assert members("cfkd_protocol", "val") == ("trackingnet",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine: 3", "dataset mine: expected a mapping of named keys, found 3; mend its entry in .*mine.yaml"),
        ("mine:", "dataset mine: expected a mapping of named keys, found None"),
        ("mine: {1: x}", "expected a mapping of named keys"),
        ("mine: {kind: folder, train: {}}", "expected root to be a text, found None"),
        ("mine: {kind: folder, root: [a], train: {}}", r"expected root to be a text, found \['a'\]"),
        ("mine: {kind: folder, root: ' '}", "expected root to be a text, found ' '"),
        ("mine: {root: /x, train: {}}", "expected kind to be a text, found None"),
        ("mine: {kind: folder, root: /x, val: all}", "expected val to be a mapping of options, found 'all'"),
        ("2017: {kind: folder, root: /x}", r"dataset 2017: expected a name of one word \(a number in quotes\), found 2017"),
        ("my data: {kind: folder, root: /x}", "expected a name of one word"),
        ("../up: {kind: folder, root: /x}", "expected a name that a cache's folder can begin with, found '../up'"),
        ("mine: {kind: mixture, train: [lasot]}", "dataset mine: expected val to be a list of data sets, found None"),
        ("mine: {kind: mixture, train: lasot coco, val: [coco]}", "expected train to be a list of data sets, found 'lasot coco'"),
        ("mine: {kind: mixture, train: [], val: [coco]}", r"expected train to be a list of data sets, found \[\]"),
        ("mine: {kind: mixture, root: /x, train: [coco], val: [coco]}", "expected a mixture to have kind, train and val only, found root"),
        (
            "mine: {kind: mixture, train: [coco], val: [lazot]}",
            r"expected val to name data sets of the catalog, found 'lazot' \(nearest: 'lasot'\)",
        ),
        ("mine: {kind: mixture, train: [[coco]], val: [coco]}", r"expected train to name data sets of the catalog, found \['coco'\]"),
        (
            "mine: {kind: mixture, train: [cfkd_protocol], val: [coco]}",
            "expected train to name plain data sets, found the mixture",
        ),
        ("mine: {kind: mixture, train: [mine], val: [coco]}", "expected train to name plain data sets, found the mixture 'mine'"),
        ("- mine", "mine.yaml: expected a mapping of keys, found list; see configs/datasets.yaml"),
        ("", "mine.yaml: expected a mapping of keys, found NoneType"),
        ("mine: [", "mine.yaml: expected YAML, found"),
        ("mine: {root: 2001-99-99}", "mine.yaml: expected YAML, found month must be in"),
    ],
)
def test_a_wrong_entry_is_one_line_whatever_is_asked_for(own, text, message):
    own(text)
    for ask in (lambda: dataset_entry("demo"), lambda: members("demo", "train")):
        with pytest.raises(RequestError, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_line(own, monkeypatch, tmp_path):
    own("x").write_bytes(b"mine: \xff\xfe")
    with pytest.raises(RequestError, match=r"mine.yaml: expected YAML, found 'utf-8' codec can't decode"):
        members("demo", "train")
    for path in (tmp_path / "none.yaml", tmp_path):
        monkeypatch.setenv("DATASETS", str(path))
        with pytest.raises(RequestError, match="DATASETS: expected the path of a YAML file, found none at"):
            members("demo", "train")
