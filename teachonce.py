"""`teachonce COMMAND ...`: one door to the command line of every room.

A room is imported when it is chosen and not before, so that `teachonce --help` needs no torch. `python -m train` looks for modules in the
current folder first, so a train.py or a models/ of the user's own hides ours; an installed console command does not look there.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

# command -> its room, and what it is for; each room's __main__ has a main(arguments, prog)
COMMANDS = {
    "precompute": ("precompute", "look a data set over, fill its caches, generate the demo's video (make check, cache, demo-data)"),
    "cache": ("cache", "list, show, verify, view, export and clean caches (make verify, view)"),
    "train": ("train", "train a student, compare several, write a report (make train, study)"),
    "models": ("models", "show, convert and export weights files"),
    "losses": ("kdlosses", "what each target is, which losses need it and what it takes"),
    "tracking": ("tracking", "trackers in video: evaluate them, track one clip, serve vot-toolkit (make eval, track)"),
    "bench": ("bench", "measure speed beside its baselines, and what a stale target would be worth (make bench)"),
}


def usage() -> str:
    """The text of `teachonce --help`."""
    width = max(map(len, COMMANDS))
    lines = ["usage: teachonce COMMAND ...", "", "Run the tracking teacher once, train every student from its cache.", ""]
    lines += [f"  {name.ljust(width)}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join([*lines, "", "`teachonce COMMAND --help` lists every option of a command; `teachonce --version` prints the version."])


def leave(number: int, frame: FrameType | None) -> None:
    """Ends the process at once: what is said of a signal while nothing but imports has happened."""
    if os.environ.get("RANK", "0") == "0":
        os.write(2, b"error: stopped before any work; run the same command again\n")
    os._exit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command of one room; the exit code (0 well, 1 the run failed, 2 the request was wrong, 130 Ctrl-C, 143 SIGTERM)."""
    # imports take seconds, and an exception in one of them is lost or ends in a traceback
    for number in (signal.SIGINT, signal.SIGTERM) if arguments is None else ():
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, leave)
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words[0] if words else "--help"
    if command in ("-h", "--help"):
        print(usage())
        return 0
    if command == "--version":
        from importlib.metadata import version

        print(f"teachonce {version('teachonce')}")
        return 0
    if command not in COMMANDS:
        from configs.errors import printable

        print(printable(f"teachonce: expected one of {', '.join(COMMANDS)}, found '{command}'; see teachonce --help"), file=sys.stderr)
        return 2
    from configs.cli import run  # takes a third of a second

    room = importlib.import_module(f"{COMMANDS[command][0]}.__main__")
    code = run(room.main, words[1:], f"teachonce {command}")
    if arguments is None and code in (130, 143):
        # all that had to be put away has been; the interpreter itself would take seconds
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
