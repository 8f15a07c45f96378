"""`python -m precompute cache | demo-data | check`: from frames to a cache."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import sys
from collections.abc import Sequence

import configs
from configs.cli import Parser, run, whole
from configs.errors import RequestError
from configs.gpu import require_device
from configs.process import settle
from configs.use import require_once

# command -> where its own main is, imported when it is chosen
OTHERS = {"demo-data": "precompute.demo.generate", "check": "precompute.check"}

OPTIONS = {"pairs.count": "--pairs", "pairs.val_count": "--val-pairs", "teacher.weights": "--teacher"}
"""Field -> the option that states it too."""


def main(arguments: Sequence[str], prog: str = "python -m precompute") -> int:
    """The command line; see `python -m precompute --help`."""
    if arguments and arguments[0] in OTHERS:
        return int(importlib.import_module(OTHERS[arguments[0]]).main(arguments[1:], f"{prog} {arguments[0]}"))
    options = parser(prog).parse_args(arguments)
    # in quotes a path is a text, whatever YAML would read in it
    own = {"pairs.count": options.pairs, "pairs.val_count": options.val_pairs, "teacher.weights": options.teacher}
    own = {key: value for key, value in own.items() if value is not None}
    require_once(options.overrides, {key: OPTIONS[key] for key in own})
    given = [*options.overrides, *(f"{key}={json.dumps(value)}" for key, value in own.items())]
    splits = ("train", "val") if options.split is None else (options.split,)
    config, part = configs.load(options.setting, given), share(options.share)
    if options.engine is None:
        require_device(options.device, "--device")
    _require_engine(options)
    from precompute.request import Request  # brings OpenCV

    request = Request(config, options.dataset, splits, options.targets, part, options.device, options.threads)
    request.check()
    # a cache may not depend on what else the machine does
    settle(leave_busy=False)
    from precompute.run import make_caches  # brings torch: only once the request is understood

    if options.engine is None:
        make_caches(request)
    else:
        from precompute.ray_engine import Pool  # brings Ray

        with Pool(request, options.actors) as pool:
            make_caches(request, pool)
    return 0


def _require_engine(options: argparse.Namespace) -> None:
    """RequestError: options that do not go together, or no Ray."""
    if options.engine is None:
        if options.actors is not None:
            raise RequestError("--actors: expected --engine ray beside it, found none; add it")
        return
    if options.share is not None or int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise RequestError("--engine ray: expected neither --share nor torchrun (GPUS=n), found one of them; Ray shares the parts out")
    if options.device not in ("auto", "cpu", "cuda"):
        raise RequestError(f"--engine ray: expected --device auto, cpu or cuda, found '{options.device:.60}'; Ray chooses the number")
    if importlib.util.find_spec("ray") is None:
        raise RequestError("--engine ray: expected the package ray, found none; pip install 'teachonce[ray]'")


def parser(prog: str) -> Parser:
    """Every option of the three commands."""
    top = Parser(prog=prog, description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    cache = commands.add_parser(
        "cache", help="fill a cache (make cache)", description="Fills the caches of a data set; finished parts are kept."
    )
    cache.add_argument("--dataset", required=True, help="names of configs/datasets.yaml, separated by spaces: one cache each")
    cache.add_argument("--setting", default="atom_cfkd", help="a setting: its pair set, its teacher, the targets its losses need")
    cache.add_argument("--split", choices=("train", "val"), help="fill one split only (default: both)")
    cache.add_argument("--pairs", type=whole, help="pairs of the training split (pairs.count)")
    cache.add_argument("--val-pairs", type=whole, help="pairs of the validation split (pairs.val_count)")
    cache.add_argument("--teacher", help="weights of the teacher: safetensors, PyTorch or PyTracking checkpoint (teacher.weights)")
    cache.add_argument("--targets", help="targets instead of those the setting needs: all, none, or names that `teachonce losses` lists")
    cache.add_argument("--share", metavar="I/N", help="fill part k only where k mod N = I (default: whatever no other worker has claimed)")
    cache.add_argument(
        "--engine", choices=("ray",), help="ray: parts are tasks of Ray Core, here or on the cluster of RAY_ADDRESS (default: this process)"
    )
    cache.add_argument("--actors", type=whole, metavar="N", help="of Ray (default: one a GPU; without GPUs one a node)")
    cache.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:n (default: auto)")
    cache.add_argument("--threads", type=whole, help="threads that cut and decode crops (default: all processors)")
    cache.add_overrides("overrides of the configuration, e.g. pairs.test.size=256")
    commands.add_parser("demo-data", help="generate the demo's data set", add_help=False)
    commands.add_parser("check", help="look a data set over before any work", add_help=False)
    return top


def share(text: str | None) -> tuple[int, int] | None:
    """(i, n) of --share I/N. RequestError: another form."""
    if text is None:
        return None
    first, slash, second = text.partition("/")
    if not (slash and re.fullmatch("[0-9]{1,9}", first) and re.fullmatch("[0-9]{1,9}", second) and int(first) < int(second)):
        raise RequestError(f"--share: expected I/N with 0 <= I < N, found '{text:.60}'; e.g. --share 0/4")
    return int(first), int(second)


if __name__ == "__main__":
    sys.exit(run(main))
