"""Reads PyTorch checkpoint files without running anything that they name.

A .pth file is a pickle beside raw tensor bytes, and a pickle is a program: it may call any function that it can name. Here no
name is ever looked up in the installed modules. What tensors are made of is known to this file; every other class becomes an
inert object that takes whatever the pickle does to it and does nothing. So a public checkpoint, full of settings, statistics
and constructors of classes that are not installed, reads without them.

One thing is refused, not because it could run but because the user should know: a name of Python's standard library that is
no plain data (os.system, builtins.eval, ...). No honest checkpoint names one.
"""

from __future__ import annotations

import _compat_pickle
import builtins
import io
import math
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from configs.errors import RequestError, TeachOnceError, printable
from configs.files import read_regular

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
EXPANDED = 2**20
"""A tensor may repeat its numbers (stride 0) up to this many: no honest one needs more, and a hostile one could fill the memory."""
ITEMS = 2**20
"""Items that calls and keys of one pickle may copy or hash beyond its length: honest ones are tensors' sizes, settings, statistics."""
NESTED = 50
"""Tuples in tuples: hashing deeper ones could end the process."""
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    # whole numbers beside a scale and a zero point
    "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8,
    "QInt32Storage": torch.int32,
}
TYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (*DTYPES.values(), torch.uint16, torch.uint32, torch.uint64)}
TYPES |= {name: dtype for name, dtype in vars(torch).items() if name.startswith("float8_")}  # those that this torch knows
# What settings and statistics are made of: containers that are rebuilt, and parts of the standard library that stay inert.
PLAIN_BUILTINS = {kind.__name__: kind for kind in (bool, complex, dict, float, frozenset, int, list, set, tuple)}
PLAIN_MODULES = {
    *("_operator", "abc", "argparse", "array", "bisect", "calendar", "collections", "collections.abc", "configparser", "dataclasses"),
    *("datetime", "decimal", "enum", "fractions", "heapq", "http", "inspect", "ipaddress", "itertools", "json.decoder", "json.encoder"),
    *("logging", "math", "numbers", "operator", "optparse", "pathlib", "pathlib._local", "queue", "random", "re", "statistics", "string"),
    *("textwrap", "time", "traceback", "typing", "urllib.parse", "uuid", "warnings", "zoneinfo"),
}
PLAIN_NAMES = {
    *(f"builtins.{name}" for name, value in vars(builtins).items() if isinstance(value, type) and not name.startswith("_")),
    # getattr: so pickle writes bound methods, members of an enum and nested classes; the others are keys, reductions and defaults
    *(f"builtins.{name}" for name in ("Ellipsis", "NotImplemented", "abs", "all", "any", "bin", "callable", "chr", "divmod", "format")),
    *(f"builtins.{name}" for name in ("getattr", "hash", "hex", "id", "isinstance", "issubclass", "iter", "len", "max", "min", "next")),
    *(f"builtins.{name}" for name in ("oct", "ord", "pow", "repr", "round", "sorted", "sum")),
    *("_io.BytesIO", "_io.StringIO", "_random.Random", "copyreg.__newobj__", "functools.cmp_to_key", "functools.partial"),
    *("os.stat_result", "os.terminal_size", "platform.uname_result", "posix.uname_result", "types.GenericAlias", "types.SimpleNamespace"),
    *("signal.Handlers", "signal.Signals", "types.UnionType"),
}


class Foreign:
    """Stands for an object, a class or a function that this reader does not know. Does nothing, whatever is done to it."""

    origin = ""
    state: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Foreign:
        # without an __init__ of its own, a class takes whatever arguments its __new__ takes; what getattr gave may stand for a class
        return super().__new__(cls if isinstance(cls, type) else type(cls))

    def __call__(self, *args: Any, **kwargs: Any) -> Foreign:
        return Foreign()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Items of a foreign dict."""

    def append(self, item: Any) -> None:
        """Items of a foreign list."""

    extend = append
    add = append


class Storage(NamedTuple):
    """Where a tensor's numbers lie: in the record `key`, from its number `start` on."""

    key: str
    dtype: torch.dtype
    start: int


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose numbers have not been read: most of a checkpoint (optimiser, statistics) is never wanted."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any
    dtype: torch.dtype | None


class _Call:
    """A function that the pickle may call. Refuses state, so that a pickle cannot change the function itself."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("state for a function")


_TENSOR = _Call(lambda storage, offset, shape, stride, *_: LazyTensor(storage, offset, shape, stride, storage.dtype))
_PARAMETER = _Call(lambda data, *_: data)
KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): _Call(lambda *_: {}),
    ("collections", "Counter"): _Call(lambda counts=(), *_: dict(counts)),
    ("collections", "deque"): _Call(lambda items=(), *_: list(items)),
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _TENSOR,
    ("torch._utils", "_rebuild_tensor_v2"): _TENSOR,
    ("torch._utils", "_rebuild_tensor_v3"): _Call(
        lambda storage, offset, shape, stride, _grad, _hooks, dtype, *_: LazyTensor(storage, offset, shape, stride, dtype)
    ),
    ("torch._utils", "_rebuild_parameter"): _PARAMETER,
    ("torch._utils", "_rebuild_parameter_with_state"): _PARAMETER,
    ("torch._tensor", "_rebuild_from_type_v2"): _Call(
        lambda function, _type, args, _state: function(*args) if isinstance(function, _Call) else Foreign()
    ),
    ("copyreg", "_reconstructor"): _Call(lambda kind, *_: kind() if isinstance(kind, type) and issubclass(kind, Foreign) else Foreign()),
    ("_codecs", "encode"): _Call(lambda text, *_: text.encode("latin1", "replace") if isinstance(text, str) else b""),
}


def _paid(operation: bytes, used: Callable[[list[Any]], Iterable[Any]]) -> tuple[int, Callable[[Any], None]]:
    """An operation of a pickle that copies or hashes what is used of the stack, which `InertUnpickler.spend` counts first."""
    load = pickle._Unpickler.dispatch[operation[0]]

    def paid(unpickler: Any) -> None:
        unpickler.spend(used(unpickler.stack))
        load(unpickler)

    return operation[0], paid


def _arguments(stack: list[Any]) -> Iterable[Any]:
    # an object that stays inert copies nothing
    known = not (isinstance(stack[-2], Foreign) or (isinstance(stack[-2], type) and issubclass(stack[-2], Foreign)))
    return stack[-1] if known and isinstance(stack[-1], tuple) else ()


def _tuples(stack: list[Any]) -> Iterable[Any]:
    # what lies above the mark: keys and values, or members
    return [item for item in stack if isinstance(item, tuple)]


class InertUnpickler(pickle._Unpickler):
    """Unpickles to plain containers, `LazyTensor` and `Foreign`; `foreign` lists the names of the unknown ones met.

    The unpickler in Python is taken, not the one in C: that one allocates whatever memory a number in the file asks for.
    A pickle may not expand either: a long text made a list again and again, or tuples in tuples as a key, cost any memory or time.
    """

    proto: int  # the protocol of the stream, set as it is read
    stack: list[Any]
    dispatch = pickle._Unpickler.dispatch | dict(
        (
            *(_paid(operation, _arguments) for operation in (pickle.REDUCE, pickle.NEWOBJ)),
            *(_paid(operation, lambda stack: stack[-1:]) for operation in (pickle.BUILD,)),
            *(_paid(operation, lambda stack: stack[-2:]) for operation in (pickle.SETITEM, pickle.NEWOBJ_EX)),
            *(_paid(operation, _tuples) for operation in (pickle.SETITEMS, pickle.DICT, pickle.ADDITEMS, pickle.FROZENSET)),
            *(_paid(operation, lambda stack: stack) for operation in (pickle.OBJ, pickle.INST)),
        )
    )

    def __init__(self, stream: io.BytesIO, source: Path) -> None:
        super().__init__(stream, encoding="latin1")
        self.budget = ITEMS + stream.getbuffer().nbytes
        self.source = source
        self.foreign: list[str] = []
        self.dtypes: dict[str, torch.dtype] = {}

    def spend(self, values: Iterable[Any]) -> None:
        """Takes the items of these values, and of tuples in them, off the budget. UnpicklingError: used up, or tuples too deep."""
        waiting = [(value, 0) for value in values]
        while waiting:
            value, depth = waiting.pop()
            if isinstance(value, tuple | list | dict | set | frozenset | str | bytes):
                self.budget -= len(value) + 1
            if self.budget < 0 or depth > NESTED:
                raise pickle.UnpicklingError("what it holds expands far beyond its length")
            if isinstance(value, tuple) or (isinstance(value, list) and not depth):
                waiting += ((item, depth + 1) for item in value if isinstance(item, tuple))

    def find_class(self, module: str, name: str) -> Any:
        if self.proto < 3:  # Python 2's names, which are written up to this protocol
            module, name = _compat_pickle.NAME_MAPPING.get((module, name), (_compat_pickle.IMPORT_MAPPING.get(module, module), name))
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        if module in ("torch", "torch.cuda", "torch.storage") and name in (*DTYPES, "UntypedStorage"):
            return DTYPES.get(name, torch.uint8)
        if module == "torch" and name in TYPES:
            return TYPES[name]
        if module == "builtins" and name in PLAIN_BUILTINS:
            return PLAIN_BUILTINS[name]
        origin = printable(f"{module}.{name}", 200)
        # a dotted name reaches into what a module imports: logging and os.system
        plain = (module in PLAIN_MODULES and "." not in name) or origin in PLAIN_NAMES
        if module.split(".")[0] in sys.stdlib_module_names and not plain:
            raise RequestError(
                f"expected a checkpoint of tensors and plain data, found the function {origin!r} named in {self.source}"
                " (it was not run); use a file from a source that you trust"
            )
        if origin not in self.foreign:
            self.foreign.append(origin)
        return type("Foreign", (Foreign,), {"origin": origin})

    def persistent_load(self, pid: Any) -> Any:
        kind, *rest = pid
        if kind == "module":  # a whole pickled module of the legacy format: (class, source file, source code)
            return rest[0]
        dtype, key, _device, _count = rest[:4]
        view = rest[4] if len(rest) > 4 else None
        self.dtypes[key] = dtype
        # a legacy view is (its key, first number, count) of the root storage
        return Storage(key, dtype, 0 if view is None else view[1])


@dataclass
class Contents:
    """What a checkpoint file holds: `root` as unpickled, `form` in words, `foreign` names, and a way to a record's bytes."""

    root: Any
    form: str
    foreign: list[str]
    record: Callable[[str], bytes]
    source: Path
    room: int
    """bytes of tensors that may still be read"""

    def tensor(self, lazy: LazyTensor) -> Tensor:
        """Reads one tensor (a copy; float8 as float32). ValueError where the file's description of it does not fit its bytes.

        RequestError for a type that this torch does not know.
        """
        storage, dtype = lazy.storage, lazy.dtype
        if isinstance(dtype, type) and issubclass(dtype, Foreign):
            raise unknown_type(self.source, dtype.origin)
        sizes = (lazy.offset, *lazy.shape, *lazy.stride)
        if (
            not isinstance(dtype, torch.dtype)
            or len(lazy.shape) != len(lazy.stride)
            or not all(isinstance(n, int) and n >= 0 for n in sizes)
        ):
            raise ValueError("a tensor without a valid type and shape")
        content = self.record(storage.key)
        # the same record under many names is read as many times
        self.room -= max(len(content), math.prod(lazy.shape) * dtype.itemsize)
        if self.room < 0:
            raise ValueError("tensors that hold many times the bytes of the file")
        count = len(content) // dtype.itemsize
        first = storage.start + lazy.offset
        if math.prod(lazy.shape) > max(count, EXPANDED):
            raise ValueError("a tensor of more numbers than the file holds")
        last = first + sum((n - 1) * step for n, step in zip(lazy.shape, lazy.stride, strict=True))
        if math.prod(lazy.shape) == 0:
            return torch.empty(tuple(lazy.shape), dtype=dtype)
        if last >= count:
            raise ValueError(f"a tensor of {last + 1} numbers in a record of {count}")
        flat = torch.frombuffer(bytearray(content), dtype=dtype, count=count)
        return computable(flat.as_strided(tuple(lazy.shape), tuple(lazy.stride), first).clone())


def read_pickled(path: Path) -> Contents:
    """Reads a .pth file of either PyTorch form. RequestError where it is damaged, or names a function to run."""
    try:
        content = read_regular(path)
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    try:
        return _read_zip(content, path) if content.startswith(b"PK") else _read_legacy(content, path)
    except TeachOnceError:
        raise
    except Exception as error:  # a damaged or hostile stream may make the unpickler raise anything
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> RequestError:
    """The error for a file that does not read to its end."""
    reason = printable(error, 300).strip() or type(error).__name__
    return RequestError(
        f"expected a complete checkpoint (safetensors or PyTorch), found {path} truncated or damaged ({reason}); fetch it again"
    )


def unknown_type(path: Path, what: object) -> RequestError:
    """The error for a tensor of a type that this torch cannot read."""
    return RequestError(
        f"expected tensors of types that torch {torch.__version__} knows, found {what} in {path};"
        " install a newer torch, or save the file again in float32"
    )


def computable(tensor: Tensor) -> Tensor:
    """float8 as float32: torch knows next to no operation on it."""
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor


def _read_zip(content: bytes, path: Path) -> Contents:
    """torch >= 1.6: <prefix>/data.pkl, and the bytes of storage k in <prefix>/data/<k>."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise ValueError("no data.pkl in the archive")
    if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
        raise ValueError("compressed records, which torch.save does not write")
    prefix = names[0].removesuffix("data.pkl")
    if f"{prefix}byteorder" in archive.namelist() and archive.read(f"{prefix}byteorder") != b"little":
        raise ValueError("numbers in big-endian order")
    unpickler = InertUnpickler(io.BytesIO(archive.read(names[0])), path)
    root = unpickler.load()
    return Contents(root, "PyTorch", unpickler.foreign, lambda key: archive.read(f"{prefix}data/{key}"), path, _room(content))


def _read_legacy(content: bytes, path: Path) -> Contents:
    """torch < 1.6: five pickles (magic number, protocol, system, object, storage keys), then a count and the bytes of each storage."""
    stream = io.BytesIO(content)
    if InertUnpickler(stream, path).load() != LEGACY_MAGIC:
        raise ValueError("a pickle that torch.save did not write")
    InertUnpickler(stream, path).load()
    if not InertUnpickler(stream, path).load().get("little_endian", True):
        raise ValueError("numbers in big-endian order")
    unpickler = InertUnpickler(stream, path)
    root = unpickler.load()
    records: dict[str, bytes] = {}
    for key in InertUnpickler(stream, path).load():
        (count,) = struct.unpack("<q", stream.read(8))
        if not isinstance(dtype := unpickler.dtypes[key], torch.dtype):
            raise unknown_type(path, getattr(dtype, "origin", "another"))
        length = count * dtype.itemsize
        if not 0 <= length <= len(content) - stream.tell():
            raise ValueError("the file ends inside a tensor")
        records[key] = stream.read(length)
    return Contents(root, "PyTorch legacy", unpickler.foreign, records.__getitem__, path, _room(content))


def _room(content: bytes) -> int:
    """Bytes of tensors that a file of this content may hold: a few names may share a record."""
    return 8 * len(content) + 2**28
