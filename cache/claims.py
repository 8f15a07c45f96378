"""Who makes which part: any number of workers, started by anything at any time, share the parts of one cache through these files.

    ledger/claims/<part>.<generation>    {"owner", "time", "lease"}: seconds since 1970 of the last renewal, and how long it holds

A claim is taken by writing generation 0 of a part where there is none, and stolen by writing the generation after one that is over:
of several that try, one does (`Place.create`). The highest generation counts. A claim is over for a worker that has seen it unchanged
for its lease, by the worker's own clock alone: clocks of machines need not agree. It is over at once when its owner is a process of this
machine that has ended, or when it is days old.

A claim only keeps two from doing the same work. What publishes a part is its ledger entry, whoever holds a claim.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple

from cache.backends.base import writable
from cache.backends.place import Place
from cache.owner import CLAIMS, Held, owner
from cache.store import Cache
from cache.unit import Unit

LEASE_S = 60.0


class _Claim(NamedTuple):
    part: int
    generation: int

    @property
    def key(self) -> str:
        return f"{CLAIMS}/{self.part:05d}.{self.generation}"


class _Seen(NamedTuple):
    """A claim as this worker has first seen it."""

    text: bytes
    at: float
    """by the clock of this process"""


class Claims:
    """The claims of this process on parts of one cache; use as a context, whose end gives all of them back. Safe for threads."""

    def __init__(self, cache: Cache, lease: float = LEASE_S) -> None:
        self._place: Place = writable(cache.backend).place
        self._lease = lease
        self._mine: dict[int, _Claim] = {}
        self._seen: dict[_Claim, _Seen] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="claims", daemon=True)

    def __enter__(self) -> Claims:
        self._place.sweep()
        self._renewer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._renewer.join()
        for part in list(self._mine):
            self.give_back(part)

    def take_one(self, parts: Iterable[int]) -> int | None:
        """Claims the first of these parts that nobody works on, or else one whose claim is over; None if there is none."""
        there, wanted = self._there(), list(parts)
        free = [part for part in wanted if part not in there]
        if free and there.keys() - self._mine.keys():  # others are at work: each goes its own way
            at = hash(owner()) % len(free)
            free = free[at:] + free[:at]
        if (part := next((part for part in free if self._create(_Claim(part, 0))), None)) is not None:
            return part
        return next((part for part in wanted if part in there and self._steal(there[part])), None)

    def give_back(self, part: int) -> None:
        """Ends a claim of this process: the part is published, or others may make it."""
        with self._lock:
            claim = self._mine.pop(part, None)
        if claim is not None:
            # where it was stolen, the thief's generation stays
            self._place.delete(_Claim(part, generation).key for generation in range(claim.generation + 1))

    def others(self) -> dict[int, Held]:
        """The claims of others that are not over, by part."""
        found = {claim.part: held for claim in self._there().values() if claim.part not in self._mine and (held := self._read(claim))}
        return {part: held for part, held in found.items() if not held.looks_over}

    def clear(self) -> None:
        """Removes the claims that are over, and what their owners were writing: to be called when every part is published."""
        for claim in self._there().values():
            if claim.part not in self._mine and ((held := self._read(claim)) is None or held.looks_over):
                self._place.delete(_Claim(claim.part, generation).key for generation in range(claim.generation + 1))
                self._place.sweep([held.owner] if held else [])

    def _there(self) -> dict[int, _Claim]:
        """The claim that counts, by part."""
        names = (name.split(".") for name in self._place.names(CLAIMS))
        claims = [_Claim(int(name[0]), int(name[1])) for name in names if len(name) == 2 and all(map(str.isdecimal, name))]
        return {claim.part: claim for claim in sorted(claims)}

    def _read(self, claim: _Claim) -> Held | None:
        """None for one that is gone or that says nothing."""
        with suppress(OSError):
            return Held.parsed(self._place.get(claim.key))
        return None

    def _text(self) -> bytes:
        return Held(owner(), round(time.time(), 3), self._lease).text()

    def _create(self, claim: _Claim) -> bool:
        if not self._place.create(claim.key, self._text()):
            return False
        with self._lock:
            self._mine[claim.part] = claim
        return True

    def _steal(self, claim: _Claim) -> bool:
        if claim.part in self._mine or ((held := self._read(claim)) is not None and not self._is_over(claim, held)):
            return False
        if not self._create(_Claim(claim.part, claim.generation + 1)):
            return False
        self._place.sweep([held.owner] if held else [])
        return True

    def _is_over(self, claim: _Claim, held: Held) -> bool:
        seen, now = self._seen.get(claim), time.monotonic()
        if seen is None or seen.text != held.text():
            seen = self._seen[claim] = _Seen(held.text(), now)
        return held.owner_is_dead or held.is_ancient or now - seen.at > held.lease

    def _renew(self) -> None:
        while not self._ended.wait(self._lease / 4):
            for claim in list(self._mine.values()):
                with suppress(OSError):  # the next renewal may be luckier; without any, another takes over
                    stolen = self._there().get(claim.part, claim).generation > claim.generation
                    with self._lock:
                        if not stolen and self._mine.get(claim.part) == claim:
                            self._place.put(claim.key, self._text())


def claimed(claims: Claims, units: Sequence[Unit], lacking: Callable[[], Sequence[int]]) -> Iterator[int]:
    """Claims one part after the other, each when it is asked for, until none that `lacking` names can be had.

    units: those in which a part must be published to be done. The listing is looked at anew when another turns out to have made a part.
    """
    todo: list[int] = []
    while todo or (todo := list(lacking())):
        part = claims.take_one(todo)
        if part is None:
            return
        if all(unit.published(part) for unit in units):
            claims.give_back(part)
            todo = []
        else:
            todo.remove(part)
            yield part
