"""Processes that start at once: forks of a server that has imported everything and has done nothing, so that a kill costs no import."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from configs import cli
from configs.errors import RequestError

KILLED, STOPPED = -9, (143, -15)
"""Exit codes of a process that was killed, and of one that SIGTERM has ended (-15: before its work began)."""
GRACE_S = 30.0
"""Seconds that a process may take to end by itself."""


_SERVER = multiprocessing.get_context("forkserver") if "forkserver" in multiprocessing.get_all_start_methods() else None


def started(log: Path, work: Callable[..., object], *arguments: Any) -> BaseProcess:
    """A process that does the work; what it says, and the traceback that it ends with, go to the log."""
    if _SERVER is None:
        raise RequestError("torture: expected a system whose processes fork, found another; run it on Linux or macOS")
    _SERVER.set_forkserver_preload(["bench.torture.shared", "bench.torture.commands"])  # counts for the first process alone
    process = _SERVER.Process(target=_logged, args=(log, work, *arguments))
    process.start()
    return process


def _logged(log: Path, work: Callable[..., object], *arguments: Any) -> None:
    with open(log, "a") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = cli.run(lambda given: void(work(*given)), arguments)
        except BaseException:
            traceback.print_exc(file=said)
            code = 1
        said.flush()
        if code:
            os._exit(code)


def void(result: object) -> None:
    """Nothing, whatever was given back."""


def ended(process: BaseProcess, kill: bool) -> bool:
    """Kills a process, or ends it by SIGTERM; False where that takes too long, and it is killed."""
    process.kill() if kill else process.terminate()
    process.join(GRACE_S)
    if heard := not process.is_alive():
        return heard
    process.kill()
    process.join()
    return False
