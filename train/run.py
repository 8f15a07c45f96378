"""One run: from a configuration to a trained student in runs/<setting>/<name>/.

The folder holds config.yaml (resolved), metrics.jsonl (see train.log), TensorBoard events, pictures/, checkpoint.pt and, once the
run has finished, student.safetensors (of two students second_student.safetensors as well) and result.json. The same command again goes
on from the checkpoint, or says that the run has finished; with more train.epochs it lengthens the run (what may change: `train.moves`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import configs
import models
from configs import Config, RequestError, RunError
from configs.files import sweep, write_atomic
from configs.hooks import frames
from configs.machine import cores, processors
from configs.process import threads_are_ours
from kdlosses import LiveTeacher, Objective, build_objectives
from pairs.decode import decoder_name
from train import checkpoint, compiled
from train.check import check_cache, decoder_note
from train.checkpoint import Checkpoint, Position
from train.data.feed import Feed, FeedSpec
from train.data.order import InOrder, Order
from train.evaluate import PREFIXES
from train.halt import Halt
from train.hook import watch
from train.inputs import Inputs, adopt_projection, held, open_inputs
from train.log import PICTURES, RunLog
from train.loop import PhaseLoop, Setup
from train.moves import go_on, refuse_other_inputs
from train.plan import Plan, make_plan
from train.provenance import provenance
from train.reports import run_folder
from train.request import Request, understood
from train.students import Students, build_students


def run(config: Config) -> Path:
    """Trains, or goes on with, the run that a configuration describes; returns its folder.

    Under torchrun every process calls it. Prints the plan, progress and, last, `run: PATH`.

    Raises:
        RequestError: caches, targets or weights are missing; or another run lies in the folder (with the differences).
        RunError: a loss is not finite; the cache does not hold what the live teacher says.
    """
    return carry_out(understood(config))


def carry_out(request: Request) -> Path:
    """The run of a request, see `run`."""
    config, folder = request.config, request.folder
    if request.finished:
        if int(os.environ.get("RANK", 0)) == 0:
            print(f"{folder}: this run has finished; another train.name, or deleting the folder, starts it anew\nrun: {folder}")
        return folder
    with processes(config) as (device, rank, world):
        _train(config, request.before, folder, (device, rank, world))
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
    device, batch = models.pick_device(config.train.device), config.train.batch
    if batch % world:
        raise RequestError(f"train.batch: expected a multiple of {world} processes, found {batch}; change train.batch or GPUS")
    if batch < 2 * world and not all("head" in phase.freeze for phase in config.phases_or_one()):
        raise RequestError(f"train.batch: expected 2 pairs for each of {world} processes (the head's BatchNorm), found {batch}; raise it")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # all shapes are fixed, so trying kernels once pays
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = config.train.tf32
    joined = world > 1 and not torch.distributed.is_initialized()
    if joined:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device, rank, world
    except RuntimeError as error:
        if world > 1 and _another_died(error):
            raise RunError(
                f"process {rank}: expected {world} processes, found another one gone, whose own message says why;"
                " run the same command again to go on from the last checkpoint"
            ) from error
        raise
    # not after an error: the others may be gone, and leaving would wait for them
    if joined:
        torch.distributed.destroy_process_group()


def _another_died(error: RuntimeError) -> bool:
    """Whether an error is that of a collective whose other side is gone."""
    return isinstance(error, torch.distributed.DistBackendError) or any(word in str(error) for word in ("gloo", "Connection", "NCCL"))


def prepare(config: Config) -> tuple[Inputs, list[Objective], Plan]:
    """Caches, teacher, objectives and plan: everything that can be refused before a run begins."""
    inputs = open_inputs(config)
    teacher = inputs.teacher
    objectives = build_objectives(config, teacher.architecture if teacher is not None else None)
    needs = [{name: term.targets for name, term in objective.per_term.items()} for objective in objectives]
    train, val = (held(config, caches, teacher, objectives) for caches in (inputs.train, inputs.val))
    return inputs, objectives, make_plan(_with_weights(config, inputs), needs, train, val, teacher.weights if teacher is not None else None)


def _with_weights(config: Config, inputs: Inputs) -> Config:
    """The configuration with the teacher's file that was found, so that a command which adds targets names it."""
    teacher = inputs.teacher
    if config.teacher is None or teacher is None or teacher.weights in (None, models.DEMO_TEACHER):
        return config
    return config.model_copy(update={"teacher": config.teacher.model_copy(update={"weights": str(teacher.weights)})})


def _train(config: Config, before: Config | None, folder: Path, place: tuple[torch.device, int, int]) -> None:
    """The run, on (device, rank, number of processes); before: the configuration that the folder holds."""
    device, rank, world = place
    inputs, objectives, plan = prepare(config)
    loaded = checkpoint.load(folder)
    if loaded is None and run_folder.result_of(folder) is not None:
        raise RequestError(f"{folder}: expected {checkpoint.FILE} of the finished run to go on from, found none; begin another train.name")
    position, state = (loaded.position, loaded.state) if loaded is not None else (Position(inputs=inputs.identity()), None)
    refuse_other_inputs(position, inputs.identity(), folder)
    watched = watch(config)
    _keep_threads(position)
    changed = go_on(position, before, config, folder) if before is not None else []
    log = RunLog(folder, position.step, rank == 0, position.epoch)
    halt = Halt(config.train.checkpoint_minutes, world, "nccl" if device.type == "cuda" else "gloo")
    setup = Setup(config, device, rank, world, inputs, plan, objectives, None, folder, log, halt, watched)
    try:
        _announce(setup, position, [*changed, *([loaded.note] if loaded is not None and loaded.note else [])])
        decoder_name(config.train.feed, device)
        for objective, origin in zip(objectives, plan.train, strict=True):
            adopt_projection(objective, inputs.train[0], inputs.teacher, origin.cached)
        # building networks draws random numbers; the run's own are drawn later, from its seed
        setup.checker = teacher_of(setup, position)
        _check_frames(setup)
        _check_caches(setup, position, setup.checker)
        setup.teacher = setup.checker if plan.needs_teacher else None
        if position.step or not config.train.check_pairs:
            setup.checker = None
        students = students_of(setup, state)
        setup.compiles = _compiles(setup, position)
        if world > 1:
            torch.distributed.barrier()
        # what can be refused has been, by every process: only now the folder becomes that of this configuration
        if rank == 0:
            _take_folder(setup, loaded)
        with halt:
            _phases(setup, students, position, state)
            if rank == 0:
                _finish(setup, students, position)
    finally:
        log.close()


def _keep_threads(position: Position) -> None:
    """Takes as many threads as the run began with, where that is ours to choose: another count rounds sums otherwise."""
    if position.threads and threads_are_ours() and position.threads <= cores():
        torch.set_num_threads(position.threads)
    position.threads = torch.get_num_threads()


def _compiles(setup: Setup, position: Position) -> bool:
    """Whether this run compiles its steps; said in one line where that was asked for."""
    config = setup.config
    if config.train.compile is False:
        return False
    pairs = (run_folder.budget(config)[0] - position.step) * config.train.batch
    sections = [section for section in (config.student, config.second_student) if section is not None]
    forward = sum(1e6 * run_folder.mflops(section.architecture, config.pairs) for section in sections)
    wanted, why = compiled.choose(config.train, setup.device, setup.world, pairs * forward)
    setup.log.say(f"compile: {'on' if wanted else 'off'}, {why}")
    return wanted


def _take_folder(setup: Setup, loaded: Checkpoint | None) -> None:
    """Makes the folder that of this configuration; loaded: the checkpoint that is gone on from."""
    folder = setup.folder
    setup.log.begin()
    for place in (folder, folder / PICTURES):
        sweep(place)
    if loaded is not None:
        checkpoint.adopt(loaded)
    write_atomic(folder / run_folder.CONFIG, configs.dump(setup.config))
    (folder / run_folder.RESULT).unlink(missing_ok=True)


def _phases(setup: Setup, students: Students, position: Position, state: dict[str, Any] | None) -> None:
    """The phases that are still to do; state: of the checkpoint that the first of them goes on from, emptied."""
    for number in range(position.phase, len(setup.plan.train)):
        phase = PhaseLoop(setup, students, number, position)
        if state and position.within_phase:
            phase.restore(state)
        if state is not None:
            state.clear()
        train, val = feeds_of(setup, number)
        with closing(train), closing(val):
            phase.run(train, val)


def _announce(setup: Setup, position: Position, changed: Sequence[str]) -> None:
    """Says what the run will do."""
    config, inputs, log = setup.config, setup.inputs, setup.log
    steps, pairs = run_folder.budget(config)
    log.say(
        f"{config.setting}: {config.student.architecture}, {steps:,} steps of {config.train.batch} = {pairs:,} pairs, on {setup.device}"
    )
    log.say("caches: " + ", ".join(str(cache.path) for cache in (*inputs.train, *inputs.val)))
    log.say(setup.plan.table())
    if inputs.teacher is not None and inputs.teacher.note:
        log.say(inputs.teacher.note)
    if position.step:
        within = f", {position.epoch_step:,} steps into the next" if position.epoch_step else ""
        log.say(f"goes on after epoch {position.epoch} (step {position.step:,}{within}){''.join(f'; {line}' for line in changed)}")


def teacher_of(setup: Setup, position: Position) -> LiveTeacher | None:
    """The teacher, where batches need it or where it can check the caches of a run that begins."""
    spec, config = setup.inputs.teacher, setup.config.train
    checks = position.step == 0 and config.check_pairs > 0 and any(origin.cached for origin in setup.plan.train)
    if spec is None or spec.weights is None or not (setup.plan.needs_teacher or checks):
        return None
    return LiveTeacher(spec.load(setup.device), spec.feature_bits, config.channels_last)


def _check_frames(setup: Setup) -> None:
    """Says whether the frames are still those of the caches, where they lie here. RequestError: they are others."""
    inputs, config = setup.inputs, setup.config
    for cache in (*inputs.train, *inputs.val) if config.recut_pairs and setup.rank == 0 else ():
        if line := frames().sample_line(cache, config.recut_pairs):
            setup.log.say(line)


def _check_caches(setup: Setup, position: Position, teacher: LiveTeacher | None) -> None:
    """Says how the caches' numbers differ from what this machine computes; at the beginning of a run RunError where they are others."""
    config, inputs, log = setup.config, setup.inputs, setup.log
    needed = {name: objective for objective, origin in zip(setup.objectives, setup.plan.train, strict=True) for name in origin.cached}
    if not needed:
        return
    if note := decoder_note(inputs.train[0], config, setup.device):
        log.say(note)
    if position.step or not config.train.check_pairs:
        return
    if teacher is None or inputs.teacher is None:
        log.say("check: the teacher's weights are not at hand, so no pair was recomputed (give teacher.weights=FILE to have it done)")
        return
    for cache in inputs.train:
        log.say(check_cache(cache, inputs.teacher, teacher, needed, config, setup.device))


def students_of(setup: Setup, state: dict[str, Any] | None) -> Students:
    """The students on the device, as the seed or a checkpoint makes them."""
    students, notes = build_students(setup.config, anew=state is None)
    for note in notes:
        setup.log.say(note)
    if state is not None:
        checkpoint.restore(state, students)
    students.to(setup.device)
    if setup.config.train.channels_last:
        students.to(memory_format=torch.channels_last)
    if setup.world > 1 and setup.device.type == "cuda":
        # batch statistics over all processes, as on one device
        students = torch.nn.SyncBatchNorm.convert_sync_batchnorm(students)
    return students


def feeds_of(setup: Setup, phase: int) -> tuple[Feed, Feed]:
    """The feeds of a phase: training's, shuffled and without an end, and validation's, each pair once and as recorded."""
    config, inputs, plan = setup.config.train, setup.inputs, setup.plan
    train, val = ([cache.count for cache in caches] for caches in (inputs.train, inputs.val))
    recorded = FeedSpec(
        inputs.val,
        InOrder(val, config.val_batches * config.batch),
        setup.config.pairs,
        config.batch // setup.world,
        setup.device,
        config.feed,
        config.feed_threads or max(1, processors() // setup.world),
        setup.rank,
        setup.world,
        inputs.teacher.name if inputs.teacher is not None else "",
        _val_targets(inputs, plan.val[phase].cached),
    )
    drawn = replace(
        recorded,
        caches=inputs.train,
        order=Order(train, [cache.chunk for cache in inputs.train], config.shuffle_window, config.seed),
        targets=plan.train[phase].cached,
        augment=config.augment,
        mix=config.mix,
        fresh=config.fresh,
        fresh_targets=plan.fresh[phase].cached,
        proposals=config.proposals,
        seed=config.seed,
    )
    return Feed(drawn), Feed(recorded)


def _val_targets(inputs: Inputs, cached: tuple[str, ...]) -> tuple[str, ...]:
    """What validation reads of the cache: its losses' targets, and the teacher's predictions to compare with where they are there."""
    if inputs.teacher is None or "iou" in cached:
        return cached
    units = [cache.target(inputs.teacher.name, "iou") for cache in inputs.val]
    return (*cached, "iou") if all(unit is not None and unit.complete for unit in units) else cached


def _finish(setup: Setup, students: Students, position: Position) -> None:
    """Exports the students and marks the run as finished."""
    config, folder, inputs = setup.config, setup.folder, setup.inputs
    sections = [config.student, *([config.second_student] if config.second_student is not None else [])]
    steps, pairs = run_folder.budget(config)
    run = run_folder.read_run(folder)
    files = (run_folder.STUDENT, run_folder.SECOND)
    for section, prefix, name, tracker in zip(sections, PREFIXES, files, students.trackers, strict=False):
        facts = provenance(config, inputs, run.after, prefix)
        models.save_weights(tracker.state_dict(), folder / name, metadata={**facts, "architecture": section.architecture})
    gpu = torch.cuda.get_device_name(setup.device) if setup.device.type == "cuda" else None
    result: dict[str, Any] = {
        "setting": config.setting,
        "seed": config.train.seed,
        "students": [section.architecture for section in sections],
        "parameters": sum(run_folder.trained_parameters(section.architecture) for section in sections),
        "mflops": sum(run_folder.mflops(section.architecture, config.pairs) for section in sections),
        "teacher": inputs.teacher.name if inputs.teacher is not None else None,
        "steps": steps,
        "pairs": pairs,
        "seconds": position.seconds,
        "pairs_per_s": pairs / position.seconds,
        "device": gpu or f"cpu, {torch.get_num_threads()} threads",
        "processes": setup.world,
        "torch": torch.__version__,
        "caches": {split: [str(cache.path.resolve()) for cache in getattr(inputs, split)] for split in ("train", "val")},
        "before": run.before,
        "after": run.after,
    }
    run_folder.write_result(folder, result)
