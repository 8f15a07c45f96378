"""What kind of weights file lies at a path. No torch: a wrong path is answered at once."""

from __future__ import annotations

from pathlib import Path

from configs.errors import RequestError
from configs.files import is_file, require_regular
from configs.schema import TeacherConfig

SUFFIXES = (".safetensors", ".pth", ".pth.tar")
"""Of the files that are written."""


def is_safetensors(path: Path) -> bool:
    """True for safetensors, False for a PyTorch file, by the first bytes. RequestError for a missing or different file."""
    try:
        require_regular(path)
        with open(path, "rb") as stream:
            head = stream.read(16)
    except FileNotFoundError as error:
        raise RequestError(f"expected a checkpoint file, found nothing at {path}; correct the path") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"expected a checkpoint file, found {reason} at {path}; correct the path") from error
    # Safetensors first: the length that it begins with may look like the first byte of a pickle.
    packed = head[8:9] == b"{"
    if not packed and head[:4] != b"PK\x03\x04" and head[:1] != b"\x80":
        raise RequestError(f"expected a safetensors or PyTorch checkpoint, found {path}, which is neither; give another file")
    return packed


def require_teacher(section: TeacherConfig) -> None:
    """RequestError: no weights file where the section names one, or none named for a network that the demo teacher cannot stand in for."""
    if section.weights is not None:
        require_weights(Path(section.weights))
    elif not section.architecture.startswith("atom_"):
        raise RequestError(f"teacher: expected weights for {section.architecture}, found none; pass TEACHER=checkpoint.pth")


def require_weights(path: Path) -> None:
    """RequestError unless a teacher's weights file lies at a path."""
    if not is_file(path):
        raise RequestError(f"teacher: expected a weights file, found none at {path}; correct TEACHER= or teacher.weights")
    is_safetensors(path)


def require_writable_form(target: Path, cast: bool, legacy: bool) -> bool:
    """Whether a name is that of safetensors. RequestError: of no form that is written, or options (--dtype, --legacy) of the other form."""
    if not target.name.endswith(SUFFIXES):
        raise RequestError(f"expected an output name ending in {', '.join(SUFFIXES)}, found {target.name:.200}; rename it")
    packed = target.name.endswith(".safetensors")
    if (packed and legacy) or (not packed and cast):
        raise RequestError(
            f"expected --dtype with .safetensors and --legacy with .pth.tar only, found the other for {target.name:.200}; drop it"
        )
    return packed
