"""The console command: fast to ask for help, and the same in a folder of the user's that holds a train.py or models/."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import teachonce

ROOT = Path(__file__).parents[1]


@pytest.fixture
def console(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command as its installed script does, in a folder whose train.py, models/ and cache/ must not be imported."""
    module, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["teachonce"].split(":")
    script = tmp_path / "bin" / "teachonce"
    script.parent.mkdir()
    script.write_text(f"import sys\nfrom {module} import {function}\nif __name__ == '__main__':\n    sys.exit({function}())\n")
    folder = tmp_path / "work"
    for name in ("train.py", "configs.py", "models/__init__.py", "cache/__init__.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("raise SystemExit('a file of the user was imported')\n")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(script), *words],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_folder_with_a_train_py_of_the_users_own_changes_nothing(console, tmp_path):
    said = console("cache", "ls")
    assert (said.returncode, said.stderr.startswith("error: caches: expected caches below it"), said.stderr.count("\n")) == (2, True, 1)
    # worker processes look where the command itself looked
    said = console("precompute", "demo-data", "--out", "video", "--train", "1", "--val", "1", "--frames", "2", "--jobs", "2")
    assert (said.returncode, said.stdout) == (0, "video: 1 + 1 sequences of 2 frames, made\n"), said.stderr
    assert len(list((tmp_path / "work" / "video").rglob("*.jpg"))) == 4


def test_help_lists_the_commands_and_imports_no_room(console):
    loaded = (
        "import sys, teachonce\nteachonce.main(['--help'])\nprint(sorted({'torch', 'numpy', 'pydantic', 'configs'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.endswith("[]\n")
    assert all(f"\n  {command} " in said for command in teachonce.COMMANDS)
    assert console().stdout == console("--help").stdout == said.removesuffix("[]\n")


def test_an_unknown_command_is_one_line_and_code_2(capsys):
    assert teachonce.main(["trian", "run"]) == 2
    assert capsys.readouterr().err == f"teachonce: expected one of {', '.join(teachonce.COMMANDS)}, found 'trian'; see teachonce --help\n"


@pytest.mark.parametrize("command", teachonce.COMMANDS)
def test_each_command_is_a_room_that_says_how_it_was_called(command, capsys):
    with pytest.raises(SystemExit) as end:
        teachonce.main([command, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: teachonce {command} ")
    room = importlib.import_module(f"{teachonce.COMMANDS[command][0]}.__main__")
    with pytest.raises(SystemExit):
        room.main(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: python -m {teachonce.COMMANDS[command][0]} ")


def test_every_room_with_a_command_line_is_a_command():
    rooms = {path.parent.name for path in ROOT.glob("*/__main__.py")}
    assert rooms == {room for room, _ in teachonce.COMMANDS.values()}
