"""What every command line of the project shares: one-line errors, exit codes, --debug."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from configs import stop
from configs.errors import TeachOnceError, printable


class Parser(argparse.ArgumentParser):
    """argparse with our error form (one line on stderr, exit code 2) and --debug everywhere."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.add_argument("--debug", action="store_true", help="print a traceback beside an error")
        self._overridable = False

    def add_overrides(self, help: str) -> None:
        """Takes overrides: words key=value anywhere among the options, or behind --; `parse_args` gives them as `overrides`, in order.

        Any other word that no option or argument takes is an error that names it; so is a word behind -- that is not key=value.
        The value of an option that takes one (--teacher a=b.pth) is no override.
        """
        self.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=help)
        self._overridable = True

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's; a parser that takes overrides knows all words or ends with an error."""
        if not self._overridable:
            return super().parse_known_args(args, namespace)
        given = list(sys.argv[1:] if args is None else args)
        words, overrides = self._split(given)
        options, strange = super().parse_known_args(words, namespace)
        if strange or options.overrides:
            self.error(f"unrecognized arguments: {' '.join(strange or options.overrides)}")
        options.overrides = overrides
        return options, []

    def _split(self, given: list[str]) -> tuple[list[str], list[str]]:
        """(words for argparse, overrides)."""
        end = given.index("--") if "--" in given else len(given)
        takes_value = {name for action in self._actions if action.nargs is None for name in action.option_strings}
        words: list[str] = []
        overrides: list[str] = []
        for before, word in zip(["", *given], given[:end], strict=False):
            (overrides if _is_override(word) and before not in takes_value else words).append(word)
        if strange := [word for word in given[end + 1 :] if not _is_override(word)]:
            self.error(f"expected key=value behind --, found {' '.join(strange)}")
        return words, [*overrides, *given[end + 1 :]]

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")


def whole(text: str) -> int:
    """The type of an option that takes a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found {text!r:.60}")
    return int(text)


def _is_override(word: str) -> bool:
    return "=" in word and not word.startswith("-")


def run(main: Callable[..., int | None], arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs `main(arguments)`, or `main(arguments, prog)`, and returns the exit code: 0 well, 1 the run failed, 2 the request was wrong,
    130 stopped by Ctrl-C, 143 by SIGTERM.

    A `TeachOnceError` or an error of the operating system becomes one line on stderr, a signal one on how to go on; with --debug among the
    arguments its traceback is printed as well. Any other exception is a defect of this project: its traceback
    goes to stderr and the code is 1.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    caught: BaseException
    try:
        with stop.raising():
            return (main(arguments) if prog is None else main(arguments, prog)) or 0
    except TeachOnceError as error:
        caught, line, code = error, failure(error), error.exit_code
    except BrokenPipeError:
        # the reader of our output (head, less) has left: nothing more to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        caught, line, code = error, failure(error), 1
    except KeyboardInterrupt as error:
        ended = stop.stopped(error)
        caught, code = error, ended.exit_code
        line = _how_to_go_on(ended, prog, arguments)
    if "--debug" in arguments:
        traceback.print_exception(caught)
    if line:
        print(f"error: {printable(line)}", file=sys.stderr)
    return code


def failure(error: TeachOnceError | OSError) -> str:
    """What is said of an error of the user or of the operating system."""
    if isinstance(error, TeachOnceError):
        return str(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "free some space and run the same command again: finished parts are kept" if full else "mend it and run again"
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}; {advice}"


def _how_to_go_on(ended: stop.Stopped, prog: str | None, arguments: Sequence[str]) -> str:
    """What is said of a run that a signal ended; of several processes (torchrun) one says it."""
    if not stop.is_speaker():
        return ""
    shown = f": {prog} {shlex.join(arguments)}" if prog is not None and "TORCHELASTIC_RUN_ID" not in os.environ else ""
    kept = ended.kept or "what is finished is kept"
    return f"stopped by {signal.Signals(ended.number).name}, {kept}; run the same command again to go on{shown}"
