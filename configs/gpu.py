"""The GPU as far as it can be known without PyTorch, whose import takes seconds."""

from __future__ import annotations

import ctypes
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

from configs.errors import RequestError
from configs.section import device_name


def torch_version() -> tuple[str, str | None]:
    """PyTorch's version, and that of the CUDA it is built for; read from its file, as importing it takes seconds."""
    spec = find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    stated = runpy.run_path(str(file)) if file and file.exists() else {}
    return str(stated.get("__version__", "not found")), stated.get("cuda")


def driver_cuda() -> int:
    """The latest CUDA that the GPU driver takes, 1000 * major + 10 * minor; 0: no driver."""
    number = ctypes.c_int(0)
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return 0
    return number.value


def require_device(name: str, field: str) -> None:
    """RequestError for a name that no device has, or for CUDA where PyTorch is built for it and no driver is there.

    Which devices a driver has, PyTorch says.
    """
    try:
        device_name(name)
    except ValueError as error:
        raise RequestError(f"{field}: {error}") from error
    torch, cuda = torch_version()
    if name.startswith("cuda") and cuda and not driver_cuda():
        raise RequestError(f"{field}: expected a CUDA device for '{name}', found no GPU driver beside torch {torch}; use auto or cpu")
