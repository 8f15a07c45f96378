"""Which device is taken, and what is said where a GPU is there and not used."""

from __future__ import annotations

import pytest
import torch

from configs import RequestError
from models import device, pick_device


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(device, "Path", lambda file: file_that(exists=False))
    return monkeypatch


def file_that(exists: bool):
    return type("File", (), {"exists": lambda self: exists})()


def test_auto_without_any_gpu_says_nothing(no_cuda, capsys):
    assert pick_device("auto") == torch.device("cpu") and capsys.readouterr().err == ""


def test_auto_beside_a_gpu_that_torch_cannot_use_warns_in_one_line(no_cuda, capsys):
    no_cuda.setattr(device, "Path", lambda file: file_that(exists=True))
    assert pick_device("auto", "--device") == torch.device("cpu")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: --device=auto: expected a GPU that torch ") and "found NVIDIA's driver and no CUDA" in line
    assert pick_device("cpu") == torch.device("cpu") and capsys.readouterr().err == "", "a processor that was asked for is no surprise"


def test_apples_gpu_is_refused_by_name_and_named_by_auto(no_cuda, capsys):
    no_cuda.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cpu") and "found Apple's GPU, which is not supported" in capsys.readouterr().err
    with pytest.raises(RequestError, match=r"train\.device: expected auto, cpu, cuda or cuda:n, found 'mps'; correct it"):
        pick_device("mps")
