"""Weights on disk: reading every form that trackers are published in, writing safetensors, naming the architecture of a file.

A file's parameters are checked by name and shape against the network before one number is copied.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from configs.errors import RequestError, TeachOnceError, printable
from configs.files import sha256_file, write_atomic
from models.files import is_safetensors
from models.safe_pickle import Contents, LazyTensor, computable, damaged, read_pickled, unknown_type
from models.tracker import ARCHITECTURES, PARTS, Tracker, blueprint

STATE_KEYS = (
    *("net", "state_dict", "model", "model_state_dict", "network", "params", "module", "weights", "student", "checkpoint"),
    *("ema", "model_ema", "ema_state_dict", "params_ema"),
)
"""Where parameters lie in a file, or one deeper ({"model": {"state_dict": ...}}), the first one found wins: averages (EMA) come last."""
NO_WEIGHTS = ("optim", "sched", "scaler")
"""Parts of keys under which tensors are no parameters."""
TOPS = (*PARTS.values(), "layer1", "features")
"""How names of ours and of torchvision's networks begin, some at least."""
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "student.", "tracker.")
SEAL = "teachonce_sha256"
"""Metadata of a file that this module wrote: SHA-256 (hex) of its parameters and its other metadata."""
WHERE = ("key", "other_keys", "prefix")
"""Metadata that say where in the file the parameters were."""


def read_state(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The parameters of a file by name, on the CPU, and what else it says of itself; nothing that it names is run. float8 becomes float32.

    Takes safetensors, and PyTorch files of both forms holding a state dict, or one under one or two of `STATE_KEYS`, or, where there is
    none, under other keys. Prefixes that every name has are taken off (`wrapper_of`). The metadata has `file` (the form), and where given
    `key` (under which the parameters were), `other_keys` (that hold others, not taken), `prefix` (taken off), `constructor`, `net_type`,
    `epoch` and `foreign` (classes that the file names and this reader does not know, comma-separated), or safetensors' own metadata.
    RequestError for a missing, damaged or different file.
    """
    path = Path(path)
    state, metadata = _safetensors_state(path) if is_safetensors(path) else _pickled_state(path, read_pickled(path))
    cut = len(wrapper_of(state))
    if cut:
        metadata["prefix"] = wrapper_of(state)
    return {name[cut:]: tensor for name, tensor in state.items()}, metadata


def wrapper_of(names: Collection[str]) -> str:
    """What every name begins with: `WRAPPERS`, one behind the other, and whatever words stand before the `TOPS`; or an empty string."""
    prefix = ""
    while further := [word for word in WRAPPERS if names and all(name.startswith(prefix + word) for name in names)]:
        prefix += further[0]
    words = min(names, default="")[len(prefix) :].split(".")
    for count in range(len(words)):
        longer = prefix + "".join(f"{word}." for word in words[:count])
        if any(name.startswith(f"{longer}{top}.") for name in names for top in TOPS):
            return longer if all(name.startswith(longer) for name in names) else prefix
    return prefix


def state_dicts(root: object) -> dict[str, dict[Any, Any]]:
    """key, or key.key -> dict with tensors, of those under the usual keys of an unpickled file, the best first; else under any key."""
    if not isinstance(root, dict):
        return _anywhere(dict(enumerate(root))) if isinstance(root, list | tuple) else {}
    inner = {key: root[key] for key in STATE_KEYS if isinstance(root.get(key), dict)}
    outer = {f"{key}.{below}": value[below] for key, value in inner.items() for below in STATE_KEYS if isinstance(value.get(below), dict)}
    named = {key: value for key, value in (inner | outer).items() if any(isinstance(item, LazyTensor) for item in value.values())}
    # a plain state dict before any average of it, however deep either lies
    if named or any(isinstance(item, LazyTensor) for item in root.values()):
        return dict(sorted(named.items(), key=lambda item: "ema" in item[0]))
    return _anywhere(root)


def _anywhere(root: Mapping[Any, Any]) -> dict[str, dict[Any, Any]]:
    """As `state_dicts`, under any keys, three deep, but for what holds no parameters: those of most tensors first, averages last."""
    found: dict[str, dict[Any, Any]] = {}
    level = {str(key): value for key, value in root.items()}
    for _ in range(3):
        level = {key: value for key, value in level.items() if isinstance(value, dict) and not any(word in key for word in NO_WEIGHTS)}
        found |= {
            key: value
            for key, value in level.items()
            if any(isinstance(item, LazyTensor) and isinstance(name, str) for name, item in value.items())
        }
        level = {f"{key}.{below}": inner for key, value in level.items() for below, inner in value.items()}
    return dict(sorted(found.items(), key=lambda item: ("ema" in item[0], -len(item[1]))))


def _safetensors_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            state, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no mapping
        if SEAL in metadata and metadata[SEAL] != _content_digest(state, metadata):
            raise damaged(path, ValueError("another SHA-256 than it states"))
        told = {name: text for name, text in sorted(metadata.items()) if name != SEAL}
        return {name: computable(tensor) for name, tensor in state.items()}, {"file": "safetensors", **told}
    except RequestError:
        raise
    except safetensors.SafetensorError as error:
        reason = str(error).partition(", expected one of")[0].rpartition(": ")[2]
        raise (unknown_type(path, reason) if reason.startswith("unknown variant") else damaged(path, error)) from error
    except Exception as error:  # torch without a type that safetensors has: an error of any kind
        raise unknown_type(path, error) from error


def _pickled_state(path: Path, contents: Contents) -> tuple[dict[str, Tensor], dict[str, str]]:
    root = contents.root
    candidates = state_dicts(root)
    holder = next(iter(candidates.values()), root if isinstance(root, dict) else {})
    if not any(isinstance(value, LazyTensor) for value in holder.values()):
        words = [printable(key, 40) for key in list(root)[:8] if isinstance(key, str)] if isinstance(root, dict) else []
        kind = f"a dict of {', '.join(words) or 'nothing'}" if isinstance(root, dict) else f"one {_kind(root)}"
        raise RequestError(
            f"expected parameters by name (or under {' or '.join(STATE_KEYS[:4])}) in {path}, found {kind}; give another file"
        )
    state = {}
    for name, value in holder.items():
        if name == "n_averaged" and len(holder) > 1:
            continue  # of torch.optim.swa_utils: how many networks it is the mean of
        if not isinstance(value, LazyTensor) or not isinstance(name, str):
            item = f"{printable(name, 80) if isinstance(name, str) else f'a {_kind(name)} as a name'}: {_kind(value)}"
            raise RequestError(f"expected only tensors among the parameters of {path}, found {item}; give another file")
        try:
            state[name] = contents.tensor(value)
        except TeachOnceError:
            raise
        except Exception as error:  # the file's description of a tensor may be wrong in any way
            raise damaged(path, error) from error
    metadata = {"file": contents.form}
    if candidates:
        metadata["key"], *others = candidates
        if others:
            metadata["other_keys"] = ", ".join(others)
    if candidates and isinstance(root, dict):
        if isinstance(root.get("net_type"), str):
            metadata["net_type"] = root["net_type"]
        if isinstance(root.get("epoch"), int) and abs(root["epoch"]) < 2**63:
            metadata["epoch"] = str(root["epoch"])
        constructor = getattr(root.get("constructor"), "state", None)
        if isinstance(constructor, dict) and isinstance(constructor.get("fun_name"), str):
            metadata["constructor"] = constructor["fun_name"]
    if contents.foreign:
        metadata["foreign"] = ", ".join(contents.foreign)
    return state, metadata


def _kind(value: object) -> str:
    return getattr(value, "origin", "") or type(value).__name__


def load_weights(tracker: Tracker, path: str | Path) -> None:
    """Loads a file's parameters into the tracker. Takes what `read_state` takes, and refuses what `load_state` does."""
    load_state(tracker, read_state(path)[0], str(path))


def load_state(tracker: Tracker, state: Mapping[str, Tensor], source: str, parts: Collection[str] = tuple(PARTS)) -> None:
    """Loads parameters into the tracker, all of them or those of some parts (`backbone`, `head`); `source` names them in errors.

    float16 and bfloat16 are cast to the tracker's float32. Those of torchvision's own network are taken for the backbone. Stages that are
    never run and BatchNorm's counters may be absent.
    RequestError listing what is missing, extra, misshapen, of no floating point or not finite; then the tracker is unchanged.
    """
    for part in parts:
        tracker.part(part)
    state = with_our_names(tracker, state)
    own = tracker.state_dict()
    wrong = misfits(tracker, {name: tuple(value.shape) for name, value in state.items()}, parts)
    shapes = {name: f"{tuple(state[name].shape)} instead of {tuple(own[name].shape)}" for name in wrong["misshapen"]}
    wrong["misshapen"] = [f"{name} {shape}" for name, shape in shapes.items()]
    faults = [
        f"{len(names)} {kind} ({', '.join(printable(name, 120) for name in names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in wrong.items()
        if names
    ]
    if faults:
        raise RequestError(f"expected {tracker.architecture}'s parameters, found in {source}: {', '.join(faults)}; {_advice(state)}")
    given = [name for name in own if name in state and name.startswith(_prefixes(parts))]
    for name in given:
        if own[name].is_floating_point() and not state[name].is_floating_point():
            kind = str(state[name].dtype).removeprefix("torch.")
            raise RequestError(
                f"expected parameters of floating point, found {name} of {source} in {kind}; use the checkpoint it is made from"
            )
        if not torch.isfinite(state[name]).all():
            raise RequestError(f"expected finite parameters, found {name} of {source} with NaN or inf; use another checkpoint")
    with torch.no_grad():
        for name in given:
            own[name].copy_(state[name])


def misfits(tracker: Tracker, shapes: Mapping[str, tuple[int, ...]], parts: Collection[str] = tuple(PARTS)) -> dict[str, list[str]]:
    """Names by what keeps parameters of these shapes from fitting a tracker, or some parts of it: missing, extra, misshapen."""
    own, prefixes = tracker.state_dict(), _prefixes(parts)
    wanted = [name for name in own if name.startswith(prefixes)]
    # A file for a part may hold anything beside it; a file for the whole may not.
    whole = set(parts) == set(PARTS)
    return {
        "missing": [name for name in wanted if name not in shapes and not may_be_absent(tracker, name)],
        "extra": [name for name in shapes if name not in own and (whole or name.startswith(prefixes))],
        "misshapen": [name for name in wanted if name in shapes and shapes[name] != tuple(own[name].shape)],
    }


def _prefixes(parts: Collection[str]) -> tuple[str, ...]:
    return tuple(f"{PARTS[part]}." for part in parts)


def _advice(state: Mapping[str, Tensor]) -> str:
    try:
        return f"it is of {guess_architecture(state)}: choose that architecture, or another file"
    except RequestError:
        return "give a checkpoint of this architecture"


def may_be_absent(tracker: Tracker, name: str) -> bool:
    """True for what a file may lack: stages that are never run, and the counters that PyTorch < 0.4.1 did not write."""
    idle = tuple(f"{PARTS['backbone']}.{stage}." for stage in tracker.feature_extractor.unused)
    return name.startswith(idle) or name.endswith(".num_batches_tracked")


def guess_architecture(state: Mapping[str, Tensor]) -> str:
    """The architecture whose parameters these are, by names and shapes. RequestError if they are none of ours."""
    for architecture in ARCHITECTURES:
        tracker = blueprint(architecture)
        own = tracker.state_dict()
        needed = {name for name in own if not may_be_absent(tracker, name)}
        if needed <= state.keys() <= own.keys() and all(state[name].shape == own[name].shape for name in needed):
            return architecture
    raise RequestError(
        f"expected the parameters of one of {', '.join(ARCHITECTURES)}, found {len(state)} tensors"
        f" ({', '.join(printable(name, 120) for name in list(state)[:3])}, ...) that fit none; give another file"
    )


def with_our_names(tracker: Tracker, state: Mapping[str, Any]) -> dict[str, Any]:
    """Gives the parameters of torchvision's own network of the tracker's backbone our names; any other state is unchanged."""
    own, backbone = tracker.state_dict(), tracker.feature_extractor
    ours = {f"{PARTS['backbone']}.{backbone.our_name(name)}": tensor for name, tensor in state.items()}
    return max(dict(state), ours, key=lambda named: len(own.keys() & named.keys()))


def save_weights(
    tracker: nn.Module | Mapping[str, Tensor], path: str | Path, dtype: torch.dtype | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a tracker's (or a state dict's) parameters as safetensors, in one step; equal content gives equal bytes.

    dtype: type that floating-point parameters are cast to (torch.float16 halves the file); RequestError if one does not fit it.
    metadata: text by name, stored in the file; a tracker's `architecture` is added, and a `SEAL`, which `read_state` checks.
    """
    details = {"format": "pt", **(metadata or {})}
    if isinstance(tracker, Tracker):
        details["architecture"] = tracker.architecture
    state = {}
    for name, tensor in (tracker.state_dict() if isinstance(tracker, nn.Module) else tracker).items():
        kept = tensor.detach().to("cpu", dtype if dtype and tensor.is_floating_point() else tensor.dtype)
        if torch.isfinite(tensor).all() and not torch.isfinite(kept).all():
            raise RequestError(f"expected parameters within {dtype}, found {name} beyond it; save in float32")
        state[name] = kept.clone(memory_format=torch.contiguous_format)
    details[SEAL] = _content_digest(state, details)
    write_atomic(Path(path), _ordered(safetensors.torch.save(state, details)))


def _content_digest(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """What `SEAL` says of parameters and metadata."""
    tensors = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in state.items()}
    words = {name: text for name, text in metadata.items() if name != SEAL}
    digest = hashlib.sha256(json.dumps([words, tensors], sort_keys=True).encode())
    for name in sorted(state):
        digest.update(state[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _ordered(content: bytes) -> bytes:
    """The same safetensors content with its header in one fixed order: the library's order of metadata changes from run to run."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the numbers start at a multiple of 8 bytes
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def weights_digest(path: str | Path) -> str:
    """SHA-256 (hex) of the file: what a cache's identity names a teacher by."""
    is_safetensors(Path(path))
    return sha256_file(Path(path))
