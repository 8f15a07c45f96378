"""What a process asks of its machine before it computes: memory that stays, threads that are free, and nothing that the user has set."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from configs import machine, process
from configs.errors import RequestError

ROOT = Path(__file__).parents[2]
GLIBC = platform.libc_ver()[0] == "glibc"


def run_python(code: str, **environment: str) -> str:
    """What a Python of its own prints, with nothing of this process' allocator and threads in its environment."""
    names = ("MALLOC_", "OMP_", "MKL_", process.KEEP, process.ASK, "RANK", "LOCAL_WORLD_SIZE")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    done = subprocess.run([sys.executable, "-c", code], env=plain | environment, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


FAULTS = """
import resource, sys
from configs.process import settle
settle(leave_busy=False)
for turn in range(5):
    buffer = bytearray(2**26)
    buffer[::4096] = b"x" * 2**14
    del buffer
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not GLIBC, reason="keep_memory speaks to glibc")
@pytest.mark.parametrize(("environment", "kept"), [({}, True), ({process.KEEP: "0"}, False), ({"MALLOC_ARENA_MAX": "2"}, False)])
def test_large_buffers_are_taken_again_without_page_faults(environment: dict[str, str], kept: bool):
    said, faults = run_python(FAULTS, **environment).splitlines()
    assert said.startswith("machine: ") and (f"{process.KEEP}=0" in said) is kept
    # three times 64 MB: 49,152 pages of 4 KiB, or 96 of 2 MiB where the kernel gives huge ones
    assert (int(faults) < 20) if kept else (int(faults) >= 90)


def test_another_libc_is_left_alone(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("MALLOC_", process.KEEP)):
            monkeypatch.delenv(name)
    monkeypatch.setattr(process.ctypes, "CDLL", lambda name: object())
    assert process.keep_memory() is False
    monkeypatch.setattr(sys, "platform", "darwin")
    assert process.keep_memory() is False


@pytest.fixture
def unset(monkeypatch):
    """No word of the user on threads, and none of an earlier test afterwards."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(process, "_ours", False)
    monkeypatch.setattr(process, "cores", lambda: 8)
    yield monkeypatch
    # what choose_threads set itself
    os.environ.pop("OMP_NUM_THREADS", None)


@pytest.mark.parametrize(("busy", "processes", "threads"), [(0.2, 1, 8), (2.9, 1, 5), (8.0, 1, 1), (0.0, 4, 2), (7.9, 4, 1)])
def test_threads_are_the_cores_that_others_leave_free(unset, busy, processes, threads):
    unset.setenv("LOCAL_WORLD_SIZE", str(processes))
    unset.setattr(process, "busy_processors", lambda: busy)
    assert process.choose_threads().startswith(f"{threads} thread{'s' * (threads > 1)}, {busy:.1f} of 8 cores are busy")
    assert os.environ["OMP_NUM_THREADS"] == str(threads) and process.threads_are_ours()


def test_a_cache_does_not_look_at_the_load(unset):
    unset.setattr(process, "busy_processors", lambda: pytest.fail("asked for the load"))
    assert process.choose_threads(leave_busy=False) == "8 threads, 8 cores (OMP_NUM_THREADS=n chooses)"


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_the_users_own_count_of_threads_wins(unset, name):
    unset.setenv(name, "3")
    assert process.choose_threads() == f"threads as {name}=3 says"
    assert os.environ.get("OMP_NUM_THREADS") in (None, "3") and not process.threads_are_ours()


def test_busy_processors_are_counted_between_two_looks(monkeypatch):
    # processor -> idle and whole ticks: cpu0 wholly busy, cpu1 a quarter, cpu2 came up in between
    looks = iter([{"cpu0": (100, 200), "cpu1": (50, 200)}, {"cpu0": (100, 240), "cpu1": (80, 240), "cpu2": (9, 9)}])
    monkeypatch.setattr(process, "_times", lambda: next(looks))
    monkeypatch.setattr(process, "processors", lambda: 3)
    assert process.busy_processors(0) == pytest.approx(1.25)
    monkeypatch.setattr(process, "_times", dict)
    assert process.busy_processors(0) == 0


@pytest.mark.parametrize(("written", "cores"), [("max 100000", 4), ("150000 100000", 2), ("50000 100000", 1)])
def test_a_containers_quota_bounds_the_cores(monkeypatch, tmp_path, written, cores):
    (tmp_path / "cpu.max").write_text(written + "\n")
    monkeypatch.setattr(machine, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    monkeypatch.setattr(machine, "SIBLINGS", str(tmp_path / "cpu{}"))
    assert machine.cores() == cores
    for number in range(4):
        (tmp_path / f"cpu{number}").write_text(f"{number % 2},{number % 2 + 2}\n")
    assert machine.cores() == min(cores, 2), "two processors of one core"


def test_waiting_threads_sleep_and_torch_takes_the_threads_that_were_chosen():
    code = "from configs.process import settle; settle(leave_busy=False); import os, torch; print(torch.get_num_threads());"
    said, threads, policy = run_python(f"{code} settle(); print(os.environ['OMP_WAIT_POLICY'])").splitlines()
    assert said.startswith(f"machine: {threads} thread") and threads == str(machine.cores()) and policy == "PASSIVE"


def test_a_place_that_cannot_be_written_is_found_before_the_work(tmp_path, monkeypatch):
    machine.require_place(tmp_path / "new" / "deep", "--out")
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=r"--out: expected a folder that can be written to, found a file at .*file/x; name another"):
        machine.require_place(tmp_path / "file" / "x", "--out")
    with pytest.raises(RequestError, match="name too long"):
        machine.require_place(tmp_path / ("a" * 300), "--out")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as of a file system mounted to read only, for whoever asks
    with pytest.raises(RequestError, match="RUN_DIR: expected a folder that can be written to, found one without the right to write"):
        machine.require_place(tmp_path / "new", "RUN_DIR")


def test_a_command_that_is_only_asked_ends_where_work_begins():
    code = "from configs.process import settle; settle(); print('worked')"
    assert run_python(code, TEACHONCE_ASK="1") == "" and run_python(code).endswith("worked\n")
