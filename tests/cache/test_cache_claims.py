"""Claims: of several that want a part one gets it, those that end give back, the dead are replaced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import cache
from cache import Cache
from cache.claims import Claims, claimed
from cache.owner import is_dead, owner
from cache.verify import verify

FAR = "0123456789ab-1-1"  # a process of another machine


def claim(folder: Path, part: int, generation: int = 0, *, by: str = FAR, ago: float = 0.0, lease: float = 60.0) -> Path:
    """A claim of another process, renewed `ago` seconds ago."""
    path = folder / "ledger" / "claims" / f"{part:05d}.{generation}"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"owner": by, "time": time.time() - ago, "lease": lease}))
    return path


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "ledger" / "claims"))


def test_a_process_is_alive_until_it_has_ended():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    machine, pid, start = owner().split("-")
    assert pid == str(os.getpid())
    stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    assert not is_dead(owner()) and not is_dead(f"{machine}-{child.pid}-{stat}")
    assert is_dead(f"{machine}-{pid}-{int(start) + 1}"), "a number that was given again"
    child.communicate(b"\n")
    assert is_dead(f"{machine}-{child.pid}-{stat}")
    for unknown in (FAR, "", "x", f"{machine}--", "a-b-c"):
        assert not is_dead(unknown)


def test_what_is_claimed_is_left_to_its_owner_and_given_back(kit, folder):
    store = kit.create(folder)
    claim(folder, 0)
    with Claims(store) as mine, Claims(Cache.open(folder)) as others:
        taken = {mine.take_one(range(3)), others.take_one(range(3))}
        assert taken == {1, 2} and mine.take_one(range(3)) is None
        assert set(mine.others()) == {0, *others._mine}
        told = json.loads((folder / "ledger/claims/00001.0").read_text())
        assert told["owner"] == owner() and abs(told["time"] - time.time()) < 5 and told["lease"] == 60
        mine.give_back((mine.others().keys().isdisjoint({1}) and 1) or 2)
    assert names(folder) == ["00000.0"]


DAMAGED = [b"", b"{", b'{"owner": 1}', b"[]", b"\xff", b"[" * 100_000]
DAMAGED += [
    b'{"owner": "x", "time": %s, "lease": %s}' % tuple(pair.split()) for pair in (b"1 1e400", b"1 -1", b"NaN 1", b"1" * 400 + b" 1")
]


@pytest.mark.parametrize("over", [{"by": "dead"}, {"ago": 1e5}, *({"text": text} for text in DAMAGED)], ids=lambda over: str(over)[:40])
def test_a_claim_that_is_over_is_stolen_by_one(kit, folder, over):
    store, text = kit.create(folder), over.pop("text", None)
    if over.get("by") == "dead":
        over["by"] = f"{owner().split('-')[0]}-999999999-1"
    path = claim(folder, 1, 3, **over)
    if text is not None:
        path.write_bytes(text)
    thieves = [Claims(Cache.open(folder)) for _ in range(8)]
    won: list[int | None] = []
    start = threading.Barrier(8)

    def steal(thief: Claims) -> None:
        start.wait()
        won.append(thief.take_one([1]))

    threads = [threading.Thread(target=steal, args=(thief,)) for thief in thieves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won, key=str) == [1, *[None] * 7]
    assert names(folder) == ["00001.3", "00001.4"]
    next(thief for thief in thieves if thief._mine).give_back(1)
    assert names(folder) == []
    with Claims(store) as claims:
        assert claims.take_one([1]) == 1


@pytest.mark.parametrize("hours", [-1.0, 1.0])
def test_a_claim_of_a_machine_whose_clock_is_wrong_holds_while_it_is_renewed_and_no_longer(kit, folder, hours):
    with Claims(kit.create(folder)) as claims:
        for _ in range(4):  # renewed again and again, always an hour off
            claim(folder, 0, ago=-3600 * hours, lease=0.2)
            assert claims.take_one([0]) is None
            time.sleep(0.1)
        time.sleep(0.15)
        assert claims.take_one([0]) == 0, "seen unchanged for a lease"
    assert names(folder) == []


@pytest.mark.parametrize("what", ["a folder", "a pipe"])
def test_what_is_no_file_holds_no_part(kit, folder, what):
    with Claims(kit.create(folder)) as claims:
        path = folder / "ledger" / "claims" / "00000.0"
        path.parent.mkdir()
        path.mkdir() if what == "a folder" else os.mkfifo(path)
        assert claims.take_one([0]) == 0


def test_a_claim_is_renewed_while_its_owner_works_and_not_once_it_is_stolen(kit, folder):
    store = kit.create(folder)
    with Claims(store, lease=0.4) as claims:
        assert claims.take_one([0]) == 0
        with Claims(Cache.open(folder)) as other:
            time.sleep(0.8)
            assert other.take_one([0]) is None, "renewed"
        claim(folder, 0, 1)
        before = (folder / "ledger/claims/00000.0").read_text()
        time.sleep(0.3)
        assert (folder / "ledger/claims/00000.0").read_text() == before
    assert names(folder) == ["00000.1"], "the thief's stays"


def test_parts_are_claimed_one_at_a_time_and_what_another_has_made_is_passed_over(kit, folder):
    store = kit.create(folder)
    looks = []

    def lacking() -> list[int]:
        looks.append(store.pairs.missing())
        return looks[-1]

    with Claims(store) as claims:
        parts = claimed(claims, [store.pairs], lacking)
        assert next(parts) == 0 and names(folder) == ["00000.0"]
        kit.write(Cache.open(folder), Cache.open(folder).pairs, 1)  # without a claim: whoever publishes first
        assert next(parts) == 2 and looks == [[0, 1, 2], [0, 2]]
        assert next(parts, None) is None, "0 and 2 are under way"
        kit.write(store, store.pairs, 0)
        claims.give_back(0)
        kit.write(store, store.pairs, 2)
        claims.give_back(2)
        assert list(claimed(claims, [store.pairs], lacking)) == []
    assert verify(store) == []


def test_claims_that_are_over_are_cleared_and_named_as_remains(kit, folder):
    store = kit.fill(folder)
    claim(folder, 0, by=f"{owner().split('-')[0]}-999999999-1")
    claim(folder, 1, ago=100)
    kept = claim(folder, 2)
    assert [fault.what for fault in verify(store)] == ["remains of an interrupted write"] * 2
    with Claims(store) as claims:
        claims.clear()
    assert names(folder) == [kept.name] and verify(store) == []


# Workers that share one cache; each writes the number of every part that it made.
WORKER = """
import importlib.util, os, sys, time
from pathlib import Path

spec = importlib.util.spec_from_file_location("kit", sys.argv[1])
kit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)
from cache.claims import Claims, claimed
cache = kit.create(Path(sys.argv[2]))
with Claims(cache) as claims:
    while cache.pairs.missing():
        for part in claimed(claims, [cache.pairs], cache.pairs.missing):
            print(part, flush=True)
            time.sleep(0.05)
            kit.write(cache, cache.pairs, part)
            claims.give_back(part)
        time.sleep(0.02)
    claims.clear()
"""


def test_workers_join_and_die_and_the_cache_is_the_one_made_in_peace(kit, folder):
    def start() -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(Path(cache.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", WORKER, str(Path(__file__).with_name("conftest.py")), str(folder)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    first = start()
    assert first.stdout.readline() == "0\n"
    first.send_signal(signal.SIGSTOP)  # holds part 0, alive and renewing nothing
    first.send_signal(signal.SIGKILL)
    first.wait()
    workers = [start(), start()]
    made = [int(line) for worker in workers for line in worker.communicate(timeout=60)[0].split()]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert sorted(made) == [0, 1, 2], "each once"
    whole = kit.create(folder.with_name("whole"))
    for part in range(3):
        kit.write(whole, whole.pairs, part)
    assert kit.tree(folder) == kit.tree(whole.path)
    assert verify(Cache.open(folder)) == []
