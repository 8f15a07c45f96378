"""Measured speed beside its baselines, in one run on one device: `make bench`. Prints Markdown tables; asserts nothing.

    student      forward + backward of the student alone, on ready tensors, in its fastest form: the floor of a training step
    losses       the objective alone, on ready features and targets
    cached       a whole step of a run fed from the cache
    online       the same with the teacher in every step
    public       the step of the public code: two passes, teacher in train mode, grouped convolution, .item()
    feed         the feed alone
    precompute   `make cache` over several parts, beside raw frames alone and the teacher's forward pass alone
    reading      cache reading alone (targets and encoded crops)
    objectives   every objective's losses alone, beside the student
    growth       adding a target to a finished cache

Each kind is warmed up and then timed over a block of steps; all kinds in turns, so that a machine that speeds up or slows down touches all
of them. Ratios are taken within a turn; the median turn counts. `bench guard`: is it slower than an earlier measurement?
`bench staleness`: how wrong are cached targets for fresh images?
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import configs
from configs.cli import Parser, run, whole
from configs.errors import RequestError
from configs.gpu import require_device
from configs.machine import require_file_place
from configs.process import settle
from models.files import is_safetensors

STEPS = ("student", "losses", "cached", "online", "public", "feed")
PARTS = (*STEPS, "precompute", "reading", "objectives", "growth")
USUAL = (*STEPS, "precompute", "reading")
PUBLIC = ("atom_cfkd", "atom_tskd")
"""Settings whose public step is written here"""
SWITCH = {"on": "true", "off": "false"}


def main(arguments: Sequence[str], prog: str = "python -m bench") -> int:
    """Measures and prints the tables; `python -m bench staleness | guard ...`: see `bench.staleness`, `bench.guard`."""
    if arguments and arguments[0] == "staleness":
        chosen = staleness_parser(f"{prog} staleness").parse_args(arguments[1:])
        is_safetensors(chosen.weights)
        from cache import Cache  # brings zarr

        Cache.open(chosen.cache)
        settle()
        from bench import staleness  # brings torch

        staleness.report(chosen)
        return 0
    if arguments and arguments[0] == "guard":
        from bench import guard

        return guard.main(arguments[1:], f"{prog} guard")
    options = parser(prog).parse_args(arguments)
    configs.load(options.setting, [f"pairs.{image}.size={options.size}" for image in ("ref", "test")] + options.overrides)
    require_device(options.device, "--device")
    for name in ("json", "trace"):
        if (path := getattr(options, name)) is not None:
            require_file_place(path, f"--{name}")
    if "public" in (options.only or ()) and options.setting not in PUBLIC:
        raise RequestError(
            f"--only public: expected --setting {' or '.join(PUBLIC)}, found {options.setting}; choose one, or leave public out"
        )
    options.only = options.only or [part for part in USUAL if part != "public" or options.setting in PUBLIC]
    options.channels_last, options.compile = (SWITCH.get(value) for value in (options.channels_last, options.compile))
    machine: list[str] = []
    settle(machine.append)
    from bench.speed import measure  # brings torch

    measure(options, machine)
    return 0


def parser(prog: str) -> Parser:
    """The options."""
    parser = Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", default="atom_cfkd", help="whose steps (default: atom_cfkd; public knows atom_tskd too)")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="what to measure (default: all but objectives and growth)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:n (default: auto)")
    parser.add_argument("--batch", type=whole, default=8, help="pairs a step (default: 8)")
    parser.add_argument("--size", type=whole, default=288, help="crop side in pixels (default: 288)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="of the student (default: the setting's)")
    for name in ("channels-last", "compile"):
        parser.add_argument(f"--{name}", choices=SWITCH, help=f"train.{name.replace('-', '_')} (default: the setting's)")
    parser.add_argument("--threads", type=whole, help="threads of torch (default: its own choice)")
    parser.add_argument("--warmup", type=whole, default=30, help="steps of a kind before its first turn counts (default: 30)")
    parser.add_argument("--steps", type=whole, default=102, help="steady steps of a kind, over all turns (default: 102)")
    parser.add_argument("--turns", type=whole, default=3, help="turns of every kind (default: 3)")
    parser.add_argument("--pairs", type=whole, default=256, help="pairs in the cache that steps are fed from (default: 256)")
    parser.add_argument("--height", type=whole, default=1080, help="rows of the frames that are cut (default: 1080)")
    parser.add_argument("--parts", type=whole, default=4, help="parts that precompute fills (default: 4)")
    parser.add_argument("--part-pairs", type=whole, default=64, help="pairs of each of them (default: 64)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--trace", type=Path, help="file for a trace of a few steps of each kind (chrome://tracing, Perfetto)")
    parser.add_overrides("fields of the configuration, for example train.batch=16")
    return parser


def staleness_parser(prog: str) -> Parser:
    """The options of `bench.staleness.report`."""
    parser = Parser(prog=prog, description="How wrong cached targets would be for fresh images: a Markdown table.")
    parser.add_argument("cache", type=Path, help="a complete cache, as `make cache` names it")
    parser.add_argument("weights", type=Path, help="the teacher's weights")
    parser.add_argument("--teacher", help="its group in the cache (default: the only one)")
    parser.add_argument("--pairs", type=whole, default=256, help="pairs (default: 256)")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
