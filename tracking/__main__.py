"""`python -m tracking eval | track | vot`: what a trained network is worth in video."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import configs
from configs.cli import Parser, run, whole
from configs.errors import RequestError
from configs.gpu import require_device
from configs.machine import processors, require_place
from tracking.request import BASELINES, PLACE, named_path, parse_box, require_baselines


def main(arguments: Sequence[str], prog: str = "python -m tracking") -> int:
    """The command line; see `python -m tracking --help`."""
    options = parser(prog).parse_args(arguments)
    overrides = [_own(override) for override in options.overrides]
    configs.load(options.setting or "atom_cfkd", overrides)
    require_device(options.device, "--device")
    for checkpoint in options.checkpoint:
        named_path(checkpoint)
    return {"eval": _eval, "track": _track, "vot": _vot}[options.command](options, overrides)


def _own(override: str) -> str:
    """An override of the section `tracking`. RequestError: of another."""
    if not override.startswith("tracking."):
        raise RequestError(f"override: expected a field of tracking (tracking.size=144), found '{override:.80}'; give it in training")
    return override


def _eval(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Evaluates trackers on a data set; 1 where a sequence failed."""
    from tracking.sequences import open_videos  # brings OpenCV

    baselines = BASELINES if options.baselines is None else require_baselines(options.baselines)
    if not options.checkpoint and not {"still", "opencv"} & {*baselines}:
        raise RequestError("eval: expected a tracker, found none; give CHECKPOINT=student.safetensors")
    videos = open_videos(options.dataset, options.split)
    require_place(options.out / videos.name, "--out")
    videos = (videos.named(options.sequences) if options.sequences else videos).first(options.first)
    import models  # torch comes with what follows
    from tracking.contestants import contestants
    from tracking.evaluate import evaluate
    from tracking.formats import write_files
    from tracking.report import report

    trackers = contestants(options.checkpoint, baselines, options.setting, overrides, options.seeds or ())
    if not trackers:
        raise RequestError("eval: expected a tracker, found none; give CHECKPOINT=student.safetensors")
    jobs = options.jobs or processors()
    answers, problems = evaluate(trackers, videos, options.out, jobs, options.device)
    folder = options.out / videos.name
    where = "one process of one thread" if jobs == 1 else f"{jobs} processes of one thread"
    gains = {tracker.name: gain for tracker in trackers if (gain := tracker.gain()) is not None}
    print(report(answers, videos, problems, folder, f"{where}, on {models.pick_device(options.device)}", gains))
    print(*(f"failed: {problem}" for problem in problems), sep="\n", end="\n" if problems else "")
    if options.files:
        for name, of_one in answers.items():
            print(f"files: {write_files(of_one, videos, folder / name / 'files')}")
    print(f"report: {folder / 'report.md'}")
    return 1 if problems else 0


def _track(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Tracks in one video."""
    from tracking.frames import open_frames  # brings OpenCV

    if not options.checkpoint:
        raise RequestError("track: expected a checkpoint, found none; give CHECKPOINT=student.safetensors")
    if options.box is not None:
        parse_box(options.box)
    if not options.video.isdecimal():
        open_frames(Path(options.video))
    require_place(options.out or PLACE, "--out")
    from tracking.clip import track_clip  # brings torch

    written = track_clip(options.checkpoint, options.video, options.box, options.out, options.setting, overrides, options.device)
    print(*(f"{what}: {path}" for what, path in written), sep="\n")
    return 0


def _vot(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Serves a tracker to the VOT toolkit on standard input and output."""
    if len(options.checkpoint) != 1:
        raise RequestError(f"vot: expected one checkpoint, found {len(options.checkpoint)}; give one")
    from tracking.contestants import of_checkpoint  # brings torch
    from tracking.vot import serve

    tracker = of_checkpoint(options.checkpoint[0], options.setting, overrides)
    serve(tracker.build(options.device), tracker.name)
    return 0


def _seed(text: str) -> int:
    """A whole number from 0 on, as `tracking.seed` takes it."""
    if not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, found {text!r:.60}")
    return int(text)


def _add_shared(command: Parser, checkpoint: str) -> None:
    command.add_argument("--checkpoint", action="append", default=[], metavar="[NAME=]PATH", help=checkpoint)
    command.add_argument("--setting", help="a setting whose section `tracking` is used (default: that of the run the checkpoint is of)")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:n (default: auto)")
    command.add_overrides("fields of the section `tracking`, e.g. tracking.size=144")


def parser(prog: str) -> Parser:
    """Every option of the commands."""
    top = Parser(prog=prog, description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    several = commands.add_parser(
        "eval",
        help="trackers on a data set: table, plots, worst sequences (make eval)",
        description="Runs trackers on a data set, once, and compares them. The same command goes on where it stopped.",
    )
    _add_shared(several, "a weights file; given several times: all of them in one table")
    several.add_argument("--dataset", required=True, help="a data set of configs/datasets.yaml, a folder, or a video with its .txt")
    several.add_argument("--split", help="val, test or train, where the data set has several (default: its usual one)")
    several.add_argument("--sequences", nargs="+", metavar="NAME", help="these alone")
    several.add_argument("--first", type=whole, metavar="N", help="the first N sequences alone")
    several.add_argument(
        "--baselines", nargs="+", metavar="NAME", help="none, or some of still, opencv, classifier, refinement (default: all)"
    )
    several.add_argument(
        "--seeds", nargs="+", type=_seed, metavar="N", help="track every checkpoint once with each tracking.seed, as NAME-track<N>"
    )
    several.add_argument("--jobs", type=whole, help="processes (default: one a processor)")
    several.add_argument("--out", type=Path, default=Path("evals"), help="results are kept in OUT/<data set>/<tracker> (default: evals)")
    several.add_argument("--files", action="store_true", help="write the result files of the benchmark too, and its zip")
    one = commands.add_parser(
        "track",
        help="one video: boxes and a video with them drawn (make track)",
        description="Tracks in a video file, a folder of images or a camera, and writes the boxes and a video with them.",
    )
    _add_shared(one, "a weights file; given several times: side by side")
    one.add_argument("--video", required=True, help="a video file, a folder of images, or the number of a camera")
    one.add_argument("--box", metavar="X,Y,W,H", help="the target in the first frame, in pixels; without it a window asks, if there is one")
    one.add_argument("--out", type=Path, help="folder to write to (default: tracked/<name of the video>)")
    serve = commands.add_parser(
        "vot",
        help="serve a tracker to vot-toolkit by TraX (docs/tracking.md)",
        description="Answers a TraX client, such as vot-toolkit, on standard input and output. Needs the extra `vot`.",
    )
    _add_shared(serve, "a weights file")
    return top


if __name__ == "__main__":
    sys.exit(run(main))
