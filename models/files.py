"""What kind of weights file lies at a path. No torch: a wrong path is answered at once."""

from __future__ import annotations

from pathlib import Path

from configs.errors import RequestError
from configs.files import require_regular


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
