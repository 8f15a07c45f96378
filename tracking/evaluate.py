"""Every tracker through every video, once, in several processes; what is on disk already is not done again.

Each process runs one thread, so the speed that is measured is that of one core, as long as the cores are not shared.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import torch

from configs.errors import RunError, TeachOnceError, printable
from configs.progress import ProgressBar
from configs.stop import unseen_by_children
from tracking.contestants import Contestant
from tracking.one_pass import Pass, Tracker, one_pass
from tracking.results import Results, results_folder
from tracking.sequences import Video, VideoSet

Answers = dict[str, dict[str, Pass]]
"""tracker -> sequence -> what was answered"""


class Work(NamedTuple):
    """One tracker through one video."""

    contestant: Contestant
    video: Video
    results: Results
    device: str


def evaluate(trackers: Sequence[Contestant], videos: VideoSet, out: Path, jobs: int = 1, device: str = "auto") -> tuple[Answers, list[str]]:
    """Every tracker's answers in every video, and what went wrong, one line a sequence.

    jobs: processes. A sequence that fails leaves the others alone.
    RequestError: a folder of another tracker, a checkpoint that cannot track; before anything is written. RunError: a process was killed.
    """
    places = {tracker.name: Results(results_folder(out, videos.name, tracker.name), tracker.identity()) for tracker in trackers}
    work = [
        Work(tracker, video, places[tracker.name], device)
        for tracker in trackers
        for video in videos.videos
        if places[tracker.name].read(video) is None
    ]
    for tracker in {item.contestant.name: item.contestant for item in work}.values():
        tracker.build(device)
    for place in places.values():
        place.begin()
    problems = [str(problem) for problem in videos.problems]
    with ProgressBar(videos.name, sum(len(item.video.frames) for item in work), "frame") as progress:
        for item, problem in _done(work, min(jobs, len(work))):
            progress.add(len(item.video.frames))
            if problem:
                problems.append(f"{item.contestant.name}, {item.video.name}: {problem}")
                progress.say(f"error: {problems[-1]}")
    return {name: place.read_all(videos.videos) for name, place in places.items()}, problems


def _done(work: Sequence[Work], jobs: int) -> Iterator[tuple[Work, str]]:
    """Each piece of work as it is done, and what went wrong with it."""
    if jobs <= 1:
        with one_thread():
            for item in work:
                yield item, run(item)
        return
    # spawn: a forked process would inherit the locks of OpenCV's and torch's threads
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_stay_alone) as pool:
        with unseen_by_children():
            futures = {pool.submit(run, item): item for item in work}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenExecutor as error:
            raise RunError(
                f"expected {jobs} processes to live, found one killed (is memory short?); run it again with fewer JOBS"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch and of OpenCV; as many as before behind it."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    _stay_alone()
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _stay_alone() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


_built: dict[tuple[Contestant, str], Tracker] = {}
"""The last tracker of this process: the next video is often for the same."""


def run(work: Work) -> str:
    """Tracks one video and keeps the answers; what went wrong, in a line, or nothing."""
    try:
        answered = one_pass(_tracker(work.contestant, work.device), work.video)
        work.results.write(work.video, answered)
    except TeachOnceError as error:
        return str(error)
    except Exception as error:  # whatever it is, the other sequences go on
        where = traceback.extract_tb(error.__traceback__)[-1]
        return printable(f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})", 400)
    return ""


def _tracker(contestant: Contestant, device: str) -> Tracker:
    key = contestant, device
    if key not in _built:
        _built.clear()
        _built[key] = contestant.build(device)
    return _built[key]
