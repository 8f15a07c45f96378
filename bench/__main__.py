"""Measured speed beside its baselines, in one run on one device: `make bench`. Prints a Markdown table; asserts nothing.

    student      forward + backward of the student alone, on ready tensors: the floor of a training step
    cached       a whole step fed from the cache: decode, losses, backward, Adam
    online       the same with the teacher's forward pass in every step
    public       online, and the correlation filter as a grouped convolution: what the public code does at every step
    feed         the feed alone; read: cache reading alone (targets and encoded crops)
    precompute   pairs a second of `make cache`, beside the teacher's forward pass alone
    losses       every objective's losses alone, given the student's features
    growth       adding a target to a finished cache

The kinds of step take turns within a round, so that a machine that speeds up or slows down touches all of them; the median round counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from configs.cli import Parser, run
from configs.process import settle

PARTS = ("steps", "losses", "growth")


def main(arguments: Sequence[str], prog: str = "python -m bench") -> int:
    """Measures everything and prints the tables; `python -m bench staleness ...`: see `bench.staleness`."""
    if arguments and arguments[0] == "staleness":
        settle()
        from bench import staleness

        return staleness.main(arguments[1:], f"{prog} staleness")
    options = parser(prog).parse_args(arguments)
    settle()
    from bench.speed import measure  # brings torch

    measure(options)
    return 0


def parser(prog: str) -> Parser:
    """The options."""
    parser = Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=288, help="crop side in pixels (default: 288)")
    parser.add_argument("--batch", type=int, default=8, help="pairs a step (default: 8)")
    parser.add_argument("--pairs", type=int, default=128, help="pairs in the cache (default: 128)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; each kind of step is timed once in each (default: 5)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
