"""Between our safetensors files and the .pth.tar files that the public trackers' loader takes."""

from __future__ import annotations

import contextlib
import io
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from configs.files import write_atomic
from models.checkpoint import WHERE, guess_architecture, load_state, may_be_absent, read_state, save_weights
from models.files import require_writable_form
from models.tracker import ARCHITECTURES, Tracker, build

CONSTRUCTOR_MODULE = "ltr.admin.model_constructor"


def load_tracker(path: str | Path) -> tuple[Tracker, dict[str, str]]:
    """The tracker of a file, in eval mode, its architecture guessed from the parameters, and the file's metadata."""
    state, metadata = read_state(path)
    # What a file lacks of the stages that are never run is drawn with a fixed seed: one input gives one output.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tracker = build(guess_architecture(state))
    load_state(tracker, state, str(path))
    return tracker.eval(), metadata


def convert(source: str | Path, target: str | Path, dtype: torch.dtype | None = None, legacy: bool = False, trim: bool = False) -> str:
    """Reads any file that `read_state` takes and writes `target`, its form by its suffix; returns the architecture.

    .safetensors: `dtype` casts the parameters. .pth, .pth.tar: PyTracking's form, always float32; `legacy` writes the form
    that PyTorch before 1.6 reads. trim (safetensors): without the stages that are never run. RequestError for another suffix.
    """
    target = Path(target)
    packed = require_writable_form(target, dtype is not None, legacy)
    tracker, metadata = load_tracker(source)
    if packed:
        kept = {key: value for key, value in metadata.items() if key not in ("file", "format", "foreign", *WHERE)}
        state = {name: value for name, value in tracker.state_dict().items() if not (trim and may_be_absent(tracker, name))}
        save_weights(state, target, dtype, {**kept, "architecture": tracker.architecture})
    else:
        save_pytracking(tracker, target, legacy)
    return tracker.architecture


def save_pytracking(tracker: Tracker, path: Path, legacy: bool = False) -> None:
    """Writes the checkpoint that `ltr.admin.loading.load_network` takes.

    That loader rebuilds the network by the file's `constructor` (an object of its own class, holding the name of a function,
    its module and its arguments), loads `net` into it, and keeps `net_info`; its trainers compare `net_type`.
    """
    box = ARCHITECTURES[tracker.architecture].numbers == 4
    details = {
        "fun_name": tracker.architecture,
        "fun_module": "ltr.models.bbreg.DRNet" if box else "ltr.models.bbreg.atom",
        "args": (),
        "kwds": {"backbone_pretrained": False},
    }
    state = OrderedDict((name, tensor.detach().cpu().contiguous()) for name, tensor in tracker.state_dict().items())
    buffer = io.BytesIO()
    with _constructor_class() as kind:
        constructor = kind()
        constructor.__dict__.update(details)
        content = {
            "epoch": 0,
            "actor_type": "DRNetActor" if box else "AtomActor",
            "net_type": "DRNet" if box else "ATOMnet",
            "net": state,
            "net_info": None,
            "constructor": constructor,
            "stats": {},
            "settings": None,
        }
        torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    write_atomic(path, buffer.getvalue())


@contextlib.contextmanager
def _constructor_class() -> Iterator[type[Any]]:
    """An empty class under the name that the loader's own class has: pickle writes a class by name, and checks that it is there.

    The stand-in modules are gone when the block is left, and what they hid is back.
    """
    words = CONSTRUCTOR_MODULE.split(".")
    names = [".".join(words[: k + 1]) for k in range(len(words))]
    hidden = {name: sys.modules[name] for name in names if name in sys.modules}
    kind = type("NetConstructor", (), {"__module__": CONSTRUCTOR_MODULE})
    modules = {name: ModuleType(name) for name in names}
    modules[CONSTRUCTOR_MODULE].NetConstructor = kind  # type: ignore[attr-defined]
    sys.modules.update(modules)
    try:
        yield kind
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(hidden)
