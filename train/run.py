"""One run: from a configuration to a trained student in runs/<setting>/<name>/.

The folder holds config.yaml (resolved), metrics.jsonl (see train.log), TensorBoard events, pictures/, checkpoint.pt and, once the
run has finished, student.safetensors (of two students second_student.safetensors as well) and result.json. The same command again goes
on from the checkpoint, or says that the run has finished.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import configs
import models
from cache.identity import flatten
from configs import Config, RequestError
from configs.files import write_atomic
from kdlosses import Objective
from train import checkpoint, record
from train.checkpoint import Progress
from train.log import RunLog
from train.loop import PhaseLoop, Setup
from train.online import OnlineTeacher, check_cache, decoder_note
from train.plan import Plan, make_plan
from train.sources import Sources, adopt_projection, held, objectives, open_sources, resolve_dataset
from train.students import Students, build_students

# What may differ between the beginning and the rest of a run: none of it is meant to change a number.
MOVABLE = ("doc", "cache_dir", "run_dir", "train.device", "train.feed", "train.feed_threads", "train.check_pairs", "train.pictures")


def run(config: Config) -> Path:
    """Trains, or goes on with, the run that a configuration describes; returns its folder.

    Under torchrun every process calls it. Prints the plan, progress and, last, `run: PATH`.

    Raises:
        RequestError: caches, targets or weights are missing; or another run lies in the folder (with the differences).
        RunError: a loss is not finite; the cache does not hold what the live teacher says.
    """
    config = resolve_dataset(config)
    folder = record.run_folder(config)
    _refuse_other(config, folder)
    if (folder / record.RESULT).is_file():
        if int(os.environ.get("RANK", 0)) == 0:
            print(f"{folder}: this run has finished; another train.name, or deleting the folder, starts it anew\nrun: {folder}")
        return folder
    with processes(config) as (device, rank, world):
        _train(config, folder, device, rank, world)
    if rank == 0:
        print(f"run: {folder}")
    return folder


@contextmanager
def processes(config: Config) -> Iterator[tuple[torch.device, int, int]]:
    """(device, rank, number of processes), inside a process group where torchrun started several.

    Raises:
        RequestError: an unknown device, none of that kind, or a batch that the processes cannot share.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = pick_device(config.train.device)
    if config.train.batch % world:
        raise RequestError(f"train.batch: expected a multiple of {world} processes, found {config.train.batch}; change train.batch or GPUS")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # all shapes are fixed, so trying kernels once pays
        torch.backends.cudnn.benchmark = True
    joined = world > 1 and not torch.distributed.is_initialized()
    if joined:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device, rank, world
    finally:
        if joined:
            torch.distributed.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """`auto`: this process' GPU, else the processor."""
    if name in ("auto", "cuda") and torch.cuda.is_available():
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        device = torch.device("cpu" if name == "auto" else name)
    except RuntimeError as error:
        raise RequestError(f"train.device: expected auto, cpu, cuda or cuda:n, found '{name}'; correct it") from error
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise RequestError(f"train.device: expected a CUDA device for '{name}', found {torch.cuda.device_count()}; use auto or cpu")
    return device


def prepare(config: Config) -> tuple[Sources, list[Objective], Plan]:
    """Caches, teacher, objectives and plan: everything that can be refused before a run begins."""
    sources = open_sources(config)
    objective = objectives(config, sources.teacher)
    weights = sources.teacher.weights if sources.teacher is not None else None
    needs = [{name: term.targets for name, term in one.per_term.items()} for one in objective]
    train, val = (
        {name: why for one in objective for name, why in held(caches, sources.teacher, one).items()}
        for caches in (sources.train, sources.val)
    )
    return sources, objective, make_plan(_with_weights(config, sources), needs, train, val, str(weights) if weights else None)


def _with_weights(config: Config, sources: Sources) -> Config:
    """The configuration with the teacher's file that was found, so that a command which adds targets names it."""
    source = sources.teacher
    if config.teacher is None or source is None or source.weights in (None, models.DEMO_TEACHER):
        return config
    return config.model_copy(update={"teacher": config.teacher.model_copy(update={"weights": str(source.weights)})})


def _train(config: Config, folder: Path, device: torch.device, rank: int, world: int) -> None:
    sources, objective, plan = prepare(config)
    loaded = checkpoint.load(folder / checkpoint.FILE)
    progress, state = loaded if loaded is not None else (Progress(sources=sources.identity()), None)
    _refuse_other_sources(progress, sources, folder)
    log = RunLog(folder, progress.step, writes=rank == 0)
    try:
        if rank == 0:
            write_atomic(folder / record.CONFIG, configs.dump(config))
        teacher = _announce(config, sources, objective, plan, progress, device, log)
        students, notes = build_students(config)
        for note in notes:
            log.say(note)
        if state is not None:
            checkpoint.restore(state, students)
        students.to(device)
        if config.train.channels_last:
            students.to(memory_format=torch.channels_last)
        if world > 1 and device.type == "cuda":
            # batch statistics over all processes, as on one device
            students = torch.nn.SyncBatchNorm.convert_sync_batchnorm(students)
        if config.train.compile:
            students.compile()
        setup = Setup(config, device, rank, world, sources, plan, objective, teacher, folder, log)
        while progress.phase < len(plan.train):
            phase = PhaseLoop(setup, students, progress.phase, progress)
            if state is not None and progress.phase_epoch > 0:
                phase.restore(state)
            state = None
            phase.run()
        if rank == 0:
            _finish(setup, students, progress)
    finally:
        log.close()


def _announce(
    config: Config, sources: Sources, objective: list[Objective], plan: Plan, progress: Progress, device: torch.device, log: RunLog
) -> OnlineTeacher | None:
    """Says what the run will do, checks the cache against the live teacher, and returns that teacher if the run needs it."""
    steps, pairs = record.budget(config)
    log.say(f"{config.setting}: {config.student.architecture}, {steps:,} steps of {config.train.batch} = {pairs:,} pairs, on {device}")
    log.say("caches: " + ", ".join(str(one.path) for one in (*sources.train, *sources.val)))
    log.say(plan.table())
    source = sources.teacher
    if source is not None and source.note:
        log.say(source.note)
    for number, one in enumerate(objective):
        adopt_projection(one, sources.train[0], source, plan.train[number].cached)
    cached = {name: one for number, one in enumerate(objective) for name in plan.train[number].cached}
    checking = config.train.check_pairs > 0 and bool(cached) and source is not None and source.weights is not None
    if cached and (note := decoder_note(sources.train[0], config, device)):
        log.say(note)
    teacher = None
    if source is not None and (plan.needs_teacher or (checking and progress.step == 0)):
        # building networks draws random numbers; the run's own are drawn later, from its seed
        teacher = OnlineTeacher(source.load(device), config.train.channels_last, source.feature_bits)
        if checking and progress.step == 0:
            for cache in sources.train:
                log.say(check_cache(cache, source, teacher, cached, config, device))
    elif cached and progress.step == 0 and config.train.check_pairs > 0:
        log.say("check: the teacher's weights are not at hand, so no pair was recomputed (give teacher.weights=FILE to have it done)")
    if progress.step:
        log.say(f"goes on after epoch {progress.epoch} (step {progress.step:,})")
    return teacher if plan.needs_teacher else None


def _finish(setup: Setup, students: Students, progress: Progress) -> None:
    """Exports the students and marks the run as finished."""
    config, folder = setup.config, setup.folder
    sections = [config.student, *([config.second_student] if config.second_student is not None else [])]
    steps, pairs = record.budget(config)
    facts = {"setting": config.setting, "seed": str(config.train.seed), "steps": str(steps)}
    for section, name, tracker in zip(sections, (record.STUDENT, record.SECOND), students.trackers, strict=False):
        models.save_weights(tracker.state_dict(), folder / name, metadata={**facts, "architecture": section.architecture})
    run = record.read_run(folder)
    size, proposals = config.pairs.crop_size, config.pairs.proposals
    gpu = torch.cuda.get_device_name(setup.device) if setup.device.type == "cuda" else None
    result: dict[str, Any] = {
        "setting": config.setting,
        "seed": config.train.seed,
        "students": [section.architecture for section in sections],
        "parameters": sum(record.trained_parameters(section.architecture) for section in sections),
        "mflops": sum(record.mflops(section.architecture, size, proposals) for section in sections),
        "teacher": setup.sources.teacher.name if setup.sources.teacher is not None else None,
        "steps": steps,
        "pairs": pairs,
        "seconds": progress.seconds,
        "pairs_per_s": pairs / progress.seconds,
        "device": gpu or f"cpu, {torch.get_num_threads()} threads",
        "processes": setup.world,
        "torch": torch.__version__,
        "caches": {split: [str(one.path.resolve()) for one in getattr(setup.sources, split)] for split in ("train", "val")},
        "before": run.before,
        "after": run.after,
    }
    record.write_result(folder, result)


def _refuse_other(config: Config, folder: Path) -> None:
    """RequestError where the folder holds a run of another configuration."""
    path = folder / record.CONFIG
    if not path.is_file():
        return
    there, here = (flatten(one.model_dump(mode="json")) for one in (configs.read(path), config))
    changed = [
        f"{key}: there {there.get(key)!r}, wanted {here.get(key)!r}"
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key) and key not in MOVABLE
    ]
    if changed:
        raise RequestError(
            f"{folder}: expected a run of this configuration, found another's ({'; '.join(changed)});"
            f" give this run a name of its own with train.name=NAME, or delete {folder}"
        )


def _refuse_other_sources(progress: Progress, sources: Sources, folder: Path) -> None:
    """RequestError where a run would go on from other caches or another teacher than it began with."""
    now = sources.identity()
    changed = [f"{key}: there {progress.sources.get(key)}, found {now[key]}" for key in now if progress.sources.get(key) != now[key]]
    if changed:
        raise RequestError(
            f"{folder}: expected the caches and the teacher that the run began with, found others ({'; '.join(changed)});"
            f" give this run a name of its own with train.name=NAME, or delete {folder}"
        )
