"""Weights on disk: every form reads, nothing runs, and a file that does not fit is refused with a list."""

from __future__ import annotations

import collections
import datetime
import io
import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import models
from configs.errors import RequestError
from models.checkpoint import WRAPPERS
from models.safe_pickle import InertUnpickler

TINY = "atom_resnet18tiny"
FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@pytest.fixture(scope="module")
def tracker() -> models.Tracker:
    torch.manual_seed(1)
    return models.build(TINY)


def other() -> models.Tracker:
    torch.manual_seed(2)
    return models.build(TINY)


def assert_equal(first: nn.Module, second: nn.Module) -> None:
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def save(content: Any, path: Path, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.fixture
def foreign() -> Iterator[Callable[[str, str], type]]:
    """Makes importable classes that are gone again when the test's checkpoint is read."""
    made: list[str] = []

    def make(module: str, name: str) -> type:
        words = module.split(".")
        for k in range(len(words)):
            part = ".".join(words[: k + 1])
            if part not in sys.modules:
                sys.modules[part] = ModuleType(part)
                made.append(part)
        kind = type(name, (), {"__module__": module})
        setattr(sys.modules[module], name, kind)
        return kind

    yield make
    for name in made:
        sys.modules.pop(name, None)


# --- safetensors -----------------------------------------------------------------------------------------------------


def test_safetensors_there_and_back(tracker: models.Tracker, tmp_path: Path) -> None:
    path, loaded = tmp_path / "w.safetensors", other()
    models.save_weights(tracker, path, metadata={"setting": "atom_cfkd"})
    models.load_weights(loaded, path)
    assert_equal(loaded, tracker)
    assert models.read_state(path)[1] == {"file": "safetensors", "format": "pt", "architecture": TINY, "setting": "atom_cfkd"}
    assert not list(tmp_path.glob(".*"))


def test_equal_weights_are_equal_bytes(tracker: models.Tracker, tmp_path: Path) -> None:
    details = {f"key{k}": str(k) for k in range(8)}
    digests = set()
    for k in range(6):
        order = dict(sorted(details.items(), key=lambda item: (int(item[1]) * 5 + k) % 8))
        models.save_weights(
            tracker.to(memory_format=torch.channels_last if k % 2 else torch.contiguous_format), tmp_path / "w", metadata=order
        )
        digests.add(models.weights_digest(tmp_path / "w"))
    assert len(digests) == 1
    models.save_weights(other(), tmp_path / "w", metadata=details)
    assert models.weights_digest(tmp_path / "w") not in digests


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files(tracker: models.Tracker, tmp_path: Path, dtype: torch.dtype) -> None:
    models.save_weights(tracker, tmp_path / "whole")
    models.save_weights(tracker, tmp_path / "half", dtype)
    assert (tmp_path / "half").stat().st_size < 0.6 * (tmp_path / "whole").stat().st_size
    loaded = other()
    models.load_weights(loaded, tmp_path / "half")
    for (name, a), b in zip(loaded.state_dict().items(), tracker.state_dict().values(), strict=True):
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b.to(dtype).to(b.dtype) if b.is_floating_point() else b), name


def test_a_number_beyond_float16_is_not_saved_as_inf(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"within torch.float16, found a beyond it; save in float32"):
        models.save_weights({"a": torch.tensor([1e6])}, tmp_path / "w", torch.float16)
    assert not (tmp_path / "w").exists()


def test_a_header_length_that_looks_like_a_pickle(tmp_path: Path) -> None:
    path, firsts = tmp_path / "w.safetensors", set()
    for k in range(0, 256, 8):  # the header's length is a multiple of 8, so its first byte takes every such value once
        models.save_weights({"a": torch.ones(3)}, path, metadata={"text": "x" * k})
        firsts.add(path.read_bytes()[0])
        assert models.read_state(path)[0]["a"].tolist() == [1, 1, 1]
    assert 0x80 in firsts


# --- PyTorch files ---------------------------------------------------------------------------------------------------


@FORMS
def test_a_public_checkpoint_full_of_foreign_objects(
    tracker: models.Tracker, tmp_path: Path, zipped: bool, foreign: Callable[[str, str], type]
) -> None:
    constructor = foreign("ltr.admin.model_constructor", "NetConstructor")()
    constructor.__dict__.update(fun_name=TINY, fun_module="ltr.models.bbreg.atom", args=(), kwds={"backbone_pretrained": True})
    settings, meter = foreign("ltr.admin.settings", "Settings")(), foreign("ltr.admin.stats", "AverageMeter")
    settings.env, settings.path = foreign("ltr.admin.local", "EnvironmentSettings")(), Path("/data")
    settings.when, settings.scale = datetime.timedelta(1), np.float64(3.5)
    settings.array, settings.log = np.arange(5.0), collections.defaultdict(list, a=[1])
    settings.dtype, settings.device, settings.words = torch.float32, torch.device("cpu"), {"a", b"b"}
    listy = type("Listy", (foreign("ltr.lists", "Base"), list), {"__module__": "ltr.lists"})
    sys.modules["ltr.lists"].Listy = listy  # type: ignore[attr-defined]
    content = {
        "epoch": 40,
        "actor_type": "AtomActor",
        "net_type": "ATOMnet",
        "net": collections.OrderedDict((name, nn.Parameter(t) if t.is_floating_point() else t) for name, t in tracker.state_dict().items()),
        "net_info": None,
        "constructor": constructor,
        "optimizer": torch.optim.Adam(tracker.parameters()).state_dict(),
        "stats": {"train": {"Loss/total": meter(), "more": listy([1, 2])}},
        "settings": settings,
    }
    path = save(content, tmp_path / "ATOMnet_ep0040.pth.tar", zipped)
    for name in [name for name in sys.modules if name.split(".")[0] == "ltr"]:
        del sys.modules[name]
    loaded = other()
    models.load_weights(loaded, path)
    assert_equal(loaded, tracker)
    assert not any(name.split(".")[0] == "ltr" for name in sys.modules)
    metadata = models.read_state(path)[1]
    assert metadata["constructor"] == TINY
    assert metadata["epoch"] == "40"
    assert metadata["net_type"] == "ATOMnet"
    assert {"ltr.admin.settings.Settings", "ltr.admin.model_constructor.NetConstructor"} <= set(metadata["foreign"].split(", "))
    assert metadata["file"] == ("PyTorch" if zipped else "PyTorch legacy")


@FORMS
def test_every_kind_of_tensor_reads(tmp_path: Path, zipped: bool) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    state = {"whole": whole, "slice": whole[1:3, 2:], "transposed": whole.T, "expanded": torch.ones(1).expand(3), "none": torch.zeros(0, 3)}
    state |= {
        str(dtype): torch.ones(3).to(dtype)
        for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.uint8, torch.bool)
    }
    state["scalar"] = torch.tensor(7)
    read, _ = models.read_state(save(state, tmp_path / "w.pth", zipped))
    assert read.keys() == state.keys()
    for name, tensor in state.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name


@FORMS
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"net": s}, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_a_bare_or_wrapped_state(tracker: models.Tracker, tmp_path: Path, zipped: bool, wrap: Callable[[Any], Any]) -> None:
    loaded = other()
    models.load_weights(loaded, save(wrap(tracker.state_dict()), tmp_path / "w.pth", zipped))
    assert_equal(loaded, tracker)


@pytest.mark.parametrize("prefix", [*WRAPPERS, "module._orig_mod.", "student.net."])
def test_prefixes_of_wrappers_are_taken_off(tracker: models.Tracker, tmp_path: Path, prefix: str) -> None:
    loaded = other()
    models.load_weights(loaded, save({prefix + name: t for name, t in tracker.state_dict().items()}, tmp_path / "w.pth"))
    assert_equal(loaded, tracker)


class Calls:
    """Pickles to a call of any function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@FORMS
@pytest.mark.parametrize(
    ("function", "named"),
    [
        *((os.system, f"{os.system.__module__}.system"), (eval, "builtins.eval"), (exec, "builtins.exec")),
        *((subprocess.run, "subprocess.run"), (__import__, "builtins.__import__"), (open, f"{open.__module__}.open")),
    ],
    ids=["system", "eval", "exec", "subprocess", "import", "open"],
)
def test_a_file_that_would_run_code_does_not(
    tracker: models.Tracker, tmp_path: Path, zipped: bool, function: Callable[..., Any], named: str
) -> None:
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w')"
    arguments = {"system": f"touch {marker}", "run": ["touch", str(marker)], "eval": code, "exec": code}
    call = Calls(function, *((str(marker), "w") if function is open else (arguments.get(function.__name__, "os"),)))
    path = save({"net": tracker.state_dict(), "stats": call}, tmp_path / "w.pth", zipped)
    with pytest.raises(RequestError, match=rf"found the function '{named}' named in .*w.pth \(it was not run\); use a file from a source"):
        models.read_state(path)
    assert not marker.exists()


def test_a_third_partys_function_is_not_run_either(tmp_path: Path, foreign: Callable[[str, str], type]) -> None:
    kind, ran = foreign("somewhere.tools", "Kind"), []
    sys.modules["somewhere.tools"].run = run = lambda text: ran.append(text)  # type: ignore[attr-defined]
    run.__module__, run.__qualname__, run.__name__ = "somewhere.tools", "run", "run"
    path = save({"net": {"a": torch.ones(2)}, "x": Calls(run, "boo"), "y": kind()}, tmp_path / "w.pth")
    state, metadata = models.read_state(path)
    assert ran == []
    assert state["a"].tolist() == [1, 1]
    assert metadata["foreign"] == "somewhere.tools.run, somewhere.tools.Kind"


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """The same zip file with another data.pkl."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return path


def test_a_pickle_cannot_change_the_readers_functions(tmp_path: Path) -> None:
    # BUILD with a slots state would set attributes on what the name stands for
    attack = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x08\x00\x00\x00functionNs\x86b."
    with pytest.raises(RequestError, match="truncated or damaged"):
        models.read_state(rewritten(save({"a": torch.ones(2)}, tmp_path / "w.pth"), lambda _: attack))
    assert models.read_state(save({"a": torch.ones(2)}, tmp_path / "w.pth"))[0]["a"].tolist() == [1, 1]


def test_a_file_cannot_ask_for_more_memory_than_it_has(tmp_path: Path) -> None:
    wide = save({"a": torch.ones(1).expand(2**40)}, tmp_path / "wide.pth")
    with pytest.raises(RequestError, match="tensors that hold many times the bytes of the file"):
        models.read_state(wide)
    with zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", bytes(10**6))
    with pytest.raises(RequestError, match=r"compressed records, which torch.save does not write"):
        models.read_state(tmp_path / "packed.pth")
    # one entry of the memo, under a number of 32 bits
    memo = rewritten(save({"a": torch.ones(2)}, tmp_path / "memo.pth"), lambda pickled: pickled[:3] + b"r\xff\xff\xff\xff" + pickled[3:])
    assert models.read_state(memo)[0]["a"].tolist() == [1, 1]


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_said_to_be(tmp_path: Path, form: str) -> None:
    path = tmp_path / "w"
    state = {"a": torch.randn(300), "b": torch.randn(40, 5)}
    if form == "safetensors":
        models.save_weights(state, path)
    else:
        save(state, path, form == "zip")
    content = path.read_bytes()
    for share in (0.02, 0.1, 0.3, 0.6, 0.9, 0.999):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(RequestError, match=r"expected a complete checkpoint .* truncated or damaged|which is neither") as caught:
            models.read_state(path)
        assert "\n" not in str(caught.value)


@FORMS
def test_damage_is_an_error_or_nothing(tmp_path: Path, zipped: bool) -> None:
    """Whatever bytes are changed: the file reads, or it is refused with one of our errors."""
    content = save({"net": {"a": torch.randn(20), "b": torch.ones(2, 3)}, "epoch": 3}, tmp_path / "good", zipped).read_bytes()
    dice, refused = random.Random(0), 0
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(4, len(damaged))] = dice.randrange(256)
        (tmp_path / "bad").write_bytes(damaged)
        try:
            models.read_state(tmp_path / "bad")
        except RequestError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no checkpoint at all, only words", "found .*, which is neither; give another file"),
        (b"", "which is neither"),
        (pickle.dumps({"a": 1}), "a pickle that torch.save did not write"),
    ],
)
def test_another_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(RequestError, match=message):
        models.read_state(tmp_path / "w")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"expected a checkpoint file, found nothing at .*; correct the path"):
        models.read_state(tmp_path / "none")
    with pytest.raises(RequestError, match=r"expected a checkpoint file, found a folder at"):
        models.read_state(tmp_path)
    with pytest.raises(RequestError, match="expected a checkpoint file, found nothing"):
        models.weights_digest(tmp_path / "none")


def test_a_file_without_parameters(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"expected parameters by name .* found a dict of epoch, lr; give another file"):
        models.read_state(save({"epoch": 3, "lr": 0.1}, tmp_path / "w.pth"))
    with pytest.raises(RequestError, match="found one list"):
        models.read_state(save([torch.ones(2)], tmp_path / "w.pth"))
    with pytest.raises(RequestError, match=r"found one torch.nn.modules.linear.Linear"):
        models.read_state(save(nn.Linear(2, 2), tmp_path / "w.pth"))
    with pytest.raises(RequestError, match=r"expected only tensors among the parameters of .*, found b: int"):
        models.read_state(save({"a": torch.ones(2), "b": 3}, tmp_path / "w.pth"))


def test_a_stream_is_not_read_past_its_pickle() -> None:
    """The legacy form is several pickles in one stream: each reader must stop where its own ends."""
    stream = io.BytesIO(pickle.dumps(1, 2) + pickle.dumps([2], 2))
    assert [InertUnpickler(stream, Path("x")).load() for _ in range(2)] == [1, [2]]
