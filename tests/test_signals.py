"""Ctrl-C and SIGTERM: one line on how to go on, code 130 or 143, and nothing of the finished work lost."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs import stop
from configs.cli import run

ROOT = Path(__file__).parents[1]
# the signal comes while a module is imported: before our own handlers are there, and within a library that takes seconds
IMPORTING = """
import os, signal, sys
import teachonce
module, number = sys.argv[1:]
class Killer:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), int(number))
sys.meta_path.insert(0, Killer())
sys.argv[1:] = ["losses", "--setting", "gt"]
sys.exit(teachonce.main())
"""


@pytest.mark.parametrize(
    ("module", "number", "said"),
    [
        ("configs", signal.SIGINT, "error: stopped before any work; run the same command again\n"),
        ("kdlosses", signal.SIGTERM, "error: stopped before any work; run the same command again\n"),
    ],
)
def test_a_signal_during_imports_leaves_one_line(module, number, said):
    words = [sys.executable, "-c", IMPORTING, module, str(int(number))]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + number, "", said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_with_the_way_to_go_on(number, capsys):
    before = [signal.getsignal(each) for each in stop.SIGNALS]

    def main(arguments, prog):
        os.kill(os.getpid(), number)

    assert run(main, ["run", "a b=1"], "teachonce train") == 128 + number
    name = signal.Signals(number).name
    line = f"error: stopped by {name}, what is finished is kept; run the same command again to go on: teachonce train run 'a b=1'\n"
    assert capsys.readouterr().err == line
    assert [signal.getsignal(each) for each in stop.SIGNALS] == before


def test_of_several_processes_one_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert run(lambda arguments: os.kill(os.getpid(), signal.SIGTERM), []) == 143
    assert capsys.readouterr().err == ""


def test_a_signal_within_an_import_waits_for_its_end(tmp_path, monkeypatch):
    (tmp_path / "slow_library.py").write_text(
        "import os, signal, time\nlost = False\ntry:\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(0.2)\n"
        "except BaseException:\n    lost = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(stop.Stopped), stop.raising():
        import slow_library

        while not slow_library.lost:
            pass


def test_a_signal_within_a_long_import_ends_the_process(tmp_path, monkeypatch, capfd):
    (tmp_path / "slower_library.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\nwhile not os.ended:\n    time.sleep(0.01)\n"
    )
    ended: list[int] = []
    monkeypatch.setattr(os, "ended", ended, raising=False)
    monkeypatch.setattr(os, "_exit", lambda code: ended.append(code))
    monkeypatch.setattr(stop, "_IMPORT_S", 0.1)
    monkeypatch.syspath_prepend(tmp_path)
    with contextlib.suppress(stop.Stopped), stop.raising():
        import slower_library  # noqa: F401

        time.sleep(0.2)
    assert ended[0] == 143
    said = "error: stopped while loading, what is finished is kept; run the same command again to go on\n"
    assert capfd.readouterr().err.startswith(said)


def test_a_deferred_signal_is_remembered_and_a_second_one_raises(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stop.time, "monotonic", lambda: now[0])
    with stop.Deferred() as asked:
        assert asked.number is None
        for _ in range(2):  # torchrun passes on what its processes got from the terminal as well
            os.kill(os.getpid(), signal.SIGTERM)
        assert asked.number == signal.SIGTERM
        now[0] += 2
        with pytest.raises(stop.Stopped):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_ignored_signal_stays_ignored():
    held = signal.signal(signal.SIGINT, signal.SIG_IGN)  # nohup
    try:
        with stop.raising():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, held)
