"""`python -m cache`: looking at caches, checking, copying and dropping."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cache import gc, inspect
from cache.address import Address, Location, location
from cache.backends import exists, is_cache
from cache.export import export
from cache.locate import caches_below, name_below
from cache.store import Cache
from cache.verify import Fault, verify_path
from configs import cli
from configs.errors import RequestError, RunError, nearest
from configs.hooks import frames, repairs
from configs.machine import require_file_place
from configs.process import settle
from configs.units import size_text


def parser(prog: str = "python -m cache") -> cli.Parser:
    """Every option of every command."""
    top = cli.Parser(prog=prog, description="Look at caches, check, copy and drop them.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, path: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        default = os.environ.get("CACHE_DIR") or "caches"
        sub.add_argument("--cache-dir", metavar="DIR", default=default, help=f"where PATH may be a name (CACHE_DIR; now: {default})")
        if path:
            sub.add_argument("path", metavar="PATH", help="a cache (a path or s3://BUCKET/PREFIX), or its name below the cache directory")
        return sub

    sub = command("ls", "list the caches below a directory", path=False)
    sub.add_argument("dir", nargs="?", metavar="DIR", help="default: the cache directory")
    command("info", "identity, arrays, sizes and history").add_argument("--json", action="store_true", help="machine-readable")
    sub = command("verify", "recompute every checksum; exit 1 if anything is wrong")
    sub.add_argument("--json", action="store_true", help="machine-readable")
    sub.add_argument("--deep", action="store_true", help="also decode every crop and look for numbers that are not finite")
    sub.add_argument("--frames", action="store_true", help="also cut every pair again from the data set's frames, which must lie here")
    sub.add_argument(
        "--repair", action="store_true", help="first compute what is damaged again, from the data set's frames and the teacher"
    )
    sub.add_argument(
        "--teacher", type=Path, metavar="FILE", help="with --repair: the teacher's weights (default: those that the history names)"
    )
    sub = command("view", "pairs with boxes and proposals, as a picture or as one HTML page with the teacher's numbers")
    which = sub.add_mutually_exclusive_group()
    which.add_argument("--pairs", default="0-15", help="first-last, or numbers separated by commas (default: 0-15)")
    which.add_argument("--worst", type=int, metavar="N", help="with --html: the N pairs in which the teacher is furthest from the truth")
    sub.add_argument("--out", default="pairs.png", type=Path, help="picture to write (default: pairs.png)")
    sub.add_argument("--html", type=Path, metavar="FILE", help="page to write instead; it needs no network")
    sub.add_argument("--teacher", help="whose numbers the page shows (default: the first with IoUs)")
    sub = command("export", "copy to one HDF5 file (OUT.h5) to read from, or back to a zarr directory")
    sub.epilog = (
        "A file is written whole or not at all; where one is already, it is refused, unless it is a copy that lacks nothing."
        " A directory gets the parts that it lacks."
    )
    sub.add_argument("out", metavar="OUT", help="a path ending in .h5 or .hdf5: one file; any other, or s3://BUCKET/PREFIX: a directory")
    sub = command("gc", "drop targets, teachers or remains; says what it frees and asks")
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--target", metavar="TEACHER/TARGET", help="a target with its numbers")
    what.add_argument("--teacher", metavar="TEACHER", help="a teacher with all its targets")
    what.add_argument("--unfinished", action="store_true", help="what interrupted writers have left (no writer may be running)")
    what.add_argument("--damaged", action="store_true", help="parts in which verify finds a fault; `make cache` writes them again")
    sub.add_argument("--yes", action="store_true", help="do not ask")
    return top


def _place(arguments: argparse.Namespace) -> Location:
    """Where the cache that is asked for lies."""
    given, folder = location(arguments.path), location(arguments.cache_dir)
    places = [given] if isinstance(given, Address) else [given, folder / arguments.path]
    there = [place for place in places if exists(place) or (isinstance(place, Path) and place.exists())]
    if not there:
        known = [name_below(cache, folder) for cache in caches_below(folder)]
        raise RequestError(
            f"{given}: expected a cache, found nothing there nor in {folder}{nearest(str(given), known)}; see `python -m cache ls`"
        )
    return next(filter(is_cache, there), there[0])  # a folder here that is no cache may hide a name there


def _open(arguments: argparse.Namespace) -> Cache:
    return Cache.open(_place(arguments))


def _ls(arguments: argparse.Namespace) -> int:
    folder = location(arguments.dir or arguments.cache_dir)
    paths = list(caches_below(folder))
    if not paths:
        raise RequestError(f"{folder}: expected caches below it, found none; make one with `make cache`, or name another directory")
    rows = [["cache", "pairs", "parts", "size", "targets"], *(inspect.row_of(path, name_below(path, folder)) for path in paths)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for name, *numbers, targets in rows:
        cells = [name.ljust(widths[0]), *(number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)), targets]
        print("  ".join(cells))
    return 0


def _info(arguments: argparse.Namespace) -> int:
    info = inspect.cache_info(_open(arguments))
    print(json.dumps(info, indent=2) if arguments.json else "\n".join(inspect.lines_of(info)))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    path, repaired = _place(arguments), _repaired(arguments)
    faults = verify_path(path, deep=arguments.deep)
    if arguments.frames:
        cache, remake = _open(arguments), f"restore the frame, or remove {path} and run `make cache`"
        faults += [Fault(what, "frames", "pairs", pair // cache.part, str(pair), remake) for pair, what in frames().faults(cache)]
    if arguments.json:
        told = {"path": str(path), "ok": not faults, "deep": arguments.deep, "faults": [fault._asdict() for fault in faults]}
        told |= {"repaired": repaired} if arguments.repair else {}
        print(json.dumps(told, indent=2))
        return 1 if faults else 0
    state, size = f"{len(faults)} faults" if faults else "whole and finished", ""
    with suppress(RunError):  # too damaged to tell
        cache = Cache.open(path)
        size = f", {cache.count:,} pairs, {cache.parts} parts"
    print(*(fault.line() for fault in faults), f"{path}: {state}{size}", sep="\n")
    return 1 if faults else 0


def _repaired(arguments: argparse.Namespace) -> list[str]:
    """What --repair has mended, a line a thing; said at once."""
    done: list[str] = []
    if arguments.teacher is not None and not arguments.repair:
        raise RequestError("verify: expected --repair with --teacher, found none; add it")
    if arguments.repair:
        settle(lambda line: None, leave_busy=False)  # as `make cache`: its numbers may not depend on what else the machine does

        def say(line: str) -> None:
            done.append(line)
            print(f"repaired: {line}", file=sys.stderr if arguments.json else sys.stdout, flush=True)

        repairs().repair(_place(arguments), arguments.teacher, say)
    return done


def _pair_numbers(text: str, count: int) -> list[int]:
    try:
        pairs: list[int] = []
        for piece in text.split(","):
            first, _, last = piece.partition("-")
            pairs += range(int(first), min(int(last or first) + 1, count))
    except ValueError:
        raise RequestError(f"--pairs: expected first-last or numbers separated by commas, found {text!r}; say e.g. --pairs 0-15") from None
    if not pairs or len(pairs) > 400:
        raise RequestError(f"--pairs: expected 1 to 400 pairs within 0-{count - 1}, found {len(pairs)} in {text!r}; say e.g. --pairs 0-15")
    return pairs


def _view(arguments: argparse.Namespace) -> int:
    import cv2  # only pictures need OpenCV

    from cache.view import contact_sheet
    from configs.files import write_atomic

    cache = _open(arguments)
    if arguments.html is not None:
        return _view_page(cache, arguments)
    if arguments.worst is not None or arguments.teacher is not None:
        raise RequestError("view: expected --html FILE with --worst and --teacher, found none; add it")
    if arguments.out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise RequestError(f"--out: expected a .png or .jpg file, found {arguments.out}; say e.g. --out pairs.png")
    require_file_place(arguments.out, "--out")
    pairs = _pair_numbers(arguments.pairs, cache.count)
    write_atomic(arguments.out, cv2.imencode(arguments.out.suffix.lower(), contact_sheet(cache, pairs))[1].tobytes())
    print(f"picture: {arguments.out} ({len(pairs)} pairs)")
    return 0


def _view_page(cache: Cache, arguments: argparse.Namespace) -> int:
    from cache.page import page
    from configs.files import write_atomic

    if arguments.html.suffix.lower() not in (".html", ".htm"):
        raise RequestError(f"--html: expected a .html file, found {arguments.html}; say e.g. --html pairs.html")
    if arguments.worst is not None and not 1 <= arguments.worst <= 400:
        raise RequestError(f"--worst: expected 1 to 400 pairs, found {arguments.worst}; say e.g. --worst 24")
    require_file_place(arguments.html, "--html")
    pairs = None if arguments.worst is not None else _pair_numbers(arguments.pairs, cache.count)
    write_atomic(arguments.html, page(cache, pairs, arguments.worst, arguments.teacher))
    print(f"page: {arguments.html}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    copy = export(_open(arguments), arguments.out, progress=lambda line: print(line, file=sys.stderr))
    print(f"cache: {copy.path}")
    return 0


def _gc(arguments: argparse.Namespace) -> int:
    cache = _open(arguments)
    if arguments.target:
        actions = gc.drop_target(cache, arguments.target)
    elif arguments.teacher:
        actions = gc.drop_teacher(cache, arguments.teacher)
    else:
        actions = gc.drop_unfinished(cache) if arguments.unfinished else gc.drop_damaged(cache)
    if not actions:
        print(f"{cache.path}: nothing to drop")
        return 0
    for action in actions:
        print(f"drop {action.what} ({size_text(action.bytes)})")
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise RequestError("gc: expected a terminal to ask on, found none; say --yes to go ahead without asking")
        if input(f"drop from {cache.path}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing dropped")
            return 0
    for action in actions:
        action.apply()
    print(f"{cache.path}: dropped, {size_text(sum(action.bytes for action in actions))} freed")
    return 0


_COMMANDS = {"ls": _ls, "info": _info, "verify": _verify, "view": _view, "export": _export, "gc": _gc}


def main(arguments: Sequence[str], prog: str = "python -m cache") -> int:
    """Runs one command, named `prog` in its help; the exit code."""
    parsed = parser(prog).parse_args(arguments)
    return _COMMANDS[parsed.command](parsed)


if __name__ == "__main__":
    sys.exit(cli.run(main))
