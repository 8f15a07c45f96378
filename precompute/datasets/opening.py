"""From an entry of the catalog to a `Dataset`; what a scan found is kept in the user's cache folder.

The index is one .npz file a data set in $TEACHONCE_INDEX (default ~/.cache/teachonce), used as long as its survey has the same signature.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from configs.errors import RequestError, nearest
from configs.files import fingerprint
from pairs import layouts
from pairs.annotation import Fault, sequences_named
from pairs.layouts import Options
from precompute.datasets.dataset import Dataset, FileSource
from precompute.datasets.kinds import KINDS, Kind
from precompute.datasets.table import Table

_COMMON = ("kind", "root", "split_file", "skip_faulty")
# raised whenever the same files give another table, or a table another index
_INDEX_VERSION = 4
# a file changed this recently may change again without a new modification time: such a scan is not kept
_SETTLED_NS = 2_000_000_000


def open_entry(name: str, entry: Mapping[str, Any], split: str, *, fresh: bool = False, faulty: bool = False) -> Dataset:
    """Opens one split of a catalog entry {kind, root, train: {...}, val: {...}}.

    fresh: read the annotation anew, whatever the index holds. faulty: give the data set even with faults (they are in `problems`).
    RequestError: unknown kind, option or split; a root that is no folder; a faulty sequence, unless the entry says `skip_faulty: true`.
    """
    options, layout = _resolve(name, entry, split)
    kind, root = KINDS[entry["kind"]], Path(str(options["root"])).expanduser()
    try:
        table = _read_table(entry["kind"], layout, root, split, options, fresh)
    except Fault as fault:
        if not faulty:
            raise RequestError(f"dataset {name} ({split}): {fault.problem}") from fault
        table = Table([], [], [], np.zeros(1, np.int64), np.empty((0, 4)), np.empty(0, bool), [])
        with suppress(Fault):
            if fault.rest is not None:
                table = _read_table(entry["kind"], layout, root, split, {**options, **fault.rest}, fresh)
        table.problems.insert(0, fault.problem)
    if table.problems and not faulty:
        if not options.get("skip_faulty"):
            rest = f" (and {len(table.problems) - 1} more faulty sequences)" if len(table.problems) > 1 else ""
            raise RequestError(
                f"dataset {name} ({split}): {table.problems[0]}{rest}; or set skip_faulty: true in its entry of configs/datasets.yaml"
            )
        listed = table.dropped + len(table.sequences)
        print(f"dataset {name} ({split}): {table.dropped} of {listed} sequences dropped as faulty, first: {table.problems[0]}", flush=True)
    if table.faulty_frames and not faulty:
        rest = f" and {len(table.faulty_frames) - 1:,} more; make check lists all" if len(table.faulty_frames) > 1 else ""
        count = f"{len(table.faulty_frames):,} frames with a faulty label count as invisible"
        print(f"warning: dataset {name} ({split}): {count}: {table.faulty_frames[0]}{rest}", file=sys.stderr)
    table = kind.prepare(name, table)
    files = FileSource(str(root), table.folders, table.frames, table.offsets, table.digests)
    facts = {"name": name, "kind": entry["kind"], "split": split, "root": str(root), "still": kind.still}
    return Dataset(**vars(table), **facts, files=files, source=kind.source(files, table))


def _resolve(name: str, entry: Mapping[str, Any], split: str) -> tuple[dict[str, Any], Kind]:
    """The options of one split, each key checked, and the kind whose files they describe: its own, or what its option `layout` names."""
    if entry.get("kind") in layouts.EVALUATED_ONLY:
        raise RequestError(f"dataset {name}: expected data to train on, found {entry['kind']}, to evaluate on; make eval DATASET={name}")
    _expect(name, "kind to be one", entry.get("kind"), tuple(KINDS))
    if split not in ("train", "val") or split not in entry:
        splits = " and ".join(key for key in ("train", "val") if key in entry) or "none"
        raise RequestError(f"dataset {name}: expected a split '{split}', found {splits}; add `{split}: {{}}` to its entry")
    options = {key: value for key, value in entry.items() if key not in ("train", "val")} | dict(entry[split] or {})
    layout, own = KINDS[entry["kind"]], KINDS[entry["kind"]].layout
    if own and options.get("layout", own) != own:
        _expect(name, "layout to be one", options["layout"], (own, *(kind for kind, row in KINDS.items() if not row.still)))
        layout = KINDS[options["layout"]]
    known = (*_COMMON, *layout.options, *(("layout",) if own else ()))
    for key in options:
        _expect(name, "an option", key, known)
    if not isinstance(skip := options.get("skip_faulty", False), bool):
        raise RequestError(f"dataset {name}: expected skip_faulty to be true or false, found {skip!r:.60}; mend its entry")
    if not options.get("root") or not Path(str(options["root"])).expanduser().is_dir():
        raise RequestError(
            f"dataset {name}: expected its root to be a folder, found none at '{options.get('root', '')}'; set root in its entry"
        )
    return options, layout


def _expect(name: str, what: str, value: Any, known: Sequence[str]) -> None:
    """RequestError: something in an entry is none of the known ones."""
    if value not in known:
        raise RequestError(
            f"dataset {name}: expected {what} of {', '.join(known)}, found '{value}'{nearest(str(value), known)}; mend its entry"
        )


def _read_table(kind: str, layout: Kind, root: Path, split: str, options: Options, fresh: bool) -> Table:
    """The annotation table, from the index where nothing has changed. Raises `Fault` for a missing or empty list."""
    survey = layout.survey(root, split, options)
    index = _index_path(kind, root, split, options)
    table = None if fresh else Table.load(index, survey.signature)
    if table is None:
        table = survey.read()
        if time.time_ns() - survey.newest > _SETTLED_NS:
            try:
                table.save(index, survey.signature)
            except OSError as error:
                # it only costs the time of the next scan
                print(f"index not kept ({error.strerror}: {index.parent}); TEACHONCE_INDEX names another folder", file=sys.stderr)
    if layout.still and "split_file" in options:
        # after the index, which holds the whole annotation file
        table = table.take(np.array(sequences_named(str(options["split_file"]), table.sequences, root), np.int64))
    return table


def _index_path(kind: str, root: Path, split: str, options: Options) -> Path:
    """File of the index of one split of a data set."""
    folder = os.environ.get("TEACHONCE_INDEX") or "~/.cache/teachonce"
    # another OpenCV may decode a video to other numbers
    key = fingerprint([_INDEX_VERSION, cv2.__version__, kind, str(root.resolve()), split, {k: str(v) for k, v in options.items()}])
    return Path(folder).expanduser() / f"{kind}-{split}-{key[:16]}.npz"
