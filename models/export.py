"""ONNX graphs of a tracker, each compared with PyTorch in onnxruntime before it is kept.

Letters: B images or pairs, N proposals, S side of the crop, D width of the head; B and N are free in the graphs, S is fixed.
    backbone.onnx    image (B, 3, S, S) -> layer2, layer3
    modulation.onnx  layer2, layer3, box (B, 4) -> vector3, vector4 (B, D)
    prediction.onnx  vector3, vector4, layer2, layer3, proposals (B, N, 4) -> prediction (B, N) or (B, N, 4)
The gradient of a prediction in the box, which ATOM's refinement climbs, is no graph: it stays PyTorch's.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from configs.errors import RunError
from configs.files import write_atomic
from models.tracker import HEAD_LAYERS, Tracker

OPSET = 17
TOLERANCE = 1e-4


class BackboneGraph(nn.Module):
    """image -> layer2, layer3."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self.backbone = tracker.feature_extractor

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        maps = self.backbone(image, HEAD_LAYERS)
        return tuple(maps[layer] for layer in HEAD_LAYERS)


class ModulationGraph(nn.Module):
    """layer2, layer3, box -> the two modulation vectors."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self.head = tracker.bb_regressor

    def forward(self, layer2: Tensor, layer3: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        return self.head.modulation(layer2, layer3, box)


class PredictionGraph(nn.Module):
    """vectors, layer2, layer3, proposals -> predictions."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self.head = tracker.bb_regressor

    def forward(self, vector3: Tensor, vector4: Tensor, layer2: Tensor, layer3: Tensor, proposals: Tensor) -> Tensor:
        return self.head.predict((vector3, vector4), self.head.encode(layer2, layer3), proposals)


class Graph(NamedTuple):
    """One graph to export: its module, names of inputs and outputs."""

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Exported(NamedTuple):
    """One exported graph: `error` is the largest difference from PyTorch over the largest value, over all outputs and trials."""

    name: str
    path: Path
    megabytes: float
    error: float


def export(tracker: Tracker, folder: str | Path, crop_size: int = 288) -> list[Exported]:
    """Writes the three graphs (opset 17, float32) into `folder`.

    RunError where onnx or onnxruntime are missing, or where a graph differs from PyTorch by more than 1e-4 of the largest value.
    """
    try:
        import onnx  # noqa: F401  (the exporter checks its graph with it)
        import onnxruntime
    except ImportError as missing:
        raise RunError(f"expected the packages onnx and onnxruntime, found no {missing.name}; pip install onnx onnxruntime") from missing
    tracker = tracker.cpu().eval()
    graphs = (
        Graph("backbone", BackboneGraph(tracker), ("image",), HEAD_LAYERS),
        Graph("modulation", ModulationGraph(tracker), (*HEAD_LAYERS, "box"), ("vector3", "vector4")),
        Graph("prediction", PredictionGraph(tracker), ("vector3", "vector4", *HEAD_LAYERS, "proposals"), ("prediction",)),
    )
    done = []
    for graph in graphs:
        content = _traced(graph, _samples(tracker, crop_size, 2, 16)[graph.name])
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        # Another B and N than those of the trace: the free axes are tried too.
        trials = [_samples(tracker, crop_size, pairs, number)[graph.name] for pairs, number in ((2, 16), (1, 5))]
        error = max(_difference(session, graph, inputs) for inputs in trials)
        if not error <= TOLERANCE:
            raise RunError(
                f"expected {graph.name}.onnx within {TOLERANCE} of PyTorch, found {error:.1e}; use other versions of onnxruntime or torch"
            )
        path = Path(folder) / f"{graph.name}.onnx"
        write_atomic(path, content)
        done.append(Exported(graph.name, path, len(content) / 1e6, error))
    return done


@torch.no_grad()
def _samples(tracker: Tracker, crop_size: int, pairs: int, number: int) -> dict[str, tuple[Tensor, ...]]:
    """Random inputs of every graph by name, each the PyTorch output of the graph before it."""
    generator = torch.Generator().manual_seed(pairs)
    images = torch.randn(pairs, 3, crop_size, crop_size, generator=generator)
    boxes = crop_size * (0.1 + 0.4 * torch.rand(pairs, number, 4, generator=generator))
    maps = tracker.features(images, HEAD_LAYERS)
    both = tuple(maps[layer] for layer in HEAD_LAYERS)
    vectors = tracker.modulation(maps, boxes[:, 0])
    return {"backbone": (images,), "modulation": (*both, boxes[:, 0]), "prediction": (*vectors, *both, boxes)}


def _traced(graph: Graph, inputs: tuple[Tensor, ...]) -> bytes:
    axes: dict[str, dict[int, str]] = {name: {0: "B"} for name in (*graph.inputs, *graph.outputs)}
    for name in ("proposals", "prediction"):
        if name in axes:
            axes[name][1] = "N"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The newer exporter needs one package more and gains nothing here: these graphs have no control flow.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        path = Path(folder) / "graph.onnx"
        torch.onnx.export(
            graph.module.eval(),
            inputs,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes=axes,
        )
        return path.read_bytes()


@torch.no_grad()
def _difference(session: Any, graph: Graph, inputs: Sequence[Tensor]) -> float:
    """Largest difference between onnxruntime and PyTorch over the largest PyTorch value."""
    found = session.run(None, {name: tensor.numpy() for name, tensor in zip(graph.inputs, inputs, strict=True)})
    expected = graph.module(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    return max(float((torch.from_numpy(a) - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))
