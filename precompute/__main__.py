"""`python -m precompute cache | demo-data | check`: from frames to a cache."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import configs
from cache import Array, Cache
from configs.cli import Parser, run
from configs.errors import RequestError
from configs.files import fingerprint
from configs.load import dataset_entry
from configs.machine import processors
from kdlosses.targets import TARGETS
from precompute import cost
from precompute.builder import Measured, Work, fill
from precompute.datasets import Dataset, open_entry
from precompute.producer import Producer, pair_arrays
from precompute.teachers import TargetPlan, TeacherChoice, choose, needed_targets, plan_targets

# pairs of a shard, and of an inner chunk: the units of writing and of reading
PART, CHUNK = 1024, 64


def main(arguments: Sequence[str]) -> int:
    """The command line; see `python -m precompute --help`."""
    if arguments and arguments[0] == "demo-data":
        from precompute.demo import main as demo_main

        return demo_main(arguments[1:]) or 0
    if arguments and arguments[0] == "check":
        from precompute.check import main as check_main

        return check_main(arguments[1:]) or 0
    options = parser().parse_mixed(arguments)
    overrides = list(options.overrides)
    for key, value in (("pairs.count", options.pairs), ("pairs.val_count", options.val_pairs), ("teacher.weights", options.teacher)):
        if value is not None:
            overrides.append(f"{key}={value}")
    config = configs.load(options.setting, overrides)
    rank, world = share(options.share)
    splits = ("train", "val") if options.split is None else (options.split,)
    lines = [make(config, name, split, options, rank, world) for name in options.dataset.split() for split in splits]
    if world > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        _wait_for_all()
    if rank == 0:
        print("\n".join(lines))
    return 0


def parser() -> Parser:
    """Every option of the three commands."""
    top = Parser(prog="python -m precompute", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    cache = commands.add_parser(
        "cache", help="fill a cache (make cache)", description="Fills the caches of a data set; finished parts are kept."
    )
    cache.add_argument("--dataset", required=True, help="names of configs/datasets.yaml, separated by spaces: one cache each")
    cache.add_argument("--setting", default="atom_cfkd", help="a setting: its pair set, its teacher, the targets its losses need")
    cache.add_argument("--split", choices=("train", "val"), help="fill one split only (default: both)")
    cache.add_argument("--pairs", type=int, help="pairs of the training split (pairs.count)")
    cache.add_argument("--val-pairs", type=int, help="pairs of the validation split (pairs.val_count)")
    cache.add_argument("--teacher", help="weights of the teacher: safetensors, PyTorch or PyTracking checkpoint (teacher.weights)")
    cache.add_argument("--targets", help=f"targets instead of those the setting needs: all, none, or some of {', '.join(TARGETS)}")
    cache.add_argument(
        "--share", metavar="I/N", help="fill every N-th part from part I on (arrays of batch jobs; torchrun sets it by itself)"
    )
    cache.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:n (default: auto)")
    cache.add_argument("--threads", type=int, help="threads that cut and decode crops (default: all processors)")
    cache.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the configuration, e.g. pairs.crop_size=144")
    commands.add_parser("demo-data", help="generate the demo's data set", add_help=False)
    commands.add_parser("check", help="look a data set over before any work", add_help=False)
    return top


def share(text: str | None) -> tuple[int, int]:
    """(rank, world) of this process: from --share I/N, or from torchrun's environment."""
    if text is None:
        return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    first, slash, second = text.partition("/")
    if not (slash and first.isdigit() and second.isdigit() and int(first) < int(second)):
        raise RequestError(f"--share: expected I/N with 0 <= I < N, found '{text}'; e.g. --share 0/4")
    return int(first), int(second)


def make(config: configs.Config, name: str, split: str, options: argparse.Namespace, rank: int, world: int) -> str:
    """Fills the cache of one data set and split; returns its last line `cache: PATH`."""
    dataset = open_entry(name, dataset_entry(name), split)
    if dataset.is_image_dataset and config.pairs.mode == "causal":
        raise RequestError(
            f"dataset {name}: expected video for pairs.mode=causal (test strictly after ref), found still images; use pairs.mode=interval"
        )
    dataset.usable(config.pairs)
    wanted = _wanted(config, options.targets)
    teacher = choose(config.teacher) if wanted and config.teacher is not None else None
    plans = plan_targets(config, teacher, wanted) if teacher else []
    cache = create(config, dataset, name, split)
    device = _device(options.device)
    # a teacher of another network is refused before anything is written
    network = teacher.load(device) if teacher else None
    units = [(plan, _add(cache, teacher, plan)) for plan in plans] if teacher else []
    lacking = {part for unit in (cache.pairs, *(unit for _, unit in units)) for part in unit.missing()}
    parts = sorted(lacking)[rank::world]
    threads = options.threads or processors()
    producer = Producer(cache, dataset, config.pairs, split == "train", parts, threads)
    try:
        if rank == 0:
            done = cache.parts - len(lacking)
            print(f"{cache.path}: {cache.count:,} pairs of {len(dataset.sequences):,} sequences, {done} of {cache.parts} parts done")
        if parts:
            print(_estimate(cache, producer, units), flush=True)
            batch = teacher.batch if teacher else 1
            work = Work(cache, config.pairs, parts, units, batch, device, config.train.feed, threads, shown=rank == 0)
            measured = fill(work, producer, network)
            report(config, cache, measured, teacher, [plan.name for plan in plans])
    finally:
        producer.close()
    return f"cache: {cache.path}"


def create(config: configs.Config, dataset: Dataset, name: str, split: str) -> Cache:
    """The cache of this pair set, made empty if there is none."""
    identity = configs.pair_identity(config.pairs, name, split) | {"content_sha256": dataset.content_hash}
    path = Path(config.cache_dir) / f"{name}-{split}-{fingerprint(identity)[:10]}"
    # a raw crop bounds an encoded one; room that is not used is not stored
    bound = 2 * (3 * config.pairs.crop_size**2 + 4096)
    return Cache.create(
        path,
        identity,
        identity["count"],
        crop_bytes_bound=bound,
        arrays=pair_arrays(config.pairs),
        part=PART,
        chunk=CHUNK,
        metadata={"sequences": dataset.sequences},
        remedy=f"remove {path} and run `make cache` again",
    )


def _wanted(config: configs.Config, asked: str | None) -> tuple[str, ...]:
    if asked is None:
        return needed_targets(config)
    if asked == "none":
        return ()
    if config.teacher is None:
        raise RequestError(f"--targets: expected a setting with a teacher, found {config.setting} without; choose another SETTING")
    if asked == "all":
        return tuple(TARGETS)
    return tuple(asked.split())


def _add(cache: Cache, teacher: TeacherChoice, plan: TargetPlan) -> Any:
    constants = {} if plan.projection is None else {layer: matrix.numpy() for layer, matrix in plan.projection.items()}
    return cache.add_target(
        teacher.name,
        plan.name,
        teacher.identity(),
        plan.identity,
        [Array(*array, compress=plan.feature_bits is not None) for array in plan.arrays],
        constants,
        about=TARGETS[plan.name].about,
        remedy="give this teacher a name of its own (teacher.name=...) or drop the old one:"
        f" python -m cache gc {cache.path} --teacher {teacher.name} (of it only this target: --target {teacher.name}/{plan.name})",
    )


def _estimate(cache: Cache, producer: Producer, units: list[tuple[TargetPlan, Any]]) -> str:
    def lacking(unit: Any) -> int:
        return sum(stop - start for start, stop in map(cache.bounds, unit.missing()))

    crop_pairs = lacking(cache.pairs)
    crop_bytes = cost.estimate(producer, cache.count) if crop_pairs else 0.0
    row_bytes = sum(array.row_bytes for array in cache.pairs.stored if array.path != "crops/jpeg")
    return cost.describe_and_check(
        cache.path.parent,
        crop_bytes,
        crop_pairs,
        [(plan, lacking(unit)) for plan, unit in units],
        row_bytes,
        "ask for fewer pairs (PAIRS=...)",
    )


def report(config: configs.Config, cache: Cache, measured: Measured, teacher: TeacherChoice | None, targets: list[str]) -> None:
    """Says what was measured and keeps it in the cache's history."""
    replaced = sum(measured.faults.values())
    if replaced:
        most = max(measured.faults, key=lambda fault: measured.faults[fault])
        print(
            f"warning: {replaced} of {measured.pairs:,} pairs drawn anew because a frame could not be used"
            f" ({len(measured.faults)} different faults), most often: {most}",
            file=sys.stderr,
        )
    print(f"{measured.pairs:,} pairs in {measured.seconds:,.1f} s, {measured.pairs / measured.seconds:,.1f} a second")
    rounding: dict[str, Any] = {}
    if errors := measured.rounding_errors():
        assert config.teacher is not None
        rounding = {"feature_bits": config.teacher.feature_bits, "rounding_errors": {key: float(f"{e:.4g}") for key, e in errors.items()}}
        print(
            f"features rounded to {config.teacher.feature_bits} mantissa bits: relative error"
            f" {', '.join(f'{error:.2g} ({key})' for key, error in errors.items())} over {measured.teacher_pairs:,} pairs"
        )
    cache.add_history(
        {
            "setting": config.setting,
            "targets": targets,
            "teacher": teacher.name if teacher else None,
            "teacher_weights": str(teacher.weights.resolve()) if teacher else None,
            "decoder": measured.decoder,
            "pairs": measured.pairs,
            "seconds": round(measured.seconds, 3),
            "teacher_pairs": measured.teacher_pairs,
            "teacher_seconds": round(measured.teacher_seconds, 3),
            "waited_seconds": round(measured.waited_seconds, 3),
            "redrawn": replaced,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
        }
        | rounding
    )
    line = cost.break_even(config, measured)
    if line:
        print(line)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RequestError(f"device: expected auto, cpu, cuda or cuda:n, found '{name}'; correct it") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RequestError(f"device: expected a CUDA device for '{name}', found none; use cpu")
    return device


def _wait_for_all() -> None:
    """Until every process of this torchrun has filled its parts."""
    torch.distributed.init_process_group("gloo")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(run(main))
