"""What honest checkpoints hold beside and around their parameters: usual keys, prefixes, harmless objects, small types."""

from __future__ import annotations

import argparse
import array
import collections
import configparser
import datetime
import enum
import fractions
import functools
import http
import inspect
import io
import json
import logging
import math
import operator
import os
import platform
import random
import re
import signal
import statistics
import struct
import textwrap
import time
import types
import urllib.parse
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import models
from configs.cli import run
from configs.errors import RequestError
from models.__main__ import main
from models.checkpoint import STATE_KEYS
from models.convert import load_tracker

FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
EIGHT_BITS = [name for name in vars(torch) if name.startswith("float8_")]


def save(content: Any, path: Path, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def with_pickle(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """The zip file of a small state dict with another data.pkl."""
    with zipfile.ZipFile(save({"a": torch.ones(2).to(torch.float8_e5m2)}, path)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return path


@pytest.mark.parametrize(
    ("key", "wrap"),
    [
        *((key, lambda s, key=key: {"epoch": 3, key: s}) for key in STATE_KEYS),
        ("model.state_dict", lambda s: {"model": {"state_dict": s, "step": 4}}),
        ("ema.model", lambda s: {"ema": {"decay": 0.99, "model": s}}),
        ("tracker", lambda s: {"tracker": s, "optimizer": {"state": {"a": torch.ones(2)}}}),
        ("a.b.c", lambda s: {"a": {"b": {"c": s, "less": 3}}}),
        ("0", lambda s: [s, 3]),
        ("swa", lambda s: {"swa": {**s, "n_averaged": torch.tensor(3)}, "grad_scaler": {"scale": torch.ones(1)}}),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model.", "net.", "network.", "module.model."])
def test_usual_keys_and_prefixes_are_found_and_said(tmp_path: Path, key: str, wrap: Callable[[Any], Any], prefix: str) -> None:
    path = save(wrap({f"{prefix}{name}": torch.ones(2) for name in ("conv1.weight", "fc.bias")}), tmp_path / "w.pth")
    state, metadata = models.read_state(path)
    assert list(state) == ["conv1.weight", "fc.bias"]
    assert metadata["key"] == key
    assert metadata.get("prefix", "") == prefix
    assert "other_keys" not in metadata


@pytest.mark.parametrize(
    ("content", "key", "others"),
    [
        ({"ema": {"a": 0}, "model": {"a": 1}}, "model", "ema"),
        ({"model_ema": {"a": 0}, "params": {"state_dict": {"a": 1}}}, "params.state_dict", "model_ema"),
        ({"model": {"ema": {"a": 0}}, "network": {"a": 1}}, "network", "model.ema"),
    ],
)
def test_plain_weights_win_over_their_average(tmp_path: Path, content: Any, key: str, others: str) -> None:
    def filled(item: Any) -> Any:
        return {name: filled(value) for name, value in item.items()} if isinstance(item, dict) else torch.full((2,), float(item))

    state, metadata = models.read_state(save(filled(content), tmp_path / "w.pth"))
    assert state["a"].tolist() == [1, 1]
    assert (metadata["key"], metadata["other_keys"]) == (key, others)


class Outer:
    """A class with parts that pickle writes through getattr."""

    class Inner:
        """A nested class."""

    class Mode(enum.Enum):
        FAST = 1

    def bound(self) -> None:
        """A method."""


class Settings(dict[str, Any]):
    """As yacs, easydict and their like have them."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


@FORMS
@pytest.mark.parametrize(
    "harmless",
    [
        *(Outer().bound, Outer.Inner(), Outer.Mode.FAST, {Outer.Mode.FAST: 1}, "a".upper),
        *(logging.getLogger("x"), re.compile("a+"), array.array("f", [1, 2]), range(3), ValueError("no"), type(None), random.Random(1)),
        *(
            np.float32(2),
            np.arange(3),
            np.dtype("f4"),
            np.random.default_rng(0),
            torch.device("cuda:0"),
            torch.Size([2]),
            torch.float8_e5m2,
        ),
        *(collections.Counter("aab"), collections.deque([1, 2], 3), collections.defaultdict(int, a=1), collections.ChainMap({"a": 1})),
        *(fractions.Fraction(1, 2), datetime.datetime(2020, 1, 1), dict[str, int], time.gmtime(0), io.BytesIO(b"a"), Path("a"), slice(2)),
        *(..., NotImplemented, functools.partial(max, 1), sorted, math.sqrt, operator.add, statistics.NormalDist(0, 1)),
        *(Path().stat(), os.uname(), signal.SIGINT, http.HTTPStatus.OK, inspect.signature(len), textwrap.TextWrapper(), bytes.fromhex),
        *(argparse.Namespace(lr=0.1), types.SimpleNamespace(a=1), Settings(lr=0.1), urllib.parse.urlsplit("a://b"), platform.uname()),
        *(torch.eye(2).to_sparse(), torch.ones(2, device="meta")),
        *(operator.itemgetter(1), configparser.ConfigParser, 2j, bytearray(b"a"), functools.partial(int, "1")),
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_harmless_objects_leave_a_file_readable(tmp_path: Path, zipped: bool, harmless: Any) -> None:
    for protocol in (2, 4):
        path = tmp_path / f"w{protocol}.pth"
        torch.save(
            {"net": {"a": torch.ones(2)}, "settings": harmless, "list": [harmless]},
            path,
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=zipped,
        )
        assert models.read_state(path)[0]["a"].tolist() == [1, 1]


def test_a_dotted_name_does_not_reach_through_a_plain_module(tmp_path: Path) -> None:
    attack = b"\x80\x04\x8c\x07logging\x8c\x09os.system\x93."
    with pytest.raises(RequestError, match=r"found the function 'logging.os.system' named in"):
        models.read_state(with_pickle(tmp_path / "w.pth", lambda _: attack))


@FORMS
@pytest.mark.parametrize("name", EIGHT_BITS)
def test_float8_is_read_as_float32(tmp_path: Path, zipped: bool, name: str) -> None:
    numbers = torch.tensor([1.0, 2.0, 4.0]).to(getattr(torch, name))
    safetensors.torch.save_file({"a": numbers}, tmp_path / "w.safetensors")
    for path in (save({"net": {"a": numbers}}, tmp_path / "w.pth", zipped), tmp_path / "w.safetensors"):
        read = models.read_state(path)[0]["a"]
        assert read.dtype == torch.float32
        assert read.tolist() == [1, 2, 4]


def test_a_type_of_tensor_that_torch_does_not_know(tmp_path: Path) -> None:
    message = (
        r"expected tensors of types that torch .* knows, found .*{}.* in .*w; install a newer torch, or save the file again in float32"
    )
    path = with_pickle(tmp_path / "w", lambda content: content.replace(b"float8_e5m2", b"float8_e9m9"))
    with pytest.raises(RequestError, match=message.format("torch.float8_e9m9")):
        models.read_state(path)
    for kind in ("F8_E9", "F4"):
        header = json.dumps({"a": {"dtype": kind, "shape": [2], "data_offsets": [0, 1 if kind == "F4" else 2]}}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(1 if kind == "F4" else 2))
        with pytest.raises(RequestError, match=message.format(kind if kind == "F8_E9" else "")):
            models.read_state(path)


@pytest.mark.parametrize(
    "content",
    [
        *({"net": {"a": torch.ones(1), "\x1b[2J" * 9999: 3}}, {"\x1b]0;owned\x07" * 9999: 3}, {"\x1b[31m\r" * 9999: torch.ones(1)}),
        pytest.param(b"\x80\x02cos\n\x1b[2J" + b"x" * 99999 + b"\n.", id="function"),
        pytest.param(b"\x80\x02}X\xff\x00\x00\x00\x1b[2J\x07", id="damaged"),
    ],
)
def test_what_a_file_says_does_not_reach_the_terminal(tmp_path: Path, content: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        with_pickle(path, lambda _: content)
    else:
        save(content, path)
    assert run(main, ["convert", str(path), str(tmp_path / "out.pth")]) == 2
    error = capsys.readouterr().err
    assert error.removesuffix("\n").isprintable()
    assert len(error) < 1000
    with pytest.raises(RequestError) as caught:
        load_tracker(path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("prefix", ["teacher.", "ema_model.module.", "actor.net.", "_forward_module.", "a.b.c.d."])
def test_any_prefix_before_names_that_are_known_is_taken_off(tmp_path: Path, prefix: str) -> None:
    for names in (
        ("feature_extractor.conv1.weight", "bb_regressor.fc.bias"),
        ("conv1.weight", "layer1.0.conv1.weight"),
        ("features.0.w", "c.w"),
    ):
        state, metadata = models.read_state(save({f"{prefix}{name}": torch.ones(2) for name in names}, tmp_path / "w.pth"))
        assert set(state) == set(names) and metadata["prefix"] == prefix
    for names in (("conv.weight", "conv.bias"), ("feature_extractor.layer1.w", "feature_extractor.conv1.w"), ("x.layer1.w", "y.layer1.w")):
        assert set(models.read_state(save({name: torch.ones(2) for name in names}, tmp_path / "w.pth"))[0]) == set(names)
