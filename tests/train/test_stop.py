"""SIGTERM in the middle of an epoch: a checkpoint of that very step, one line, and the rest as if nothing had been."""

from __future__ import annotations

import os
import signal

import pytest

import train.__main__
from configs import cli
from train import checkpoint, halt
from train.halt import GO_ON, KEEP, Halt
from train.log import PICTURES
from train.loop import PhaseLoop
from train.reports import run_folder
from train.run import run


def test_sigterm_ends_training_between_two_steps_with_a_checkpoint(world, tmp_path, monkeypatch, capsys):
    config = world.config("train.check_pairs=0", "train.val_batches=1", "train.epochs=1", setting="gt", runs=tmp_path)
    monkeypatch.setattr(train.__main__.configs, "load", lambda setting, overrides: config)
    plain = PhaseLoop.one_step

    def one_step(self, batch, meter):
        if self.position.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        plain(self, batch, meter)

    folder = run_folder.folder_of(config)
    folder.mkdir(parents=True)
    remains = [folder / f".{name}.0123456789abcdef.tmp" for name in (checkpoint.FILE, "config.yaml")]
    (folder / PICTURES).mkdir()
    remains.append(folder / PICTURES / ".epoch0001.png.0123456789abcdef.tmp")
    for path in remains:
        path.write_bytes(b"of a killed run")
    with monkeypatch.context() as patch:
        patch.setattr(PhaseLoop, "one_step", one_step)
        assert cli.run(train.__main__.main, ["run", "--setting", "gt"], "teachonce train") == 143
    said = "stopped by SIGTERM, the checkpoint after step 3 is kept; run the same command again to go on: teachonce train run --setting gt"
    assert capsys.readouterr().err == f"error: {said}\n"
    kept = checkpoint.load(folder)
    assert kept is not None and (kept.position.step, kept.position.epoch_step, kept.position.epoch) == (3, 3, 0)
    assert not any(path.exists() for path in remains)
    assert cli.run(train.__main__.main, ["run", "--setting", "gt"]) == 0
    assert "goes on after epoch 0 (step 3, 3 steps into the next)" in capsys.readouterr().out


def test_a_checkpoint_within_an_epoch_is_written_when_the_last_is_old(world, tmp_path, monkeypatch):
    now, saved = [0.0], []
    monkeypatch.setattr(halt.time, "monotonic", lambda: now[0])
    save, plain = checkpoint.save, PhaseLoop.one_step
    monkeypatch.setattr(checkpoint, "save", lambda folder, position, *rest: saved.append(position.step) or save(folder, position, *rest))

    def one_step(self, batch, meter):
        now[0] += 40
        plain(self, batch, meter)

    monkeypatch.setattr(PhaseLoop, "one_step", one_step)
    options = ("train.check_pairs=0", "train.val_batches=1", "train.pictures=0", "train.epochs=2", "train.batches=5")
    run(world.config(*options, "train.checkpoint_minutes=1", setting="gt", runs=tmp_path))
    assert saved == [2, 4, 5, 7, 9, 10]


@pytest.mark.parametrize(("minutes", "later"), [(None, GO_ON), (2.0, KEEP)])
def test_without_minutes_there_is_no_checkpoint_within_an_epoch(monkeypatch, minutes, later):
    now = [0.0]
    monkeypatch.setattr(halt.time, "monotonic", lambda: now[0])
    asked = Halt(minutes, 1)
    assert asked.ask() == GO_ON
    now[0] = 121
    assert asked.ask() == later
    asked.kept()
    assert asked.ask() == GO_ON
