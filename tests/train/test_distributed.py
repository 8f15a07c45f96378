"""Two processes, one run: the same losses as one process; they stop together, and the end of one is the end of both."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import configs
from train import checkpoint
from train.log import read_metrics
from train.reports import run_folder
from train.run import run
from train.students import Students

ROOT = Path(__file__).parents[2]
# Batch statistics of half a batch are not those of the whole (on GPUs SyncBatchNorm mends that): here BatchNorm stays in eval mode.
WORKER = """
import sys
import torch
from torch import nn
import configs
from pathlib import Path
from train.run import run
from train.students import Students
torch.set_num_threads(1)
Students.train = lambda self, mode=True: nn.Module.train(self, False)
"""
RUNS = WORKER + "run(configs.read(Path(sys.argv[1])))\n"
# of the second process: a signal at step 2 of one run, a kill at step 2 of the next
ENDS = (
    WORKER
    + """
import os, signal
from configs.stop import Stopped
from train.loop import PhaseLoop
plain, second = PhaseLoop.one_step, os.environ["RANK"] == "1"
def one_step(self, batch, meter):
    if second and self.position.step == 2:
        os.kill(os.getpid(), signal.SIGTERM if "stopped" in str(self.setup.folder) else signal.SIGKILL)
    plain(self, batch, meter)
PhaseLoop.one_step = one_step
try:
    run(configs.read(Path(sys.argv[1])))
except Stopped as stopped:
    print("stopped", stopped.exit_code, stopped.kept, flush=True)
try:
    run(configs.read(Path(sys.argv[2])))
except configs.RunError as error:
    print("failed", error, flush=True)
    os._exit(1)
"""
)


def start(script: str, *words: str) -> list[subprocess.Popen[str]]:
    """Two processes of one group, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", script, *words],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]


@pytest.fixture(autouse=True)
def _gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this build of PyTorch has no gloo")
    monkeypatch.setattr(Students, "train", lambda self, mode=True: nn.Module.train(self, False))


def test_two_processes_follow_the_curve_of_one(world, tmp_path):
    # terms that are means over pairs, hence the same whether taken over halves or over the whole
    options = (
        "losses.adaptive_hard=null",
        "train.epochs=1",
        "train.log_every=1",
        "train.lr=0.00001",
        "train.pictures=0",
        "train.val_batches=4",
    )
    both = world.config(*options, "train.freeze=[]", setting="ts_ah_fid", runs=tmp_path / "two")
    (tmp_path / "config.yaml").write_text(configs.dump(both))
    started = start(RUNS, str(tmp_path / "config.yaml"))
    alone = read_metrics(run(world.config(*options, "train.freeze=[]", setting="ts_ah_fid", runs=tmp_path / "one")))
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert "run: " in outputs[0] and "run: " not in outputs[1]
    together = read_metrics(tmp_path / "two" / "ts_ah_fid" / "seed0")
    same(together, alone)
    before, after = (line["loss"] for line in alone if line["kind"] == "val")
    assert before != after


def same(these: list[dict], those: list[dict]) -> None:
    assert [line["step"] for line in these] == [line["step"] for line in those]
    for one, other in zip(these, those, strict=True):
        assert one["terms"] == pytest.approx(other["terms"], rel=1e-3)
        assert one["kind"] == other["kind"]
        assert one["kind"] == "train" or one["iou_error"] == pytest.approx(other["iou_error"], rel=1e-4)


def test_a_signal_to_one_process_stops_both_at_one_step_and_the_death_of_one_ends_both(world, textured, filled, tmp_path):
    """In a phase whose deepest layer gets no gradient, with one pair to validate on, and gone on with by one process."""
    phases = "phases=[{epochs: 1, freeze: [head], losses: {fidelity: {weight: 1, layers: [layer2]}}}]"
    options = (phases, "train.log_every=3", "train.lr=0.00001", "train.pictures=0", "train.check_pairs=0", "pairs.val_count=1")
    caches = tmp_path / "caches"
    caches.mkdir()
    (caches / "train").symlink_to(world.folder / "caches" / "train")
    plain = world.config("pairs.val_count=1")
    filled(plain, "val", caches / "val", world.teacher(), ("iou", "abs_sum"))
    made = {
        name: world.config(*options, f"cache_dir={caches}", setting="sep", runs=tmp_path / name) for name in ("stopped", "killed", "alone")
    }
    for name in ("stopped", "killed"):
        (tmp_path / f"{name}.yaml").write_text(configs.dump(made[name]))
    started = start(ENDS, str(tmp_path / "stopped.yaml"), str(tmp_path / "killed.yaml"))
    alone = read_metrics(run(made["alone"]))
    outputs = [process.communicate(timeout=120)[0] for process in started]
    for output in outputs:
        assert "stopped 143 the checkpoint after step 3 is kept\n" in output, outputs
    assert [process.returncode for process in started] == [1, -9], outputs
    assert "failed process 0: expected 2 processes, found another one gone" in outputs[0]
    folder = run_folder.folder_of(made["stopped"])
    kept = checkpoint.load(folder)
    assert kept is not None and kept.position.epoch_step == 3
    assert run(made["stopped"]) == folder
    same(read_metrics(folder), alone)
