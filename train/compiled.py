"""Whether a step is compiled, and what becomes of it where the compiler fails."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from configs import RunError
from configs.schema import TrainConfig

# Compiling a step took about half a minute on two cores and saves a tenth to a fifth of it; on a GPU, which waits for launches, more.
LONG = {"cpu": 5e13, "cuda": 3e14}
"""Kind of device -> multiply-adds of the forward passes of a run (pairs times those of one) that compiling pays from."""


def choose(config: TrainConfig, device: torch.device, processes: int, work: float) -> tuple[bool, str]:
    """Whether to compile, and why in one line. work: multiply-adds of the run's forward passes, see `LONG`."""
    if config.compile != "auto":
        return config.compile, f"train.compile={str(config.compile).lower()}"
    if processes > 1:
        return False, "several processes (train.compile=true compiles all the same)"
    if work < LONG[device.type]:
        return False, "the run is too short to win back half a minute of compiling (train.compile=true compiles all the same)"
    if missing := missing_for(device):
        return False, f"no {missing} here"
    return True, "the run is long (train.compile=false leaves it out)"


def missing_for(device: torch.device) -> str:
    """What a compiler of this kind of device lacks on this machine; "" where it is all there."""
    named = shlex.split(os.environ.get("CXX", ""))[:1]
    if not any(shutil.which(name) for name in named or ("g++", "clang++", "c++")):
        return "C++ compiler"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "header files of Python (Python.h)"
    return "Triton" if device.type == "cuda" and importlib.util.find_spec("triton") is None else ""


class CompiledStep(nn.Module):
    """A step behind torch.compile. Where its first call fails: with `required` a RunError, else a line, and it goes on uncompiled."""

    def __init__(self, step: nn.Module, required: bool, say: Callable[[str], None], backend: str | Callable[..., Any] = "inductor") -> None:
        super().__init__()
        self.step = step
        self.required, self.say = required, say
        self.call: Callable[..., Any] = torch.compile(step, backend=backend)
        self.proven = False

    def forward(self, *arguments: Any) -> Any:
        """As the step's."""
        if self.proven:
            return self.call(*arguments)
        try:
            result = self.call(*arguments)
        # whatever dynamo, inductor, a C++ compiler or Triton may raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            if self.required:
                raise RunError(f"train.compile: expected a step that compiles, found {reason!r}; set train.compile=false") from error
            self.say(f"compile: failed ({reason}); goes on without")
            self.call, result = self.step, self.step(*arguments)
        self.proven = True
        return result
