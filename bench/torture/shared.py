"""Workers that share a cache, on a disk or in a bucket, and are killed at random while they join and write."""

from __future__ import annotations

import random
import time
from pathlib import Path

from bench.torture.caches import create, lacking, tree, write
from bench.torture.damage import Counts
from bench.torture.processes import KILLED, started
from cache import Cache
from cache.address import Location
from cache.claims import Claims, claimed
from cache.verify import verify


def worker(path: Location, made: Path) -> None:
    """Shares the work until every part is there; writes down each part that it has made."""
    cache = create(path)
    with Claims(cache) as claims:
        while lacking(cache):
            for part in claimed(claims, tuple(cache.units().values()), lambda: lacking(cache)):
                write(cache, part)
                with open(made, "a") as stream:
                    stream.write(f"{part}\n")
                claims.give_back(part)
            time.sleep(0.02)
        claims.clear()


def shared(path: Location, folder: Path, peace: dict[str, bytes], workers: int, kills: int, seed: int) -> Counts:
    """Lets workers share the cache at `path` while at most `kills` of them are killed and replaced; `folder` is for their words.

    made: parts that were finished by a worker that lived to say so; of: the parts that there are; different: files that are not those of
    `peace`; faults: of verify, remains for one; failed: workers that ended badly.
    """
    rng, done, failed = random.Random(seed), 0, 0
    log, made = folder / "log", folder / "made"
    made.touch()

    alive = [started(log, worker, path, made) for _ in range(workers)]
    while done < kills and any(process.is_alive() for process in alive):
        time.sleep(rng.uniform(0.0, 0.1))
        victim = rng.randrange(workers)
        alive[victim].kill()
        alive[victim].join()
        done += alive[victim].exitcode == KILLED
        failed += alive[victim].exitcode not in (0, KILLED)
        alive[victim] = started(log, worker, path, made)
    for process in alive:
        process.join(120)
        failed += process.exitcode != 0
    parts = made.read_text().split()
    worker(path, made)
    found = tree(path)
    different = sum(found.get(key) != peace.get(key) for key in found.keys() | peace.keys())
    faults, cache = len(verify(Cache.open(path))), Cache.open(path)
    return {"tried": done, "made": len(parts), "of": cache.parts, "different": different, "faults": faults, "failed": failed}
