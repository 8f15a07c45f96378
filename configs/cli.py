"""What every command line of the project shares: one-line errors, exit codes, --debug."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from configs.errors import TeachOnceError


class Parser(argparse.ArgumentParser):
    """argparse with our error form (one line on stderr, exit code 2) and --debug everywhere."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.add_argument("--debug", action="store_true", help="print a traceback beside an error")

    def parse_mixed(self, arguments: Sequence[str]) -> argparse.Namespace:
        """As `parse_args`; overrides (key=value, the positional `overrides`) may stand anywhere among the options."""
        options, rest = self.parse_known_args(arguments)
        strange = [word for word in rest if word.startswith("-") or "=" not in word]
        if strange:
            self.error(f"unrecognized arguments: {' '.join(strange)}")
        options.overrides = [*options.overrides, *rest]
        return options

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def run(main: Callable[[Sequence[str]], int | None], arguments: Sequence[str] | None = None) -> int:
    """Runs `main(arguments)` and returns the exit code: 0 well, 1 the run failed, 2 the request was wrong, 130 interrupted.

    A `TeachOnceError` or an error of the operating system becomes one line on stderr; with --debug among the
    arguments its traceback is printed as well. Any other exception is a defect of this project: its traceback
    goes to stderr and the code is 1.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    caught: BaseException
    try:
        return main(arguments) or 0
    except TeachOnceError as error:
        caught, line, code = error, str(error), error.exit_code
    except BrokenPipeError:
        # the reader of our output (head, less) has left: nothing more to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space and run the same command again: finished parts are kept" if full else "mend it and run again"
        caught, code = error, 1
        line = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}; {advice}"
    except KeyboardInterrupt as error:
        caught, line, code = error, "interrupted; run the same command again to go on from the last finished part", 130
    if "--debug" in arguments:
        traceback.print_exception(caught)
    print("error: " + " ".join(line.split("\n")), file=sys.stderr)
    return code
