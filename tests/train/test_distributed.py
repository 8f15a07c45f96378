"""Two processes, one run: the same losses as one process."""

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
from train.log import read_metrics
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
run(configs.read(Path(sys.argv[1])))
"""


def test_two_processes_follow_the_curve_of_one(world, tmp_path, monkeypatch):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this build of PyTorch has no gloo")
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path / "config.yaml")],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    monkeypatch.setattr(Students, "train", lambda self, mode=True: nn.Module.train(self, False))
    alone = read_metrics(run(world.config(*options, "train.freeze=[]", setting="ts_ah_fid", runs=tmp_path / "one")))
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert "run: " in outputs[0] and "run: " not in outputs[1]
    together = read_metrics(tmp_path / "two" / "ts_ah_fid" / "seed0")
    assert [line["step"] for line in together] == [line["step"] for line in alone]
    for two, one in zip(together, alone, strict=True):
        assert two["terms"] == pytest.approx(one["terms"], rel=1e-3)
        assert one["kind"] == two["kind"]
        assert one["kind"] == "train" or two["iou_error"] == pytest.approx(one["iou_error"], rel=1e-4)
    before, after = (line["loss"] for line in alone if line["kind"] == "val")
    assert before != after
