"""`make cache ENGINE=ray`: the parts of a cache as tasks of Ray Core, on this machine or on the cluster that RAY_ADDRESS names.

An actor holds the teacher and makes one part after the other, under the claims that all workers share (cache/claims.py), so that workers
of other kinds may join. A task is the number of a part; what comes back is its ledger entries and what was measured. Ray starts an actor
whose process or node dies again, and its task with it; what was published stays.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch

from cache import Cache
from cache.address import Location
from cache.claims import Claims
from configs import Config
from configs.cli import failure
from configs.errors import RequestError, RunError, TeachOnceError, printable
from configs.process import keep_memory
from configs.progress import ProgressBar
from configs.stop import raising
from precompute.datasets import Dataset
from precompute.request import CHUNK, Request, open_usable
from precompute.run import POLL_S, CacheMaker, Job
from precompute.target_writer import Measured, Work

# read when Ray is imported; its workers would give way to everything else on the machine, and they are the work
for _name, _value in {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}.items():
    os.environ.setdefault(_name, _value)
import ray  # noqa: E402

START_S = 600.0
"""Seconds that the first actor may take to load the teacher."""
QUIET_S = 60.0
"""Seconds without a part after which the user is told that Ray is waited for."""
_STORE = 80 << 20  # bytes of Ray's object store: numbers do not travel
Entries = dict[str, dict[str, Any] | None]


class Failed(NamedTuple):
    """What a user can mend, as an actor met it."""

    exit_code: int
    line: str


class Worker:
    """The actor; everything is loaded at its first task, so that one that was started again needs no other."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._jobs: dict[Location, tuple[Dataset, Work, Claims]] = {}
        """by path of the cache"""

    @functools.cached_property
    def _maker(self) -> CacheMaker:
        keep_memory()
        torch.set_num_threads(self._request.cutters)  # Ray leaves one; the count rounds sums
        maker = CacheMaker(self._request)
        maker.load(CHUNK)
        return maker

    def ready(self) -> int | Failed:
        """The number of its process, once the teacher is there."""
        return _mended(lambda: os.getpid() if self._maker else 0)

    def make(self, name: str, split: str, path: Location, part: int) -> tuple[Entries, Measured] | Failed | None:
        """Makes what a part of the cache at `path` lacks: its entries by unit; None while another worker is at it."""
        return _mended(lambda: self._made(name, split, path, part))

    def _made(self, name: str, split: str, path: Location, part: int) -> tuple[Entries, Measured] | None:
        if path not in self._jobs:
            work = self._maker.work(Cache.open(path).check_before_use())
            # kept, because a claim of another machine is over once it has been seen unchanged for long enough
            self._jobs[path] = open_usable(self._maker.config, name, split), work, Claims(work.cache).__enter__()
        (dataset, work, claims), measured = self._jobs[path], Measured()
        units = (work.cache.pairs, *work.targets.values())
        if claims.take_one([part]) is None:
            return None
        try:
            if not all(unit.published(part) for unit in units):
                self._maker.make(replace(work, parts=[part]), dataset, measured, ProgressBar("", 0, "", shown=False))
        finally:
            claims.give_back(part)
        return {unit.path: unit.entry(part) for unit in units}, measured


def _mended(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (TeachOnceError, OSError) as error:
        return Failed(getattr(error, "exit_code", 1), failure(error))


class Pool:
    """The actors of one command, each with at most one part under way: an engine (see `precompute.run.here`), and a context."""

    def __init__(self, request: Request, actors: int | None = None) -> None:
        """actors: how many; None: one a GPU of the cluster, where there is none one a node."""
        self._request, self._wanted = request, actors
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, int | None]] = {}  # what is awaited -> the actor, its part (None: it is being made ready)
        self._open = ExitStack()

    def __enter__(self) -> Pool:
        """Joins the cluster, or starts Ray on this machine. RunError: no actor can be had. RequestError: of an actor."""
        with ExitStack() as opened:
            opened.enter_context(raising())  # Ray takes SIGTERM for itself when it is imported
            opened.callback(ray.shutdown)
            _connect()
            opened.enter_context(raising())
            self._start()
            self._open = opened.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    def _start(self) -> None:
        count, each = shape([node["Resources"] for node in ray.nodes() if node["Alive"]], self._request.device, self._wanted)
        own = replace(self._request, config=_anywhere(self._request.config), threads=self._request.threads or int(each["num_cpus"]))
        options = {**each, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": "SPREAD"}
        remote: Any = ray.remote(Worker).options(**options)
        self._busy = {(actor := remote.remote(own)).ready.remote(): (actor, None) for _ in range(count)}
        if not self._finished(START_S):
            raise RunError(
                f"ray: expected an actor ({printable(each)}) within {START_S:.0f} s, found none;"
                " look at `ray status`, or ask for fewer (--actors)"
            )

    def __call__(
        self, maker: CacheMaker, job: Job, cache: Cache, lacking: Callable[[], list[int]], claims: Claims, progress: ProgressBar
    ) -> Measured:
        """Hands out the parts until none is lacking; the seconds are those of the clock. RunError, RequestError: of an actor."""
        measured, began = Measured(), time.perf_counter()
        try:
            self._hand_out(job, cache.path.resolve(), deque(lacking()), measured, progress)
        except BaseException:
            self._end(claims)
            raise
        measured.seconds = time.perf_counter() - began
        return measured

    def _hand_out(self, job: Job, path: Location, todo: deque[int], measured: Measured, progress: ProgressBar) -> None:
        dataset = job.pair_set.dataset
        while todo or any(part is not None for _, part in self._busy.values()):
            while todo and self._idle:
                actor, part = self._idle.pop(), todo.popleft()
                self._busy[actor.make.remote(dataset.name, dataset.split, path, part)] = actor, part
            if not (finished := self._finished(QUIET_S)):
                progress.say("ray: waits for an actor")
            for done, made in finished:
                if made is not None and done is not None:
                    measured.add(made[1])
                    progress.add(made[1].pairs)
                elif done is not None:  # another worker is at it
                    time.sleep(POLL_S)
                    todo.append(done)

    def _end(self, claims: Claims) -> None:
        """Ends the actors and clears what they were at, as far as they are of this machine: elsewhere their leases end."""
        self._open.close()
        for _ in range(30):
            if not claims.others():
                break
            time.sleep(0.1)
        claims.clear()

    def _finished(self, seconds: float) -> list[tuple[int | None, Any]]:
        """(part, result) of what is done next; nothing where nothing is within these seconds."""
        found = []
        for task in ray.wait(list(self._busy), timeout=seconds)[0]:
            actor, part = self._busy.pop(task)
            try:
                result = ray.get(task)
            except ray.exceptions.RayTaskError:
                raise  # a defect of ours, with its traceback
            except ray.exceptions.RayError as error:
                what = str(error).strip().rpartition("\n")[2]
                raise RunError(f"ray: expected actors, found {what:.300}; run the same command again: finished parts are kept") from None
            if isinstance(result, Failed):
                raise (RequestError if result.exit_code == 2 else RunError)(result.line)
            self._idle.append(actor)
            found.append((part, result))
        return found


def _connect() -> None:
    """Joins the cluster that RAY_ADDRESS names, or starts one on this machine that none else can reach. RunError: neither is possible."""
    own: dict[str, Any] = {}
    if not os.environ.get("RAY_ADDRESS"):
        own = {"address": "local", "_node_ip_address": "127.0.0.1", "include_dashboard": False, "object_store_memory": _STORE}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **own)
    except (RuntimeError, ValueError, OSError) as error:
        what = str(error).strip().partition("\n")[0]
        raise RunError(
            f"ray: expected a cluster, found {what:.300}; see RAY_ADDRESS, RAY_AUTH_MODE and `ray status`, or leave ENGINE out"
        ) from None


def shape(nodes: list[dict[str, float]], device: str, wanted: int | None) -> tuple[int, dict[str, float]]:
    """How many actors a cluster of these nodes (resource -> how much) has, and what each takes of its node, as options of an actor."""
    gpus = sum(int(node.get("GPU", 0)) for node in nodes) if device != "cpu" else 0
    if gpus:
        count = wanted or gpus
        sharing = -(-count // gpus)  # actors of a GPU
        cpus = min(node.get("CPU", 1) / (sharing * int(node["GPU"])) for node in nodes if node.get("GPU", 0) >= 1)
        return count, {"num_gpus": 1 / sharing, "num_cpus": max(1, int(cpus))}
    count = wanted or len(nodes)
    return count, {"num_cpus": max(1, int(min(node.get("CPU", 1) for node in nodes) / -(-count // len(nodes))))}


def _anywhere(config: Config) -> Config:
    """The configuration as a process of another working folder understands it."""
    if config.teacher is None or config.teacher.weights is None:
        return config
    return config.model_copy(update={"teacher": config.teacher.model_copy(update={"weights": str(Path(config.teacher.weights).resolve())})})
