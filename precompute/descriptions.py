"""Lost attributes of a cache's groups, found again: what they must have said follows from the other groups, and checksums bear it out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cache import Cache, PairSetSpec
from cache.address import Location
from cache.backends import open_backend
from cache.backends.base import Reader, writable
from cache.layout import Group, pair_groups, target_fingerprint, target_group, teacher_group, unsealed
from configs.architectures import ARCHITECTURES
from configs.errors import RequestError, RunError, TeachOnceError
from kdlosses import TARGETS, Sizes, target_spec
from models import network_sizes
from models.teacher import TeacherSpec
from pairs.stored import crop_bytes_bound, pair_arrays
from precompute.frames import dataset_of, pairs_of
from precompute.request import CHUNK, PART

_DTYPES = ("float32", "bfloat16", "float16")
_BITS = (None, *range(2, 11))


def sound_attributes(backend: Reader, group: str) -> dict[str, Any] | None:
    """The attributes of a group; None where they are damaged or not there."""
    try:
        attributes: dict[str, Any] = backend.described(group)
    except (TeachOnceError, KeyError):
        return None
    return None if unsealed(attributes) else attributes


def restore_pair_set(path: Location) -> list[str]:
    """Writes lost attributes of the cache itself, its pairs and its crops again; which. RequestError: they cannot be found again."""
    backend = writable(open_backend(path))
    held = {group: sound_attributes(backend, group) for group in ("", "pairs", "crops")}
    if all(held.values()):
        return []
    identity = (held[""] or held["pairs"] or {}).get("identity")
    if identity is None:
        raise RequestError(f"{path}: expected the identity of the pair set, found it damaged twice; remove {path} and run `make cache`")
    root, pairs = held[""] or {"count": identity["count"], "part": PART, "chunk": CHUNK}, pairs_of(identity)
    metadata = held["pairs"]["metadata"] if held["pairs"] else {"sequences": dataset_of(path, identity).sequences}
    bound = held["crops"]["bytes_bound"] if held["crops"] else crop_bytes_bound(pairs)
    spec = PairSetSpec(identity, root["count"], pair_arrays(pairs), bound, root["part"], root["chunk"], metadata)
    groups = pair_groups(spec)[:3]
    if all(backend.metadata_fault(placed) for group in groups for placed in group.arrays):
        raise RequestError(f"{path}: expected arrays of {spec.count} pairs, found others; remove {path} and run `make cache`")
    return [key for group in groups if held[group.path] is None for key in backend.restore(Group(group.path, group.attributes))]


def restore_targets(cache: Cache, files: Mapping[Path, str]) -> list[str]:
    """Writes lost attributes of teachers and targets again, and damaged constants; which. `files`: weights at hand -> SHA-256.

    RequestError: none that can be thought of bears out the checksums that are left.
    """
    writer, done = writable(cache.backend), []
    for teacher in writer.children("targets"):
        path, targets = f"targets/{teacher}", writer.children(f"targets/{teacher}")
        if sound_attributes(writer, path) is None:
            done += writer.restore(_teacher(cache, teacher, targets, files))
        parent = Group(path, writer.attributes(path))
        for target in targets:
            if not _is_sound(cache, teacher, target):
                done += writer.restore(_target(cache, parent, target))
    return done


def _is_sound(cache: Cache, teacher: str, target: str) -> bool:
    try:
        unit = cache.target(teacher, target)
        return unit is not None and unit.constants is not None
    except TeachOnceError:
        return False


def _lost(cache: Cache, group: str, names: str) -> RequestError:
    remedy = "run `make cache` with the SETTING and TEACHER that it was made with"
    return RequestError(f"{cache.path}: {group}: expected attributes that fit {names}, found them damaged and no others that do; {remedy}")


def _teacher(cache: Cache, name: str, targets: list[str], files: Mapping[Path, str]) -> Group:
    """The group of a teacher, of whose identity the fingerprints of its targets know."""
    path, backend = f"targets/{name}", cache.backend
    known = [held for target in targets if (held := sound_attributes(backend, f"{path}/{target}")) is not None]
    for digest, architecture, dtype in itertools.product(dict.fromkeys(files.values()), ARCHITECTURES, _DTYPES):
        identity = TeacherSpec(name, architecture, None, digest, dtype, 1, None).identity()
        if any(target_fingerprint(held, identity, cache.fingerprint) == held["fingerprint"] for held in known):
            return teacher_group(name, identity)
    raise _lost(cache, path, "its targets and the weights at hand (--teacher FILE)")


def _target(cache: Cache, teacher: Group, name: str) -> Group:
    """The group of a target, whose fingerprint its own attributes or the entries of its ledger know."""
    path = f"{teacher.path}/{name}"
    held = sound_attributes(cache.backend, path)
    known = {held["fingerprint"]} if held is not None else set(_published_fingerprints(cache.backend, path))
    for sizes in _sizes(cache, teacher.attributes["identity"], name, held):
        group = target_group(teacher, target_spec(name, sizes), cache.grid, cache.fingerprint)
        if group.attributes["fingerprint"] in known:
            return group
    raise _lost(cache, path, "the entries of its ledger")


def _published_fingerprints(backend: Reader, path: str) -> Iterator[str]:
    for part in backend.published(path):
        with suppress(RunError):
            if (entry := backend.entry(path, part)) is not None:
                yield entry["fingerprint"]


def _sizes(cache: Cache, teacher: Mapping[str, Any], name: str, held: Mapping[str, Any] | None) -> Iterator[Sizes]:
    """All that a target of a teacher may follow from; `held`: its attributes, where they are sound."""
    if name not in TARGETS or teacher.get("architecture") not in ARCHITECTURES:
        return
    row, (channels, numbers) = TARGETS[name], network_sizes(teacher["architecture"])
    bits: Iterable[int | None] = _BITS if row.whole else (None,)
    students: Iterable[Mapping[str, int] | None] = [network_sizes(student)[0] for student in ARCHITECTURES] if row.projected else (None,)
    seed, pairs = 0, pairs_of(cache.identity)
    if held is not None:
        told = held["identity"]
        bits, students, seed = (told.get("feature_bits"),), (told.get("student_channels"),), told.get("projection_seed", 0)
    for some, student in itertools.product(bits, students):
        yield Sizes(channels, numbers, pairs, student, some, seed)
