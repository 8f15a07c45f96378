"""A run that was killed and started again equals one that was not; a run of another configuration is never gone on from."""

from __future__ import annotations

from pathlib import Path

import pytest

import configs
from configs import RequestError, RunError
from train import checkpoint
from train.log import METRICS, RunLog, read_metrics
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
    begun = checkpoint.load(folder / checkpoint.FILE)
    assert (begun is None) == (step < 4) and (begun is None or begun[0].step == 4)
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
    path = tmp_path / checkpoint.FILE
    assert checkpoint.load(path) is None
    path.write_bytes(b"half a file")
    with pytest.raises(RunError, match="expected a checkpoint, found a file that does not load; delete it"):
        checkpoint.load(path)


def test_metrics_of_steps_after_the_checkpoint_are_dropped(tmp_path):
    first = RunLog(tmp_path, 0, tensorboard=False)
    for step in (2, 4, 6):
        first.record("train", step, 1, loss=float("nan") if step == 6 else 1.0 / step)
    first.close()
    with open(tmp_path / METRICS, "a") as stream:
        stream.write('{"kind": "train", "st')
    assert [line["loss"] for line in read_metrics(tmp_path)] == [0.5, 0.25, None]
    second = RunLog(tmp_path, 4, tensorboard=False)
    second.record("train", 5, 2, loss=1)
    second.close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [2, 4, 5]
    RunLog(tmp_path, 0, tensorboard=False).close()
    assert read_metrics(tmp_path) == []
