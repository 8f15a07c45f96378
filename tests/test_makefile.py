"""Values of the Makefile's variables are data: they reach a command as they were typed and run nothing, wherever they come from."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Makefile").read_text()
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")

STUB = """#!/bin/sh
{ printf '%s\\037' "$@"; echo; } >> "$SEEN"
[ -z "$TEACHONCE_ASK" ] || { echo "asked, of $WORLD_SIZE"; exit "$REFUSED"; }
"""
"""Writes its words down, a command a line; asked whether a request is understood, it answers with exit code REFUSED."""
WORDS = {"ARGS": " ", "SETTINGS": " ", "SEEDS": " ", "CHECKPOINT": " --checkpoint "}
"""Lists, split at spaces -> what stands between two of their words."""
USES = {
    "demo": ("DEMO_ROOT", "ARGS"),
    "demo-eval": ("DEMO_EVAL_ROOT",),
    "demo-teacher": ("ARGS", "RUN_DIR"),
    "cache": ("DATASET", "SETTING", "PAIRS", "VAL_PAIRS", "SPLIT", "TEACHER", "TARGETS", "ENGINE", "ARGS"),
    "train": ("SETTING", "DATASET", "ARGS"),
    "study": ("SETTINGS", "SEEDS", "EPOCHS", "BATCHES", "DATASET", "ARGS"),
    "eval": ("DATASET", "CHECKPOINT", "JOBS", "ARGS"),
    "track": ("VIDEO", "CHECKPOINT", "BOX", "ARGS"),
    "bench": ("ARGS",),
    "bench-guard": ("ARGS",),
    "tensorboard": ("RUN_DIR",),
    "verify": ("CACHE", "ARGS", "TEACHER"),
    "view": ("CACHE", "HTML", "WORST", "ARGS"),
    "check": ("DATASET", "ARGS"),
}
"""Target -> the variables that reach its commands."""
NEEDED = {
    **{target: {"DATASET": "d"} for target in ("cache", "check", "eval")},
    "verify": {"CACHE": "c", "REPAIR": "1"},
    "view": {"CACHE": "c"},
    "track": {"VIDEO": "v"},
}
ATTACK = "a b; touch F1 $(shell touch F2) `touch F3` \"'$$(touch F4) $(touch F5) * \\ | touch F6 & touch F7 #"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """The Makefile beside an environment whose commands write down what they are given."""
    folder = tmp_path_factory.mktemp("make")
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("teachonce", "torchrun", "tensorboard"):
        (folder / ".venv" / "bin" / name).write_text(STUB)
        (folder / ".venv" / "bin" / name).chmod(0o755)
    (folder / ".venv" / ".ready").touch()
    return folder


def _make(folder: Path, target: str, values: dict[str, str], by: str) -> list[list[str]]:
    """The words of every command that a target runs with these values, given on the command line or by the environment."""
    seen = folder / "seen"
    seen.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in names()} | {"SEEN": str(seen)}
    words = [f"{name}={value}" for name, value in values.items()] if by == "command line" else []
    done = subprocess.run(
        ["make", target, *words],
        cwd=folder,
        env=environment | (values if by == "environment" else {}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [line.split("\037")[:-1] for line in seen.read_text().split("\n")[:-1]]


def names() -> set[str]:
    """The variables that the Makefile takes."""
    return set(re.search(r"^override INPUTS := ((?:.*\\\n)*.*)", TEXT, re.MULTILINE)[1].replace("\\\n", " ").split())  # type: ignore[index]


@pytest.mark.parametrize("by", ["command line", "environment"])
@pytest.mark.parametrize("target", USES)
def test_a_value_reaches_its_command_as_it_was_typed_and_runs_nothing(workplace, target, by):
    values = NEEDED.get(target, {}) | dict.fromkeys(USES[target], ATTACK)
    before = set(workplace.rglob("*"))
    commands = _make(workplace, target, values, by)
    words = [word for command in commands for word in command]
    for name in USES[target]:
        if name in WORDS:
            assert WORDS[name].join(ATTACK.split()) in " ".join(words), name
        else:
            assert any(ATTACK in word for word in words), name
    assert set(workplace.rglob("*")) - before <= {workplace / "seen"}


@pytest.mark.parametrize("by", ["command line", "environment"])
def test_no_other_value_runs_anything_either(workplace, by):
    before = set(workplace.rglob("*"))
    others = {*names(), "BIN", "PY", "LAUNCH", "TEACHONCE", "GIVEN", "UNKNOWN", "comma", "hash"} - {"VENV", "CONSTRAINTS", "CACHE"}
    values = {"CACHE": "c"} | dict.fromkeys(others, ATTACK)
    assert _make(workplace, "verify", values, by) == [
        ["cache", "verify", "c", "--frames", "--repair", "--teacher", ATTACK, *ATTACK.split()]
    ]
    for name in ("VENV", "CONSTRAINTS"):
        for value in (ATTACK, "$(shell touch F)", "x: ; touch F #"):
            environment = os.environ | {"SEEN": str(workplace / "seen")} | ({name: value} if by == "environment" else {})
            words = ["make", "verify", "CACHE=c", *([f"{name}={value}"] if by == "command line" else [])]
            done = subprocess.run(words, cwd=workplace, env=environment, capture_output=True, text=True, timeout=60)
            assert done.returncode == 2 and f"{name}: expected a path without" in done.stderr, (name, value, done.stderr)
    assert set(workplace.rglob("*")) - before <= {workplace / "seen"}


def test_several_processes_are_started_by_torchrun_once_one_has_understood_the_request(workplace, monkeypatch):
    monkeypatch.setenv("REFUSED", "0")
    asked, command = _make(
        workplace, "train", {"GPUS": "2", "ARGS": "train.freeze=[backbone,head] losses.tracking={weight:\t1}"}, "command line"
    )
    assert command[:4] == ["--standalone", "--nproc-per-node", "2", "--no-python"]
    assert command[-3:] == ["train.freeze=[backbone,head]", "losses.tracking={weight:", "1}"]
    assert asked == command[5:] and command[4].endswith("bin/teachonce")


def test_a_request_that_one_process_refuses_starts_no_others(workplace, tmp_path):
    seen = {"SEEN": str(tmp_path / "seen"), "REFUSED": "2"}
    done = subprocess.run(["make", "train", "GPUS=2"], cwd=workplace, env=os.environ | seen, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout.count("asked, of 2\n") == 1
    assert (tmp_path / "seen").read_text().startswith("train\037run\037") and (tmp_path / "seen").read_text().count("\n") == 1


@pytest.mark.parametrize("given", ["0", "-1", "two", "1e3", "2.0", "1_0", "2; touch F", "1000000", "2 3"])
def test_a_count_of_processes_that_is_none_starts_nothing(workplace, given):
    (workplace / "seen").unlink(missing_ok=True)
    done = subprocess.run(["make", "train", f"GPUS={given}"], cwd=workplace, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and f"error: GPUS: expected a whole number from 1 to 99, found '{given}'; correct it\n" in done.stderr
    assert not (workplace / "seen").exists() and not (workplace / "F").exists()


@pytest.mark.parametrize("target", ["eval", "track"])
def test_a_checkpoint_that_is_a_file_is_one_word_and_others_are_a_list(workplace, target):
    (workplace / "my student.pth").touch()
    for given, words in (
        ("my student.pth", ["my student.pth"]),
        ("it=my student.pth", ["it=my student.pth"]),
        ("a.pth  b=my.pth", ["a.pth", "b=my.pth"]),
    ):
        (command,) = _make(workplace, target, NEEDED[target] | {"CHECKPOINT": given}, "command line")
        assert command[4:] == [part for word in words for part in ("--checkpoint", word)]
    (workplace / "my student.pth").unlink()


def test_what_is_missing_is_said_before_anything_runs(workplace):
    for target, name in (("cache", "DATASET"), ("check", "DATASET"), ("verify", "CACHE"), ("view", "CACHE"), ("track", "VIDEO")):
        done = subprocess.run(["make", target], cwd=workplace, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and f"{target}: expected {name}=" in done.stderr


def test_recipes_name_variables_by_the_shell_and_all_of_them_are_inputs():
    recipes = "\n".join(line for line in TEXT.splitlines() if line.startswith("\t"))
    conditions = re.sub(r"\$\(if \$\(\w+\),", "", recipes)
    expanded = set(re.findall(r"\$\((\w+)\)", conditions))
    assert expanded <= {"BIN", "PY", "TEACHONCE", "LAUNCH", "CHECKPOINTS", "MAKE", "MAKEFILE_LIST", "VENV"}
    assert set(re.findall(r"\$\$([A-Z_]+)", recipes)) | set(re.findall(r"\$\(if \$\((\w+)\),", recipes)) <= names()
    of_setup = {"PYTHON", "VENV", "CONSTRAINTS", "EXTRAS", "CACHE_DIR", "GPUS", "COVERAGE", "FILES", "FRAMES", "REPAIR"}
    assert {name for used in USES.values() for name in used} | of_setup >= names()
