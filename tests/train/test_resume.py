"""A run that was killed and started again equals one that was not; a run of another configuration is never gone on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import configs
from configs import Config, RequestError, RunError
from configs.stop import Stopped
from train import checkpoint
from train.halt import GO_ON, STOP, Halt
from train.log import METRICS, NUMBERS, RunLog, read_metrics
from train.loop import PhaseLoop
from train.reports import run_folder
from train.run import run

TIMES = ("pairs_per_s", "wait_share")
CASES = {
    # killed in the second epoch of a phase: optimizer, schedule and a trained projection must come back
    "projection": ("atom_compression", ("losses.projected_fidelity.projection=trained", "train.lr_step=1"), 6),
    # killed in the first epoch of the second phase: its optimizer must be new
    "phases": (
        "sep",
        ("phases=[{epochs: 1, freeze: [head], losses: {fidelity: 100}}, {epochs: 1, freeze: [backbone], losses: {teacher_soft: 1}}]",),
        6,
    ),
    # fresh and replayed batches must come in the same order
    "mix": ("atom_cfkd", ("train.mix=0.5",), 7),
    "two students": ("atom_tsskd", ("second_student.architecture=atom_resnet18tiny",), 5),
    # killed before the first checkpoint: begins anew
    "early": ("gt", (), 3),
}


def without_times(folder: Path) -> list[dict]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in read_metrics(folder)]


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    plain = PhaseLoop.one_step

    def one_step(self, batch, meter):
        if self.position.step == step:
            raise KeyboardInterrupt
        plain(self, batch, meter)

    monkeypatch.setattr(PhaseLoop, "one_step", one_step)


def stops(monkeypatch: pytest.MonkeyPatch, config: Config) -> list[tuple[int, bool]]:
    """Stops the run, started again and again, at the second moment at which it can be; (step, whether within a validation) of each stop."""
    at: list[tuple[int, bool]] = []
    with monkeypatch.context() as patch:
        while True:
            asked: list[Halt] = []

            def ask(halt: Halt, asked: list[Halt] = asked) -> int:
                asked.append(halt)
                return STOP if len(asked) == 2 else GO_ON

            patch.setattr(Halt, "ask", ask)
            try:
                run(config)
            except Stopped as stopped:
                assert stopped.exit_code == 143
            else:
                return at
            begun = checkpoint.load(run_folder.folder_of(config))
            at.append((0, True) if begun is None else (begun.position.step, begun.position.epoch_step == config.train.batches))


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_goes_on_to_the_same_bits(world, tmp_path, monkeypatch, case):
    setting, overrides, step = CASES[case]
    options = ("train.check_pairs=0", "train.log_every=3", "train.val_batches=1", "train.pictures=0", *overrides)
    whole = run(world.config(*options, setting=setting, runs=tmp_path / "whole"))
    config = world.config(*options, setting=setting, runs=tmp_path / "killed")
    with monkeypatch.context() as patch:
        killed_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    folder = run_folder.folder_of(config)
    assert not (folder / run_folder.RESULT).exists()
    begun = checkpoint.load(folder)
    assert (begun is None) == (step < 4) and (begun is None or begun.position.step == 4)
    stopped = stops(monkeypatch, config)
    assert {before_validation for _, before_validation in stopped} == {True, False}
    assert run(config) == folder
    assert without_times(folder) == without_times(whole)
    for name in (run_folder.STUDENT, run_folder.SECOND):
        assert (folder / name).exists() == (whole / name).exists()
        assert not (whole / name).exists() or (folder / name).read_bytes() == (whole / name).read_bytes()


def test_a_finished_run_is_left_alone_and_says_so(world, tmp_path, capsys):
    config = world.config("train.epochs=1", "train.check_pairs=0", setting="gt", runs=tmp_path)
    folder = run(config)
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    assert run(config) == folder
    assert "this run has finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == files


def test_another_configuration_in_the_same_folder_is_refused_with_the_difference(world, tmp_path):
    run(world.config("train.epochs=1", setting="gt", runs=tmp_path))
    with pytest.raises(
        RequestError, match=r"found another's \(train\.lr: there 0\.001, wanted 0\.5\); give this run .* train\.name=NAME, or delete"
    ):
        run(world.config("train.epochs=1", "train.lr=0.5", setting="gt", runs=tmp_path))
    # what moves a run to another place or machine changes no number
    run(world.config("train.epochs=1", "train.feed_threads=2", "train.device=auto", setting="gt", runs=tmp_path))
    run(world.config("train.epochs=1", "train.lr=0.5", "train.name=other", setting="gt", runs=tmp_path))


def steps(folder: Path) -> int:
    result = run_folder.result_of(folder)
    assert result is not None
    return int(result["steps"])


LENGTHENED = {
    "plain": ("gt", ("train.lr_step=1",), ("train.epochs=2",), ("train.epochs=4",)),
    "phases": ("sep", ("phases.0.epochs=1",), ("phases.1.epochs=1",), ("phases.1.epochs=3",)),
    "trained projection": ("atom_compression", ("losses.projected_fidelity.projection=trained",), ("train.epochs=1",), ("train.epochs=3",)),
}


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("case", LENGTHENED)
def test_a_lengthened_run_equals_one_that_was_begun_so(world, tmp_path, monkeypatch, case, killed, capsys):
    setting, same, short, long = LENGTHENED[case]
    options = ("train.check_pairs=0", "train.val_batches=1", "train.pictures=0", *same)
    whole = run(world.config(*options, *long, setting=setting, runs=tmp_path / "whole"))
    folder = run(world.config(*options, *short, setting=setting, runs=tmp_path / "short"))
    config = world.config(*options, *long, setting=setting, runs=tmp_path / "short")
    if killed:  # before the first checkpoint of what is new
        with monkeypatch.context() as patch:
            killed_at(patch, read_metrics(folder)[-1]["step"] + 1)
            with pytest.raises(KeyboardInterrupt):
                run(config)
        assert not (folder / run_folder.RESULT).exists()
    capsys.readouterr()
    assert run(config) == folder
    assert f"goes on after epoch {len([line for line in read_metrics(whole) if line['kind'] == 'val']) - 3} " in capsys.readouterr().out
    assert without_times(folder) == without_times(whole)
    assert (folder / run_folder.STUDENT).read_bytes() == (whole / run_folder.STUDENT).read_bytes()
    assert steps(folder) == steps(whole) and configs.read(folder / run_folder.CONFIG) == config


def test_what_cannot_change_is_said_by_field_and_leaves_every_file(world, tmp_path, monkeypatch):
    options = ("train.check_pairs=0", "train.val_batches=1", "train.pictures=0", "phases.0.epochs=2", "phases.1.epochs=2")
    config = world.config(*options, setting="sep", runs=tmp_path)
    with monkeypatch.context() as patch:
        killed_at(patch, 13)  # one epoch of the second phase is done
        with pytest.raises(KeyboardInterrupt):
            run(config)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for change, message in {
        "phases.0.epochs=3": r"phases\.0\.epochs: expected 2, for that phase is over, found 3",
        "phases.1.epochs=1": r"phases\.1\.epochs: expected at least 2, for 1 are done, found 1",
        "phases.1.freeze=[]": r"phases\.1\.freeze: there \['backbone'\], wanted \[\]\); .*\(a run goes on with another train\.epochs",
    }.items():
        with pytest.raises(RequestError, match=message):
            run(world.config(*options, change, setting="sep", runs=tmp_path))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    folder = run(world.config(*options, "phases.1.epochs=3", setting="sep", runs=tmp_path))
    for name in (checkpoint.FILE, checkpoint.PREVIOUS):
        (folder / name).unlink()
    with pytest.raises(RequestError, match=r"expected checkpoint\.pt of the finished run to go on from, found none"):
        run(world.config(*options, "phases.1.epochs=4", setting="sep", runs=tmp_path))
    assert run(world.config(*options, "phases.1.epochs=3", setting="sep", runs=tmp_path)) == folder


def test_a_run_that_was_renamed_and_moved_with_its_files_goes_on(world, tmp_path):
    weights = tmp_path / "elsewhere" / "backbone.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(world.weights.read_bytes())
    options = ("train.check_pairs=0", "train.val_batches=1", "train.pictures=0", f"student.weights={weights}")
    folder = run(world.config(*options, "train.epochs=1", runs=tmp_path / "here"))
    there = tmp_path / "there" / "atom_cfkd" / "renamed"
    there.parent.mkdir(parents=True)
    folder.rename(there)
    (world.folder / "caches").rename(tmp_path / "caches")
    weights.unlink()  # what a student started from is needed once
    try:
        moved = ("train.name=renamed", f"cache_dir={tmp_path / 'caches'}", f"teacher.weights={world.weights}", "train.val_every=2")
        assert run(world.config(*options, "train.epochs=2", *moved, runs=tmp_path / "there")) == there
    finally:
        (tmp_path / "caches").rename(world.folder / "caches")
    assert steps(there) == 8


def test_a_start_that_fails_leaves_nothing_so_that_its_remedy_works(world, tmp_path, monkeypatch):
    def no_network(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", no_network)
    options = ("train.epochs=1", "train.freeze=[]", "student.architecture=atom_resnet18", "train.batches=1")
    with pytest.raises(RunError, match=r"no route to host; fetch it elsewhere and set student\.weights=FILE"):
        run(world.config(*options, setting="atom_paper", runs=tmp_path))
    assert not list(tmp_path.iterdir())
    import models

    models.save_weights(models.build("atom_resnet18"), tmp_path / "fetched.safetensors")
    assert run(world.config(*options, f"student.weights={tmp_path}/fetched.safetensors", setting="atom_paper", runs=tmp_path)).is_dir()


def test_a_run_does_not_go_on_from_other_caches(world, tmp_path, monkeypatch):
    config = world.config("train.check_pairs=0", setting="gt", runs=tmp_path)
    with monkeypatch.context() as patch:
        killed_at(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    monkeypatch.setattr("train.inputs.Inputs.identity", lambda self: {"train": "other", "val": "other"})
    with pytest.raises(RequestError, match="expected the caches and the teacher that the run began with, found others"):
        run(config)


def test_config_and_weights_of_a_run_read_back(world, tmp_path):
    config = world.config("train.epochs=1", setting="gt", runs=tmp_path)
    folder = run(config)
    assert configs.read(folder / run_folder.CONFIG) == config
    from models import read_state

    state, metadata = read_state(folder / run_folder.STUDENT)
    assert metadata["architecture"] == "atom_resnet18tiny" and metadata["setting"] == "gt" and "bb_regressor.iou_predictor.weight" in state


def test_a_broken_checkpoint_is_named(tmp_path):
    assert checkpoint.load(tmp_path) is None
    (tmp_path / checkpoint.FILE).write_bytes(b"half a file")
    with pytest.raises(RunError, match=r"expected a checkpoint, found a file that does not load; delete .* to start the run anew"):
        checkpoint.load(tmp_path)


def test_metrics_of_steps_after_the_checkpoint_are_dropped(tmp_path):
    rest: dict[str, Any] = dict.fromkeys(("phase", "pairs_per_s", "wait_share", "cached_share", "online_share"), 1) | {"terms": {}}
    first = RunLog(tmp_path, 0).begin(tensorboard=False)
    for step in (2, 4, 6):
        first.record("train", step, 1, loss=float("nan") if step == 6 else 1.0 / step, **rest)
    first.close()
    with open(tmp_path / METRICS, "a") as stream:
        stream.write('{"kind": "train", "st')
    assert [line["loss"] for line in read_metrics(tmp_path)] == [0.5, 0.25, None]
    second = RunLog(tmp_path, 4).begin(tensorboard=False)
    second.record("train", 5, 2, loss=1, **rest)
    second.close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [2, 4, 5]
    RunLog(tmp_path, 0).begin(tensorboard=False).close()
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("change", [{"loss": "1"}, {"terms": None}, {"terms": {"gt": []}}, {"epoch": True}, {"wait_share": ...}])
def test_a_line_that_lacks_what_reports_read_is_named(tmp_path, change):
    line = dict.fromkeys(NUMBERS["train"], 1) | {"kind": "train", "terms": {"gt": 0.5}}
    (tmp_path / METRICS).write_text(json.dumps(line) + "\n")
    assert read_metrics(tmp_path) == [line]
    damaged = {name: value for name, value in (line | change).items() if value is not ...}
    (tmp_path / METRICS).write_text(json.dumps(damaged) + "\n")
    with pytest.raises(RunError, match=r"metrics.jsonl:1: expected a line that a run has written, found .*; delete the line"):
        read_metrics(tmp_path)
