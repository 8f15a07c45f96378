"""Checkpoints, results and students that are damaged on the disk are never used; the checkpoint before is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import models
from bench.torture.damage import NO_FILE
from configs import RunError
from configs.errors import TeachOnceError
from train import checkpoint
from train.checkpoint import FILE, PREVIOUS, Position
from train.reports import run_folder


def write(folder: Path, step: int) -> nn.Module:
    """A checkpoint of a small network whose weights tell the step."""
    network, objective = nn.Linear(3, 2), nn.Linear(1, 1)
    with torch.no_grad():
        network.weight.fill_(step)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    meter = {"names": ["a"], "rows": torch.full((2, 1), float(step)), "cached": 2, "online": 0, "spent": 0.5, "waited": 0.1}
    position = Position(epoch=1, step=step, epoch_step=2, inputs={"train": "abc"})
    checkpoint.save(folder, position, network, objective, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 3), meter)
    return network


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with one flipped bit, cut short, or with a byte more."""
    at, kind = int(rng.integers(len(content))), rng.integers(4)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + bytes([int(rng.integers(256))]) + content[at:]
    return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]


def test_a_damaged_checkpoint_is_never_used_and_the_one_before_is(tmp_path):
    write(tmp_path, 10)
    older = write(tmp_path, 20).state_dict()
    write(tmp_path, 30)
    whole = (tmp_path / FILE).read_bytes()
    rng = np.random.default_rng(0)
    for content in (damaged(whole, rng) for _ in range(300)):
        (tmp_path / FILE).write_bytes(content)
        loaded = checkpoint.load(tmp_path)
        assert loaded is not None and loaded.position.step == (30 if content == whole else 20)
        assert content == whole or (loaded.note.endswith("goes on from the one before, after step 20") and "\n" not in loaded.note)
        assert content == whole or torch.equal(loaded.state["students"]["weight"], older["weight"])
    (tmp_path / PREVIOUS).write_bytes(damaged((tmp_path / PREVIOUS).read_bytes(), rng))
    (tmp_path / FILE).write_bytes(whole[:-1])
    with pytest.raises(RunError, match=r"checkpoint\.pt: expected .*; .*checkpoint\.previous\.pt: expected .*; delete .* or put a copy"):
        checkpoint.load(tmp_path)


def test_killed_between_two_files_a_run_has_the_older_and_keeps_it(tmp_path):
    assert checkpoint.load(tmp_path) is None
    write(tmp_path, 10)
    (tmp_path / FILE).rename(tmp_path / PREVIOUS)
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None and loaded.position == Position(epoch=1, step=10, epoch_step=2, inputs={"train": "abc"})
    assert "found none; goes on from the one before, after step 10" in loaded.note
    # a damaged latest one must not push out the one that is gone on from
    (tmp_path / FILE).write_bytes(b"damaged")
    checkpoint.adopt(loaded)
    write(tmp_path, 11)
    (tmp_path / FILE).unlink()
    again = checkpoint.load(tmp_path)
    assert again is not None and again.position.step == 10 and {path.name for path in tmp_path.iterdir()} == {PREVIOUS}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"version": 9}, "expected a checkpoint of version 3, found version 9"),
        ({"version": 2, "position": {"step": 1, "strange": 2}}, "found a file that does not load"),
        ({"version": 2, "position": {"step": "1"}}, "found no position in it"),
        ({"version": 3, "position": {}}, "found one cut short"),
        ([1, 2], "found a file that does not load"),
    ],
)
def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path, state, message):
    torch.save(state, tmp_path / FILE)
    with pytest.raises(RunError, match=message):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("what", NO_FILE)
def test_what_is_no_file_is_no_checkpoint(tmp_path, what):
    for step in (1, 2):
        write(tmp_path, step)
    (tmp_path / FILE).unlink()
    NO_FILE[what](tmp_path / FILE)
    found = checkpoint.load(tmp_path)
    assert found is not None and found.path.name == PREVIOUS and f"{FILE}: expected a checkpoint, found " in found.note
    (tmp_path / PREVIOUS).unlink()
    with pytest.raises(RunError, match=r"expected a checkpoint, found .*; delete .* to start the run anew"):
        checkpoint.load(tmp_path)


def test_a_checkpoint_of_before_is_read_and_anothers_weights_are_refused(tmp_path):
    torch.save({"version": 2, "position": {"epoch": 3, "step": 9}, "students": {}}, tmp_path / FILE)
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None and loaded.position == Position(epoch=3, step=9) and not loaded.note
    with pytest.raises(RunError, match=r"expected the weights and random state of this run, found others \(.*Missing key"):
        checkpoint.restore(loaded.state, nn.Linear(1, 1))
    with pytest.raises(RunError, match="expected the objective, optimizer and schedule of this run, found others"):
        checkpoint.restore_phase(loaded.state, nn.Linear(1, 1), *([None] * 2))  # type: ignore[arg-type]


def test_a_damaged_result_or_student_is_refused(tmp_path):
    result = {"steps": 12, "after": {"iou_error": 0.125}, "setting": "gt"}
    run_folder.write_result(tmp_path, result)
    assert run_folder.result_of(tmp_path) == result
    student = tmp_path / "student.safetensors"
    models.save_weights({"a.weight": torch.arange(24.0), "a.steps": torch.tensor(3)}, student, metadata={"setting": "gt"})
    right = models.read_state(student)
    rng = np.random.default_rng(1)
    for path, read in (
        (tmp_path / run_folder.RESULT, lambda: run_folder.result_of(tmp_path)),
        (student, lambda: models.read_state(student)),
    ):
        whole, expected = path.read_bytes(), read()
        for _ in range(150):
            path.write_bytes(damaged(whole, rng))
            try:
                found = read()
            except TeachOnceError:
                continue
            # a flip in the name of the seal, or in the spaces that fill the header, changes no number and no word
            assert strip(found) == strip(expected), path.read_bytes()
        path.write_bytes(whole)
    assert models.read_state(student)[0].keys() == right[0].keys()
    # results that were written before have no SHA-256
    (tmp_path / run_folder.RESULT).write_text(json.dumps(result))
    assert run_folder.result_of(tmp_path) == result


def strip(found: object) -> object:
    """What was read, tensors as lists, without what only tells the seal."""
    if isinstance(found, tuple):
        state, metadata = found
        return {name: tensor.tolist() for name, tensor in state.items()}, {key: metadata.get(key) for key in ("setting", "file")}
    assert isinstance(found, dict)
    return {key: found.get(key) for key in ("steps", "after", "setting")}
