"""ONNX graphs of a tracker, each compared with PyTorch in onnxruntime before it is kept.

Letters: B images or pairs, N proposals, S side of the crop, D width of the head; B and N are free in the graphs, S is fixed.
    backbone.onnx    image (B, 3, S, S) -> layer2, layer3
    modulation.onnx  layer2, layer3 of the ref image, box (B, 4) -> vector3, vector4 (B, D)
    prediction.onnx  vector3, vector4, layer2, layer3 of the test image, proposals (B, N, 4) -> prediction (B, N) or (B, N, 4)
Where ref and test have sizes of their own, backbone_ref.onnx and backbone_test.onnx take the place of backbone.onnx.
The refinement of boxes is in the one file of `models.deploy`, which an online tracker runs.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from configs.errors import RunError
from configs.files import write_atomic
from configs.schema import PairsConfig
from models.heads import Head
from models.tracker import HEAD_LAYERS, Tracker

OPSET = 17
TOLERANCE = 1e-4


class Graph(nn.Module):
    """One graph to export: a function of a part of the tracker, and the names of its inputs and outputs."""

    def __init__(self, part: nn.Module, function: Callable[..., Any], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.part, self.function, self.inputs, self.outputs = part, function, inputs, outputs

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self.part, *inputs)


def onnx_packages() -> tuple[Any, Any]:
    """The modules onnx and onnxruntime. RunError where one is missing."""
    try:
        import onnx
        import onnxruntime
    except ImportError as missing:
        raise RunError(f"expected the packages onnx and onnxruntime, found no {missing.name}; pip install onnx onnxruntime") from missing
    return onnx, onnxruntime


def _graphs(tracker: Tracker, pairs: PairsConfig) -> dict[str, Graph]:
    """The graphs by name."""
    head, vectors = tracker.bb_regressor, ("vector3", "vector4")
    backbone = Graph(tracker.feature_extractor, lambda backbone, image: _head_maps(backbone(image, HEAD_LAYERS)), ("image",), HEAD_LAYERS)
    return {
        **dict.fromkeys(_backbones(pairs), backbone),
        "modulation": Graph(head, Head.modulation, (*HEAD_LAYERS, "box"), vectors),
        "prediction": Graph(head, _predict, (*vectors, *HEAD_LAYERS, "proposals"), ("prediction",)),
    }


def _predict(head: Head, vector3: Tensor, vector4: Tensor, layer2: Tensor, layer3: Tensor, proposals: Tensor) -> Tensor:
    return head.predict((vector3, vector4), head.encode(layer2, layer3), proposals)


def _head_maps(maps: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(maps[layer] for layer in HEAD_LAYERS)


def _backbones(pairs: PairsConfig) -> tuple[str, ...]:
    """The graphs of the backbone: one where ref and test have one size, else one each."""
    return ("backbone",) if pairs.ref.size == pairs.test.size else ("backbone_ref", "backbone_test")


class Exported(NamedTuple):
    """One exported graph: `error` is the largest difference from PyTorch over the largest value, over all outputs and trials."""

    name: str
    path: Path
    megabytes: float
    error: float


def export(tracker: Tracker, folder: str | Path, pairs: PairsConfig) -> list[Exported]:
    """Writes the graphs (opset 17, float32) for pairs of that geometry into `folder`.

    RunError where onnx or onnxruntime are missing, or where a graph differs from PyTorch by more than 1e-4 of the largest value.
    """
    _, onnxruntime = onnx_packages()
    tracker = tracker.cpu().eval()
    # Another B and N than those of the trace: the free axes are tried too.
    trials = [_samples(tracker, pairs, count, number) for count, number in ((2, 16), (1, 5))]
    done = []
    for name, graph in _graphs(tracker, pairs).items():
        content = traced(graph, trials[0][name])
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        error = max(_difference(session, graph, inputs[name]) for inputs in trials)
        if not error <= TOLERANCE:
            raise RunError(
                f"expected {name}.onnx within {TOLERANCE} of PyTorch, found {error:.1e}; use other versions of onnxruntime or torch"
            )
        path = Path(folder) / f"{name}.onnx"
        write_atomic(path, content)
        done.append(Exported(name, path, len(content) / 1e6, error))
    return done


@torch.no_grad()
def _samples(tracker: Tracker, pairs: PairsConfig, count: int, number: int) -> dict[str, tuple[Tensor, ...]]:
    """Random inputs of every graph by name, each the PyTorch output of the graph before it."""
    generator = torch.Generator().manual_seed(count)
    images = [torch.randn(count, 3, image.size, image.size, generator=generator) for image in pairs.images]
    box, proposals = (
        image.size * (0.1 + 0.4 * torch.rand(count, boxes, 4, generator=generator))
        for image, boxes in zip(pairs.images, (1, number), strict=True)
    )
    ref, test = (tracker.features(image, HEAD_LAYERS) for image in images)
    vectors = tracker.modulation(ref, box[:, 0])
    backbones = {name: (image,) for name, image in zip(_backbones(pairs), images, strict=False)}
    return {**backbones, "modulation": (*_head_maps(ref), box[:, 0]), "prediction": (*vectors, *_head_maps(test), proposals)}


def traced(graph: Graph, inputs: tuple[Tensor, ...]) -> bytes:
    """The ONNX file of a graph, its first axes free and of what belongs to boxes the second too; a number (step) has none."""
    axes: dict[str, dict[int, str]] = {name: {0: "B"} for name in (*graph.inputs, *graph.outputs) if name != "step"}
    for name in ("proposals", "prediction", "boxes", "refined", "predicted"):
        if name in axes:
            axes[name][1] = "N"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The newer exporter needs one package more and gains nothing here: these graphs have no control flow.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        path = Path(folder) / "graph.onnx"
        torch.onnx.export(
            graph.eval(),
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
    outputs = session.run(None, {name: tensor.numpy() for name, tensor in zip(graph.inputs, inputs, strict=True)})
    expected = graph(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    return max(float((torch.from_numpy(a) - b).abs().max() / b.abs().max()) for a, b in zip(outputs, expected, strict=True))
