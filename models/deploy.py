"""A tracker's network as one ONNX file, the refinement of boxes included: what an online tracker runs without PyTorch's networks.

Letters: B images, N boxes, S side of the crop, D width of the head; B and N are free. Boxes (x, y, w, h), crop pixels.
The file is one graph of three parts, which `sessions` takes out again:
    backbone    image (B, S, S, 3) uint8 RGB -> layer2, layer3
    modulation  layer2, layer3 of the first frame, box (B, 4) -> vector3, vector4 (B, D)
    refinement  target3, target4 (those vectors), layer2, layer3 of this frame, boxes (B, N, 4), step (pixels)
                -> refined (B, N, 4) and, of ATOM, predicted (B, N); STEPS steps of the ascent
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from configs.architectures import ARCHITECTURES
from configs.errors import RequestError
from configs.files import write_atomic
from models.ascent import Ascent
from models.export import Graph, onnx_packages, traced
from models.heads import Head
from models.inference import HeadMaps, Lines
from models.refine import boxes_of_numbers, climb
from models.tracker import HEAD_LAYERS, Tracker

STEPS = 5
"""Steps of the ascent in the file."""
Precision = Literal["float32", "float16", "int8"]
PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "backbone": (("image",), HEAD_LAYERS),
    "modulation": ((*HEAD_LAYERS, "box"), ("vector3", "vector4")),
    "refinement": (("target3", "target4", *HEAD_LAYERS, "boxes", "step"), ("refined", "predicted")),
}
"""Part -> its inputs and outputs."""
_SMALL = 256
"""Numbers of a tensor that is not worth storing as float16."""


@dataclass(frozen=True)
class Facts:
    """What a file says of itself."""

    architecture: str
    size: int
    """S"""
    precision: str
    numbers: int
    """1: ATOM, 4: DRNet"""
    setting: str
    """that it was trained with; empty where unknown"""


def deploy(
    tracker: Tracker, path: Path, size: int, precision: Precision = "float32", crops: Iterable[np.ndarray] = (), setting: str = ""
) -> None:
    """Writes the file for crops of that size; setting: the one that the network was trained with.

    float16: parameters are stored in half the bytes and computed with in float32. int8: the backbone computes in 8 bits, calibrated on
    crops (S, S, 3) uint8 RGB; what is learnt of boxes stays float32, for its gradient.
    RequestError: int8 without crops. RunError: onnx or onnxruntime are missing.
    """
    onnx, _ = onnx_packages()
    crops = list(crops)
    if precision == "int8" and not crops:
        raise RequestError("int8: expected crops to calibrate on, found none; give --cache CACHE or --images DIR")
    tracker = tracker.cpu().eval()
    graphs, inputs = _graphs(tracker), _inputs(tracker, size)
    models = {name: onnx.load_model_from_string(traced(graphs[name], inputs[name])) for name in PARTS}
    if precision == "int8":
        models["backbone"] = _quantised(models["backbone"], crops)
    whole = _joined(models)
    if precision == "float16":
        halve(whole)
    facts = {"architecture": tracker.architecture, "size": size, "precision": precision, "numbers": tracker.numbers, "setting": setting}
    said = {key: str(value) for key, value in facts.items()}
    onnx.helper.set_model_props(whole, {**said, "sha256": _seal(whole, said)})
    onnx.checker.check_model(whole)
    write_atomic(path, whole.SerializeToString())


def read_deployed(path: Path) -> tuple[Any, Facts]:
    """The model of a file and what it says of itself. RequestError: no such file, another one, or a damaged one."""
    onnx, _ = onnx_packages()
    if not path.is_file():
        raise RequestError(f"expected an ONNX file, found {'a folder' if path.is_dir() else 'nothing'} at {path}; correct the path")
    try:
        model = onnx.load(path)
        said = {item.key: item.value for item in model.metadata_props}
        seal = said.pop("sha256", None)  # files of before have none
        if seal not in (None, _seal(model, said)) or ARCHITECTURES[said["architecture"]].numbers != int(said["numbers"]):
            raise ValueError("another content than was written")
        return model, Facts(said["architecture"], int(said["size"]), said["precision"], int(said["numbers"]), said["setting"])
    except Exception as error:  # protobuf's own errors have no common base
        raise RequestError(
            f"expected a tracker in one ONNX file, found {path}, which is none or damaged; make it with `models deploy`"
        ) from error


def _seal(model: Any, said: Mapping[str, str]) -> str:
    """SHA-256 of what a model computes and says of itself, whichever version of protobuf wrote it."""
    onnx, _ = onnx_packages()
    array, value_of = onnx.numpy_helper.to_array, onnx.helper.get_attribute_value
    seal = hashlib.sha256(repr(sorted(said.items())).encode())
    for tensor in model.graph.initializer:
        seal.update(tensor.name.encode() + array(tensor).tobytes())
    for node in model.graph.node:
        seal.update(repr((node.op_type, list(node.input), list(node.output))).encode())
        for attribute in sorted(node.attribute, key=lambda one: one.name):
            value = value_of(attribute)
            content = array(value).tobytes() if isinstance(value, onnx.TensorProto) else repr(value).encode()
            seal.update(attribute.name.encode() + content)
    return seal.hexdigest()


def sessions(path: Path, providers: Sequence[str] = ("CPUExecutionProvider",)) -> tuple[dict[str, Any], Facts]:
    """Part -> its onnxruntime session, on as many threads as PyTorch has; and what the file says of itself.

    RequestError: as `read_deployed`, or onnxruntime refuses it.
    """
    _, onnxruntime = onnx_packages()
    model, facts = read_deployed(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        found = {
            name: onnxruntime.InferenceSession(content, options, providers=list(providers))
            for name, content in _parts(model, facts).items()
        }
        wrong = found["backbone"].get_inputs()[0].shape[1:] != [facts.size, facts.size, 3]
    except Exception as error:  # what onnx and onnxruntime raise has no common base
        raise RequestError(
            f"{path}: expected a tracker that onnxruntime can run, found a damaged one; make it with `models deploy`"
        ) from error
    if wrong:
        raise RequestError(f"{path}: expected crops of {facts.size} as it says, found a graph of others; make it with `models deploy`")
    return found, facts


def _parts(model: Any, facts: Facts) -> dict[str, bytes]:
    """Part -> an ONNX model of it: what `_joined` has put together, told apart by the prefix of all names within a part."""
    onnx, _ = onnx_packages()
    graph = model.graph
    met = {value.name: value for value in (*graph.input, *graph.output)}
    wanted = dict(PARTS)
    if facts.numbers == 4:
        wanted["refinement"] = (tuple(name for name in PARTS["refinement"][0] if name != "step"), ("refined",))
    found = {}
    for part, (inputs, outputs) in wanted.items():
        nodes = [node for node in graph.node if any(name.startswith(f"{part}/") or name in outputs for name in node.output)]
        tensors = [tensor for tensor in graph.initializer if tensor.name.startswith(f"{part}/")]
        own = onnx.helper.make_graph(nodes, part, [met[name] for name in inputs], [met[name] for name in outputs], tensors)
        found[part] = onnx.helper.make_model(own, opset_imports=model.opset_import, ir_version=model.ir_version).SerializeToString()
    return found


def _graphs(tracker: Tracker) -> dict[str, Graph]:
    head = tracker.bb_regressor

    def refinement(part: Any, target3: Tensor, target4: Tensor, layer2: Tensor, layer3: Tensor, boxes: Tensor, step: Any) -> Any:
        return climb(part["ascent"], (target3, target4), part["lines"](layer2, layer3), boxes, STEPS, step)

    def direct(part: Head, target3: Tensor, target4: Tensor, layer2: Tensor, layer3: Tensor, boxes: Tensor) -> Tensor:
        return boxes_of_numbers(part.predict((target3, target4), part.encode(layer2, layer3), boxes), boxes)

    names = PARTS["refinement"]
    return {
        "backbone": Graph(HeadMaps(tracker), HeadMaps.forward, *PARTS["backbone"]),
        "modulation": Graph(head, Head.modulation, *PARTS["modulation"]),
        "refinement": Graph(nn.ModuleDict({"lines": Lines(head), "ascent": Ascent(head)}), refinement, *names)
        if tracker.numbers == 1
        else Graph(head, direct, names[0][:-1], names[1][:1]),
    }


@torch.no_grad()
def _inputs(tracker: Tracker, size: int) -> dict[str, tuple[Tensor, ...]]:
    """Inputs to trace every part with."""
    image = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    maps = tracker.features(torch.zeros(2, 3, size, size), HEAD_LAYERS)
    box = torch.tensor([[0.4, 0.4, 0.2, 0.2]]).repeat(2, 1) * size
    of_maps = tuple(maps[layer] for layer in HEAD_LAYERS)
    boxes = (box[:, None].repeat(1, 3, 1), *((torch.tensor(1.0),) if tracker.numbers == 1 else ()))
    return {"backbone": (image,), "modulation": (*of_maps, box), "refinement": (*tracker.modulation(maps, box), *of_maps, *boxes)}


def _joined(models: dict[str, Any]) -> Any:
    """One model of all parts: they meet in the names of their inputs and outputs."""
    onnx, _ = onnx_packages()
    parts = [_prefixed(model, f"{name}/") for name, model in models.items()]
    produced = {value.name for part in parts for value in part.graph.output}
    inputs = {value.name: value for part in parts for value in part.graph.input if value.name not in produced}
    graph = onnx.helper.make_graph(
        [node for part in parts for node in part.graph.node],
        "tracker",
        list(inputs.values()),
        [value for part in parts for value in part.graph.output],
        [tensor for part in parts for tensor in part.graph.initializer],
    )
    versions = sorted({(item.domain, item.version) for part in parts for item in part.opset_import})
    sets = [onnx.helper.make_opsetid(*item) for item in dict(versions).items()]
    return onnx.helper.make_model(graph, opset_imports=sets, ir_version=max(part.ir_version for part in parts))


def _prefixed(model: Any, prefix: str) -> Any:
    """The model with a prefix before every name but those of its inputs and outputs."""
    onnx, _ = onnx_packages()
    own = {prefix + value.name: value.name for value in (*model.graph.input, *model.graph.output)}
    # onnx 1.17 renames inputs whatever rename_inputs says: all are renamed, and these back
    part = onnx.compose.add_prefix(model, prefix)
    for node in part.graph.node:
        for names in (node.input, node.output):
            names[:] = [own.get(name, name) for name in names]
    for value in (*part.graph.input, *part.graph.output):
        value.name = own.get(value.name, value.name)
    return part


def halve(model: Any) -> None:
    """Stores large float32 parameters as float16, with a cast behind each that onnxruntime does once, at loading."""
    onnx, _ = onnx_packages()
    casts = []
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= _SMALL and np.abs(values).max() < np.finfo(np.float16).max:
            name = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}/half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}/half"], [name], f"{name}/cast", to=onnx.TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])


def _quantised(backbone: Any, crops: list[np.ndarray]) -> Any:
    """The backbone with convolutions in 8 bits: weights by channel, activations by the range that the crops give."""
    onnx, _ = onnx_packages()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(crops)

        def get_next(self) -> dict[str, np.ndarray] | None:
            crop = next(self.left, None)
            return None if crop is None else {"image": crop[None]}

    with tempfile.TemporaryDirectory() as folder:
        plain, ready, done = (Path(folder) / f"{name}.onnx" for name in ("plain", "ready", "done"))
        onnx.save(backbone, plain)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        kinds = {"per_channel": True, "weight_type": QuantType.QInt8, "op_types_to_quantize": ["Conv", "Add"]}
        quantize_static(ready, done, Reader(), quant_format=QuantFormat.QDQ, **kinds)
        return onnx.load(done)
