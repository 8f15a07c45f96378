"""python -m models: what a weights file holds, and other forms of it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.cli import Parser, run, whole
from configs.errors import RequestError, printable
from configs.machine import require_file_place, require_place
from configs.process import settle
from configs.schema import ImageConfig, PairsConfig, SearchImageConfig
from models.files import is_safetensors, require_writable_form

INPUT = "safetensors, or a PyTorch or PyTracking checkpoint"


def _side(text: str) -> int:
    """Side of a crop: whole cells at every stride."""
    if not text.isdecimal() or int(text) < 32 or int(text) % 16:
        raise argparse.ArgumentTypeError(f"expected a multiple of 16, at least 32, found {text!r}")
    return int(text)


def _add_sizes(command: argparse.ArgumentParser, what: str) -> None:
    default = PairsConfig().ref.size
    command.add_argument("--crop-size", type=_side, default=default, help=f"side of both crops, {what} (default: %(default)s)")
    command.add_argument("--ref-size", type=_side, help="side of the ref crop, where it has one of its own")
    command.add_argument("--test-size", type=_side, help="side of the test crop, where it has one of its own")


def _geometry(options: argparse.Namespace) -> PairsConfig:
    ref, test = options.ref_size or options.crop_size, options.test_size or options.crop_size
    return PairsConfig(ref=ImageConfig(size=ref), test=SearchImageConfig(size=test))


def parser(prog: str) -> Parser:
    """The command line."""
    top = Parser(prog=prog, description="Look at, convert and export the weights of trackers. No input file is run.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    show = commands.add_parser("show", help="what is in a checkpoint, of any network: architecture, sizes, settings")
    show.add_argument("file", metavar="FILE", help=INPUT)
    _add_sizes(show, "for the count of MFLOPs")
    show.add_argument("--json", action="store_true", help="print one JSON object")

    other = commands.add_parser("convert", help="safetensors to PyTracking's .pth.tar, and back")
    other.add_argument("input", metavar="IN", help=INPUT)
    other.add_argument("output", metavar="OUT", help="*.safetensors, or *.pth or *.pth.tar for PyTracking's loader")
    other.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="type of the parameters in a .safetensors (default: as read, in float32)",
    )
    other.add_argument("--trim", action="store_true", help="leave out the stages that are never run (.safetensors)")
    other.add_argument("--legacy", action="store_true", help="write a .pth.tar that PyTorch before 1.6 reads too")

    graphs = commands.add_parser(
        "export",
        help="ONNX graphs of backbone, modulation and prediction",
        description="Writes backbone.onnx, modulation.onnx and prediction.onnx (free batch) and compares each with PyTorch."
        " Where the sizes of the two crops differ: backbone_ref.onnx and backbone_test.onnx."
        " A tracker in one file, refinement included: `deploy`.",
    )
    graphs.add_argument("input", metavar="IN", help=INPUT)
    graphs.add_argument("folder", metavar="OUT_DIR", help="where the graphs go")
    _add_sizes(graphs, "fixed in the graphs")

    one = commands.add_parser(
        "deploy",
        help="one ONNX file that an online tracker runs, the refinement of boxes included",
        description="Writes one ONNX file of backbone, modulation and refinement, and says how far it is from its checkpoint.",
    )
    one.add_argument("input", metavar="IN", help=INPUT)
    one.add_argument("output", metavar="OUT", help="*.onnx")
    one.add_argument("--crop-size", type=_side, default=PairsConfig().test.size, help="side of the crop (default: %(default)s)")
    one.add_argument("--precision", choices=("float32", "float16", "int8"), default="float32", help="float16: stored; int8: the backbone")
    pictures = one.add_mutually_exclusive_group()
    pictures.add_argument("--cache", help="a cache whose test crops int8 is calibrated on, and the file is measured on")
    pictures.add_argument("--images", metavar="DIR", help="frames in their place (default: noise, float only)")

    speed = commands.add_parser("bench", help="parameters, multiply-adds, MB and frames a second of networks, side by side")
    speed.add_argument("files", metavar="FILE", nargs="+", help=f"{INPUT}, or ONNX of `deploy`")
    speed.add_argument("--crop-size", type=_side, default=PairsConfig().test.size, help="side of the crop (default: %(default)s)")
    speed.add_argument("--threads", type=whole, default=1, help="of PyTorch and onnxruntime (default: %(default)s)")
    return top


def main(arguments: Sequence[str], prog: str = "python -m models") -> None:
    """The command line; see `python -m models --help`."""
    options = parser(prog).parse_args(list(arguments))
    named = {"show": "file", "bench": "files"}.get(options.command, "input")
    given = getattr(options, named)
    for path in given if isinstance(given, list) else [given]:
        if not (options.command == "bench" and path.endswith(".onnx")):
            is_safetensors(Path(path))
        elif not Path(path).is_file():
            raise RequestError(f"expected an ONNX file, found nothing at {path}; correct the path")
    if options.command == "convert":
        require_writable_form(Path(options.output), options.dtype is not None, options.legacy)
    if options.command == "deploy" and not options.output.endswith(".onnx"):
        raise RequestError(f"expected an output name ending in .onnx, found {options.output}; rename it")
    if options.command in ("convert", "deploy"):
        require_file_place(Path(options.output), "output")
    elif options.command == "export":
        require_place(Path(options.folder), "output")
    settle(say=lambda line: None, leave_busy=False)
    import torch

    from models.convert import convert, load_tracker
    from models.export import OPSET, export

    if options.command == "show":
        _show(options.file, _geometry(options), options.json)
    elif options.command == "convert":
        architecture = convert(
            options.input, options.output, getattr(torch, options.dtype) if options.dtype else None, options.legacy, options.trim
        )
        print(f"{options.output}: {architecture}, {Path(options.output).stat().st_size / 1e6:.2f} MB")
    elif options.command == "deploy":
        _deploy(options)
    elif options.command == "bench":
        _bench([Path(file) for file in options.files], options.crop_size, options.threads)
    else:
        tracker, _ = load_tracker(options.input)
        for graph in export(tracker, options.folder, _geometry(options)):
            print(f"{graph.path}: opset {OPSET}, {graph.megabytes:.2f} MB, {graph.error:.1e} of the largest value from PyTorch")


def _deploy(options: argparse.Namespace) -> None:
    from models.bench import cached_pictures, fidelity, payoff, pictures
    from models.convert import load_tracker
    from models.deploy import deploy

    tracker, metadata = load_tracker(options.input)
    size, path, given = options.crop_size, Path(options.output), options.cache or options.images
    images = cached_pictures(options.cache, size) if options.cache else pictures(options.images, size)
    deploy(tracker, path, size, options.precision, images if given else (), metadata.get("setting", ""))
    line = f"{path}: {tracker.architecture}, {options.precision}, {path.stat().st_size / 1e6:.2f} MB"
    if tracker.numbers == 1:
        in_iou, in_pixels = fidelity(tracker, path, images)
        on = f"{len(images)} {'crops' if options.cache else 'frames'} of {given}" if given else "noise"
        line += f"; from its checkpoint on {on}: predicted IoU {in_iou:.1e}, refined boxes {in_pixels:.1e} px"
    print(line)
    if options.precision != "float32":
        print(payoff(tracker, path))


def _bench(files: list[Path], size: int, threads: int) -> None:
    import torch

    from models.bench import BOXES, ROUNDS, bench

    torch.set_num_threads(threads)
    head = ["file", "network", "parameters (M)", "MMACs a pair", "MB", "ms a frame", "frames/s"]
    rows = [head, *bench(files, size)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    print("\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows))
    what = f"backbone on one crop and the refinement of {BOXES} boxes (DRNet: one box)"
    print(f"median of {ROUNDS} rounds in turn, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}; a frame: {what}")


def _show(path: str, pairs: PairsConfig, as_json: bool) -> None:
    from models.checkpoint import weights_digest
    from models.contents import contents_lines, file_contents
    from models.convert import load_tracker
    from models.sizes import size_facts

    facts: dict[str, Any] = {"path": path, "sha256": weights_digest(path), "file_megabytes": round(Path(path).stat().st_size / 1e6, 2)}
    contents = file_contents(path)
    try:
        tracker, metadata = load_tracker(path)
        facts |= {"architecture": tracker.architecture, **size_facts(tracker, pairs), "metadata": metadata}
    except RequestError as error:
        # a file that is safe to read: what is in it is the answer, whatever it is of
        facts |= {"architecture": None, "problem": printable(error)}
    facts |= contents
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    print(f"{path}: {facts['architecture'] or 'of no architecture of ours'} ({facts['file']}, {facts['file_megabytes']} MB)")
    if facts["architecture"]:
        print(f"parameters  {facts['parameters']:,}, of them used {facts['parameters_used']:,} ({facts['megabytes']} MB in float32)")
        sides = "- and ".join(str(side) for side in dict.fromkeys((pairs.ref.size, pairs.test.size)))
        print(f"MFLOPs      {facts['mflops']:,} multiply-adds * 10^6, one pair of {sides}-pixel crops, {pairs.proposals} proposals")
    print(f"sha256      {facts['sha256']}")
    for key, value in facts.get("metadata", {}).items():
        if key not in ("file", "format", "architecture", "foreign"):
            print(f"{key}: {printable(value)}")
    print("\n".join(contents_lines(contents, path)))
    if not facts["architecture"]:
        print(f"problem     {facts['problem']}")


if __name__ == "__main__":
    sys.exit(run(main))
