"""From an entry of the catalog to a `Dataset`; what a scan found is kept in the user's cache folder.

The index is one .npz file a data set in $TEACHONCE_INDEX (default ~/.cache/teachonce), used as long as the signature of `scan` is the same.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import RequestError, nearest
from configs.files import fingerprint
from configs.load import dataset_entry
from precompute.datasets import coco, stills
from precompute.datasets.dataset import Dataset, FileSource
from precompute.datasets.layouts import LAYOUTS, pick
from precompute.datasets.scan import scan, signature
from precompute.datasets.table import Table
from precompute.datasets.text import Fault

_STILL = ("coco", "coco_synth", "coco_blend")
KINDS = (*LAYOUTS, *_STILL)
_COMMON = ("kind", "root", "split_file", "skip_faulty")
# raised whenever the same files give another table
_INDEX_VERSION = 1
# a file changed this recently may change again without a new modification time: such a scan is not kept
_SETTLED_NS = 2_000_000_000


def open_dataset(name: str, split: str, catalog: Mapping[str, Mapping[str, Any]] | None = None) -> Dataset:
    """The data set of this name. catalog: entries by name; None: configs/datasets.yaml.

    RequestError: unknown name, missing root, faulty annotation (see `open_entry`).
    """
    if catalog is None:
        return open_entry(name, dataset_entry(name), split)
    if name not in catalog:
        raise RequestError(f"dataset: expected one of {', '.join(catalog)}, found '{name}'{nearest(name, catalog)}; add it to the catalog")
    return open_entry(name, catalog[name], split)


def open_entry(name: str, entry: Mapping[str, Any], split: str, *, fresh: bool = False, faulty: bool = False) -> Dataset:
    """Opens one split of a catalog entry {kind, root, train: {...}, val: {...}}.

    fresh: read the annotation anew, whatever the index holds. faulty: give the data set even with faults (they are in `problems`).
    RequestError: unknown kind, option or split; a root that is no folder; a faulty sequence, unless the entry says `skip_faulty: true`.
    """
    kind, root, options = resolve(name, entry, split)
    try:
        table = read_table(kind, root, split, options, fresh)
    except Fault as fault:
        if not faulty:
            raise RequestError(f"dataset {name} ({split}): {fault.problem}") from fault
        table = Table([], [], [], np.zeros(1, np.int64), np.empty((0, 4)), np.empty(0, bool), [fault.problem], 0)
    dropped = table.listed - len(table.names)
    if table.problems and not faulty:
        if not options.get("skip_faulty"):
            rest = f" (and {len(table.problems) - 1} more faulty sequences)" if len(table.problems) > 1 else ""
            raise RequestError(
                f"dataset {name} ({split}): {table.problems[0]}{rest}; or set skip_faulty: true in its entry of configs/datasets.yaml"
            )
        print(f"dataset {name} ({split}): {dropped} of {table.listed} sequences dropped as faulty, first: {table.problems[0]}", flush=True)
    return _dataset(name, kind, root, split, table, dropped)


def _dataset(name: str, kind: str, root: Path, split: str, table: Table, dropped: int) -> Dataset:
    if kind == "coco_synth" and "masks" not in table.extra:
        table = stills.single_frames(table)
    if kind == "coco_blend":
        table = stills.pasteable(name, table)
    source = stills.source(kind, root, table)
    return Dataset(
        name=name,
        kind=kind,
        split=split,
        root=str(root),
        sequences=table.names,
        offsets=table.offsets,
        boxes=table.boxes,
        visible=table.visible,
        source=source,
        still=np.full(len(table.names), kind in _STILL),
        problems=table.problems,
        dropped=dropped,
        salt="" if isinstance(source, FileSource) else source.salt,
    )


def resolve(name: str, entry: Mapping[str, Any], split: str) -> tuple[str, Path, dict[str, Any]]:
    """Kind, root and the options of one split, each key checked."""
    kind = str(entry.get("kind"))
    if kind not in KINDS:
        raise RequestError(f"dataset {name}: expected kind to be one of {', '.join(KINDS)}, found '{kind}'{nearest(kind, KINDS)}; mend it")
    if split not in ("train", "val") or split not in entry:
        found = " and ".join(key for key in ("train", "val") if key in entry) or "none"
        raise RequestError(f"dataset {name}: expected a split '{split}', found {found}; add `{split}: {{}}` to its entry")
    options = {key: value for key, value in entry.items() if key not in ("train", "val")} | dict(entry[split] or {})
    layout = _layout(name, kind, options)
    own = LAYOUTS[layout].options if layout in LAYOUTS else coco.OPTIONS
    known = (*_COMMON, *own, *(("layout",) if kind == "coco_synth" else ()))
    for key in options:
        if key not in known:
            raise RequestError(
                f"dataset {name}: expected an option of {', '.join(known)}, found '{key}'{nearest(key, known)}; mend the entry"
            )
    root = Path(str(options.get("root", ""))).expanduser()
    if not options.get("root") or not root.is_dir():
        raise RequestError(
            f"dataset {name}: expected its root to be a folder, found none at '{options.get('root', '')}'; set root in its entry"
        )
    return kind, root, options


def _layout(name: str, kind: str, options: Mapping[str, Any]) -> str:
    """How the files lie: the kind itself, or for coco_synth what its option `layout` says (default coco)."""
    if kind not in _STILL:
        return kind
    layout = str(options.get("layout", "coco")) if kind == "coco_synth" else "coco"
    known = ("coco", *LAYOUTS)
    if layout not in known:
        raise RequestError(
            f"dataset {name}: expected layout to be one of {', '.join(known)}, found '{layout}'{nearest(layout, known)}; mend it"
        )
    return layout


def read_table(kind: str, root: Path, split: str, options: dict[str, Any], fresh: bool) -> Table:
    """The annotation table, from the index where nothing has changed. Raises `Fault` for a missing or empty list."""
    layout = _layout("", kind, options)
    split_file = str(options["split_file"]) if "split_file" in options and layout != "lasot" else None
    where = index_path(kind, root, split, options)
    build: Callable[[], Table]
    if layout == "coco":
        seen, newest = coco.signature(root, split, options)
        build = partial(coco.scan, root, split, options, masks=kind != "coco")
    else:
        located = LAYOUTS[layout].locate(root, split, options)
        if split_file:
            located = [located[index] for index in pick([sequence.name for sequence in located], root, split_file)]
        seen, newest = signature(root, located)
        build = partial(scan, root, LAYOUTS[layout], located)
    table = None if fresh else Table.load(where, seen)
    if table is None:
        table = build()
        if time.time_ns() - newest > _SETTLED_NS:
            _save_index(table, where, seen)
    if layout == "coco" and split_file:
        # after the index, which holds the whole file
        table = stills.select(table, np.array(pick(table.names, root, split_file), np.int64))
    return table


def index_path(kind: str, root: Path, split: str, options: Mapping[str, Any]) -> Path:
    """File of the index of one split of a data set."""
    folder = os.environ.get("TEACHONCE_INDEX") or "~/.cache/teachonce"
    key = fingerprint([_INDEX_VERSION, kind, str(root.resolve()), split, {k: str(v) for k, v in options.items()}])
    return Path(folder).expanduser() / f"{kind}-{split}-{key[:16]}.npz"


def _save_index(table: Table, where: Path, seen: str) -> None:
    """Keeps a table; a folder that cannot be written to only costs the time of the next scan."""
    try:
        table.save(where, seen)
    except OSError as error:
        print(f"index not kept ({error.strerror}: {where.parent}); TEACHONCE_INDEX names another folder", file=sys.stderr)
