"""`python -m precompute cache | demo-data | check`: from frames to a cache."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import configs
from configs.cli import Parser, run
from configs.errors import RequestError
from kdlosses import TARGETS
from precompute import check
from precompute.demo import generate
from precompute.run import Request, make_caches


def main(arguments: Sequence[str], prog: str = "python -m precompute") -> int:
    """The command line; see `python -m precompute --help`."""
    others = {"demo-data": generate.main, "check": check.main}
    if arguments and arguments[0] in others:
        return others[arguments[0]](arguments[1:], f"{prog} {arguments[0]}")
    options = parser(prog).parse_args(arguments)
    own = {"pairs.count": options.pairs, "pairs.val_count": options.val_pairs, "teacher.weights": options.teacher}
    splits = ("train", "val") if options.split is None else (options.split,)
    config = configs.load(options.setting, [*options.overrides, *(f"{key}={value}" for key, value in own.items() if value is not None)])
    make_caches(Request(config, options.dataset, splits, options.targets, share(options.share), options.device, options.threads))
    return 0


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
    cache.add_argument("--pairs", type=int, help="pairs of the training split (pairs.count)")
    cache.add_argument("--val-pairs", type=int, help="pairs of the validation split (pairs.val_count)")
    cache.add_argument("--teacher", help="weights of the teacher: safetensors, PyTorch or PyTracking checkpoint (teacher.weights)")
    cache.add_argument("--targets", help=f"targets instead of those the setting needs: all, none, or some of {', '.join(TARGETS)}")
    cache.add_argument(
        "--share", metavar="I/N", help="fill every N-th part from part I on (arrays of batch jobs; torchrun sets it by itself)"
    )
    cache.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:n (default: auto)")
    cache.add_argument("--threads", type=int, help="threads that cut and decode crops (default: all processors)")
    cache.add_overrides("overrides of the configuration, e.g. pairs.test.size=256")
    commands.add_parser("demo-data", help="generate the demo's data set", add_help=False)
    commands.add_parser("check", help="look a data set over before any work", add_help=False)
    return top


def share(text: str | None) -> tuple[int, int] | None:
    """(i, n) of --share I/N. RequestError: another form."""
    if text is None:
        return None
    first, slash, second = text.partition("/")
    if not (slash and first.isdigit() and second.isdigit() and int(first) < int(second)):
        raise RequestError(f"--share: expected I/N with 0 <= I < N, found '{text}'; e.g. --share 0/4")
    return int(first), int(second)


if __name__ == "__main__":
    sys.exit(run(main))
