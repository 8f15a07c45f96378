"""`cache verify --repair`: what is damaged in a cache is computed again, part by part, and comes out byte by byte as it was.

Crops come from the data set's frames, targets from the crops and the teacher's weights, descriptions from what they describe. Nothing that
is sound is touched, and a part whose entry in the ledger is sound must come out with its checksums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cache import Cache, Unit
from cache.address import Location
from cache.backends import open_backend
from cache.backends.base import MADE, OtherNumbers, writable
from cache.gc import restore_descriptions
from cache.verify import verify
from configs.errors import RequestError, RunError
from configs.machine import processors
from configs.progress import ProgressBar
from configs.schema import TeacherConfig
from kdlosses import LiveTeacher
from models import TeacherSpec, pick_device
from models.checkpoint import weights_digest
from models.teacher import DEMO_TEACHER
from pairs.decode import decoder_name
from pairs.decode.decoder import Kind
from precompute.crop_writer import CropReader, CropWriter
from precompute.descriptions import restore_pair_set, restore_targets
from precompute.frames import dataset_of, pairs_of, require_same, spread
from precompute.made import Made, crops_made, decoder_made, made_with
from precompute.target_writer import Measured, Work, fill

SAMPLE = 64
"""Pairs of sound parts that are cut again before a part is."""


def repair(path: Location, weights: Path | None, say: Callable[[str], None]) -> None:
    """Mends the cache at `path` as far as parts and descriptions of it are damaged; `say` is told of each thing.

    weights: the teacher's file; None: the one that the history names, or the demo's. RequestError: an HDF5 copy, or the data set or the
    weights that are needed are not at hand or are others; what was mended until then stays so.
    """
    writable(open_backend(path))
    for key in restore_pair_set(path):
        say(f"{key}: written again")
    cache = Cache.open(path).check_before_use()
    writer, files = writable(cache.backend), weights_at_hand(cache, weights)
    for key in (*restore_targets(cache, files), *restore_descriptions(cache)):
        say(f"{key}: written again")
    lost = [where for where, record in writer.history_files() if record is None]
    writer.drop_records(lost)
    for where in lost:
        say(f"{where}: a damaged record of work, dropped")
    damaged = [
        (unit, part) for unit, part in dict.fromkeys((fault.unit, fault.part) for fault in verify(cache)) if unit and part is not None
    ]
    for unit, part in damaged:
        if part >= cache.parts:
            writer.retract(unit, [part])
            say(f"ledger/{unit}: the entry of part {part}, beyond the last, dropped")
    _repair_parts(cache, [(unit, part) for unit, part in damaged if part < cache.parts], files, say)


def weights_at_hand(cache: Cache, given: Path | None) -> dict[Path, str]:
    """Files of weights with their SHA-256: the one that is given, or those that the history names, and the demo's."""
    named = [Path(file) for record in cache.history() if isinstance(file := record.get("teacher_weights"), str)]
    files = [given] if given is not None else [*named, DEMO_TEACHER]
    return {file: weights_digest(file) for file in dict.fromkeys(files) if given is not None or file.is_file()}


def _repair_parts(cache: Cache, damaged: Sequence[tuple[str, int]], files: Mapping[Path, str], say: Callable[[str], None]) -> None:
    crops = [part for unit, part in damaged if unit == cache.pairs.path]
    jobs = _jobs(cache, [(unit, part) for unit, part in damaged if unit != cache.pairs.path], files)
    dataset = dataset_of(cache.path, cache.identity) if crops else None
    if dataset is not None:
        require_same(cache, dataset, SAMPLE, crops)
        with (
            closing(CropWriter(dataset, pairs_of(cache.identity), processors())) as writer,
            ProgressBar("crops", len(crops), "part") as bar,
        ):
            for part in crops:
                _publish(cache.pairs, part, crops_made(), partial(writer.write, cache, part), bool(spread(cache, 1, crops)))
                bar.add(1)
                say(f"{cache.pairs.path}, part {part}: cut again from {dataset.root}")
    for job in jobs:
        job.run(cache)
        say(f"{job.unit.path}, part {job.part}: computed again with {job.teacher.weights}")


@dataclass(frozen=True)
class _Job:
    """A part of a target that is to be computed again."""

    unit: Unit
    part: int
    teacher: TeacherSpec
    made: Made
    """with what it was made before, as far as anything tells"""

    def run(self, cache: Cache) -> None:
        device = pick_device("cpu" if self.made.get("device") == "cpu" else "auto", "device")
        feed: Kind = "torch" if str(self.made.get("decoder", "")).startswith("opencv") else "auto"
        made = made_with(device, self.teacher.batch)
        live = LiveTeacher(self.teacher.load(device), self.teacher.feature_bits)
        pairs, name = pairs_of(cache.identity), self.unit.path.split("/")[-1]
        parts, batch = [self.part], self.teacher.batch
        work = Work(cache, pairs, parts, {name: self.unit}, batch, device, feed, processors(), made, lacks=lambda unit, part: True)
        now = made | {"decoder": decoder_made(decoder_name(feed, device))}
        with closing(CropReader()) as reader:
            _publish(self.unit, self.part, now, lambda: fill(work, reader, live, Measured(), ProgressBar("", 0, "", shown=False)), True)


def _jobs(cache: Cache, damaged: Sequence[tuple[str, int]], files: Mapping[Path, str]) -> list[_Job]:
    """RequestError: the weights of a teacher are not at hand."""
    jobs = []
    for path, part in damaged:
        _, name, target = path.split("/")
        unit = cache.target(name, target)
        if unit is not None:
            made = _made_before(unit, part)
            jobs.append(_Job(unit, part, _teacher(cache, name, unit, made, files), made))
    return jobs


def _teacher(cache: Cache, name: str, unit: Unit, made: Made, files: Mapping[Path, str]) -> TeacherSpec:
    told = cache.teachers()[name]
    digest, batch = told["weights_sha256"], made.get("batch")
    if (file := next((file for file, found in files.items() if found == digest), None)) is None:
        found = ", ".join(f"{file} ({sha256[:12]})" for file, sha256 in files.items()) or "none"
        raise RequestError(
            f"{unit.path}: expected the weights of the teacher {name} (SHA-256 {digest[:12]}) to compute it again, found {found};"
            f" name the file with --teacher, or drop the damaged parts with `python -m cache gc {cache.path} --damaged`"
        )
    batch = batch if isinstance(batch, int) else TeacherConfig().batch
    return TeacherSpec(name, told["architecture"], file, digest, told["dtype"], batch, unit.identity.get("feature_bits"))


def _made_before(unit: Unit, part: int) -> Made:
    """With what the part was made; where its entry is damaged, with what the nearest sound one was."""
    near = sorted(unit.parts_there(), key=lambda number: abs(number - part))
    return next((made for number in near if (made := _made(unit, number))), {})


def _publish(unit: Unit, part: int, now: Made, make: Callable[[], object], vouched: bool) -> None:
    """Lets `make` publish a part again. RequestError: it comes out otherwise than its entry says.

    vouched: whether something else than that entry says that frames or weights are those of before, should it be damaged as well.
    """
    try:
        make()
    except OtherNumbers as error:
        before = _made(unit, part)
        if not (error.stored or (vouched and before is None)):
            changed = [f"{key} {value} (now {now.get(key)})" for key, value in (before or {}).items() if value != now.get(key)]
            why = f"it was made with {', '.join(changed)}" if changed else "its frames or crops are others"
            raise RequestError(
                f"{unit.path}, part {part}: expected the numbers of its checksums again, found others: {why}; restore it from a copy, or"
                f" drop it with `python -m cache gc {unit.backend.path} --damaged` and run `make cache`"
            ) from error
        writable(unit.backend).retract(unit.path, [part])
        make()


def _made(unit: Unit, part: int) -> Made | None:
    """With what a part was made; None where its entry cannot be read."""
    try:
        return dict((unit.entry(part) or {}).get(MADE) or {})
    except RunError:
        return None
