"""Parts as tasks of Ray: an actor that is killed is started again, and its part with it. Skipped where Ray is not installed."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import models
import precompute.__main__
import precompute.request
from cache import Cache
from cache.owner import Held
from cache.verify import verify
from configs.cli import run
from configs.load import load
from precompute.request import Request
from precompute.run import make_caches
from tests.compare import digests

TEACHER = "atom_resnet18tiny"
WORDS = ["pairs.ref.size=32", "pairs.test.size=32", "pairs.proposals=4", "pairs.min_frames=4", "pairs.count=26", "recut_pairs=0"]
WORDS += [f"teacher.architecture={TEACHER}", "teacher.batch=4", "train.feed=torch"]


@pytest.fixture
def request_in(write_got10k, tmp_path, monkeypatch):
    """(folder): a request for a cache of seven parts there; the data set and the teacher lie here."""
    pytest.importorskip("ray", reason="ray is not installed")
    torch.set_num_threads(1)
    write_got10k(tmp_path / "got10k", [8, 8], size=(64, 48))
    torch.manual_seed(0)
    models.save_weights(models.build(TEACHER), tmp_path / "teacher.safetensors")
    monkeypatch.setenv("GOT10K_ROOT", str(tmp_path / "got10k"))
    monkeypatch.setenv("PYTHONPATH", str(Path(precompute.__file__ or precompute.request.__file__).parents[1]))
    for name, value in (("PART", 4), ("CHUNK", 2)):
        monkeypatch.setattr(precompute.request, name, value)

    def made(folder: str, *words: str) -> Request:
        given = [f"cache_dir={tmp_path / folder}", f"teacher.weights={tmp_path / 'teacher.safetensors'}", *words]
        return Request(load("ts", [*WORDS, *given]), "got10k", ("train",), "iou abs_sum", device="cpu", threads=1)

    return made


def test_an_actor_that_is_killed_loses_nothing(request_in, tmp_path):
    from precompute.ray_engine import Pool

    make_caches(request_in("peace"))
    killed: list[int] = []

    def kill() -> None:
        """The process that makes a part."""
        for _ in range(6000):
            for claim in (tmp_path / "ray").glob("*/ledger/claims/*"):
                held = Held.parsed(claim.read_bytes()) if claim.exists() else None
                if held is not None:
                    killed.append(int(held.owner.split("-")[1]))
                    os.kill(killed[0], signal.SIGKILL)
                    return
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    with Pool(request_in("ray"), actors=2) as pool:
        killer.start()
        make_caches(request_in("ray"), pool)
    killer.join()
    assert killed and killed[0] != os.getpid()
    (made,) = (tmp_path / "ray").iterdir()
    assert digests(made) == digests(tmp_path / "peace" / made.name) and verify(Cache.open(made)) == []


def test_what_an_actor_meets_comes_back_as_a_line(request_in, tmp_path):
    from precompute.ray_engine import Failed, Worker

    (one,) = request_in("ray").pair_sets
    path = precompute.request.create(one.path, one.spec).path
    worker = Worker(request_in("ray"))
    assert worker.ready() == os.getpid()
    (path / "ledger/claims").mkdir()
    (path / "ledger/claims/00001.0").write_bytes(Held("0123456789ab-1-1", time.time(), 60.0).text())
    assert worker.make("got10k", "train", path, 1) is None, "another is at it"
    failed = worker.make("got10k", "train", path.with_name("nothing"), 1)
    assert isinstance(failed, Failed) and failed.exit_code == 2 and "expected a cache, found nothing" in failed.line
    other = replace(request_in("ray"), config=request_in("ray", "teacher.architecture=atom_resnet18small").config)
    refused = Worker(other).ready()
    assert isinstance(refused, Failed) and refused.exit_code == 2 and "teacher.safetensors" in refused.line


@pytest.mark.parametrize(
    ("nodes", "device", "wanted", "expected"),
    [
        ([{"CPU": 16, "GPU": 8}, {"CPU": 64}, {"CPU": 32, "GPU": 2}], "auto", None, (10, {"num_gpus": 1, "num_cpus": 2})),
        ([{"CPU": 16, "GPU": 2}], "cuda", 3, (3, {"num_gpus": 0.5, "num_cpus": 4})),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 4}], "cpu", None, (2, {"num_cpus": 4})),
        ([{"CPU": 2}], "auto", 5, (5, {"num_cpus": 1})),
    ],
)
def test_actors_fit_the_nodes(nodes, device, wanted, expected):
    pytest.importorskip("ray", reason="ray is not installed")
    from precompute.ray_engine import shape

    assert shape(nodes, device, wanted) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine", "ray", "--share", "0/2"], "--engine ray: expected neither --share nor torchrun"),
        (["--engine", "ray", "--device", "cuda:1"], "--engine ray: expected --device auto, cpu or cuda, found 'cuda:1'"),
        (["--actors", "2"], "--actors: expected --engine ray beside it"),
        (["--engine", "ray"], "--engine ray: expected the package ray, found none; pip install 'teachonce[ray]'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words, said, monkeypatch, capsys):
    monkeypatch.setattr(precompute.__main__.importlib.util, "find_spec", lambda name: None)
    assert run(precompute.__main__.main, ["cache", "--dataset", "demo", *words]) == 2
    assert said in capsys.readouterr().err
