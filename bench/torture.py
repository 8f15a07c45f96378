"""`make torture`: caches that are damaged, killed at random and shared by workers that die must come out byte by byte as one made in peace.

damage    flips and truncations anywhere in a cache: found by verify, never read, mended by gc --damaged and writing again
workers   processes that share a cache on the disk (and, with --bucket, in a bucket), killed at random while they join and write,
          beside copies of it that are killed and gone on with
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cache import Array, Cache, PairSetSpec, TargetSpec
from cache.address import Location, location
from cache.backends import open_place
from cache.claims import Claims, claimed
from cache.gc import drop_damaged
from cache.verify import verify, verify_path
from configs.cli import Parser, run
from configs.errors import TeachOnceError

COUNT, PART = 40, 8
MAPS = (Array("plain", (2, 6, 6), "float16", "numbers"), Array("packed", (2, 6, 6), "float16", "numbers of few bits", True))
TARGET = TargetSpec("maps", {"version": 1}, MAPS, {"projection": np.eye(3, dtype="float32")})
SPEC = PairSetSpec(
    {"dataset": "torture", "split": "train"}, COUNT, [Array("box", (4,), "float32", "pixels")], 2000, PART, 4, {"sequences": ["a"]}
)


def create(path: Location) -> Cache:
    """The empty cache, or the one that is there, mended in what its description says."""
    cache = Cache.create(path, SPEC)
    cache.add_target("teacher", {"sha256": "ab" * 32}, TARGET)
    return cache


def write(cache: Cache, part: int) -> None:
    """Writes what the part lacks: numbers that follow from its own."""
    start, stop = cache.bounds(part)
    for unit in cache.units().values():
        if not unit.published(part):
            rows = {
                name: np.random.default_rng([part, len(name)]).integers(8, 16, (stop - start, *array.shape)).astype("float32")
                for name, array in unit.arrays.items()
            }
            draw = np.random.default_rng(part)
            crops = [(b"\xff\xd8" + draw.bytes(300), b"\xff\xd8" + draw.bytes(500)) for _ in range(start, stop)]
            unit.write(part, rows, crops if unit is cache.pairs else None, {"device": "cpu", "batch": 8})


def lacking(cache: Cache) -> list[int]:
    """Parts that some unit lacks."""
    return sorted({part for unit in cache.units().values() for part in unit.missing()})


def tree(path: Location) -> dict[str, bytes]:
    """Every file of a cache."""
    place = open_place(path)
    return {key: place.get(key) for key, _ in place.walk()}


class Damage(NamedTuple):
    """What came of a number of damages."""

    tried: int
    missed: int
    """no fault found by verify"""
    read: int
    """read as numbers although they differ"""
    foreign: int
    """exceptions that are not the project's own"""
    unmended: int
    """other bytes after gc --damaged and writing again"""


def damage(folder: Path, tries: int, seed: int) -> Damage:
    """Damages a cache `tries` times, one byte or one length at a time, and mends it."""
    rng, counts = random.Random(seed), dict.fromkeys(Damage._fields[1:], 0)
    path = folder / "damaged"
    for part in range(create(path).parts):
        write(create(path), part)
    create(path).add_history({"seconds": 1})
    whole, rows = tree(path), _rows(Cache.open(path))
    for _ in range(tries):
        name = rng.choice(sorted(whole))
        (path / name).write_bytes(_damaged(whole[name], rng))
        try:
            counts["missed"] += not verify_path(path)
            counts["read"] += _reads_other(path, rows)
            _mend(path)
            now = tree(path)
            counts["unmended"] += {key: now.get(key) for key in whole if "/history/" not in key} != {
                key: text for key, text in whole.items() if "/history/" not in key
            }
        except Exception as error:
            counts["foreign"] += 1
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        for key in tree(path).keys() - whole.keys():
            (path / key).unlink()
        for key in whole:
            if not (path / key).exists() or (path / key).read_bytes() != whole[key]:
                (path / key).parent.mkdir(parents=True, exist_ok=True)
                (path / key).write_bytes(whole[key])
    return Damage(tries, **counts)


def _damaged(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    if rng.random() < 0.25:
        return content[:at]
    return content[:at] + bytes([content[at] ^ rng.randrange(1, 256)]) + content[at + 1 :]


def _rows(cache: Cache) -> dict[str, bytes]:
    return {f"{path}/{name}": rows.tobytes() for path, unit in cache.units().items() for name, rows in unit.read(0, COUNT).items()} | {
        "crops": b"".join(bytes(image) for images in cache.read_crops(0, COUNT) for image in images)
    }


def _reads_other(path: Path, rows: dict[str, bytes]) -> bool:
    """Whether a checked reader gets other numbers; an error is no number."""
    try:
        return any(rows[name] != found for name, found in _rows(Cache.open(path).check_before_use()).items())
    except TeachOnceError:
        return False


def _mend(path: Path) -> None:
    try:
        for action in drop_damaged(Cache.open(path)):
            action.apply()
    except TeachOnceError:
        pass  # too damaged to be opened: creating it again mends that
    cache = create(path)
    for action in drop_damaged(cache):
        action.apply()
    for part in lacking(cache := create(path)):
        write(cache, part)


class Shared(NamedTuple):
    """What came of workers that shared a cache."""

    kills: int
    made: int
    """parts that were finished by a worker that lived to say so"""
    different: int
    """files that differ from those of a cache made in peace"""
    faults: int
    """of verify: remains, for one"""


def worker(path: Location) -> list[int]:
    """Shares the work until every part is there; the parts that it made."""
    cache, made = create(path), []
    with Claims(cache) as claims:
        while lacking(cache):
            for part in claimed(claims, tuple(cache.units().values()), lambda: lacking(cache)):
                write(cache, part)
                made.append(part)
                claims.give_back(part)
            time.sleep(0.02)
        claims.clear()
    return made


def shared(path: Location, peace: dict[str, bytes], workers: int, kills: int, seed: int) -> Shared:
    """Lets workers share the cache at `path` while they are killed and replaced at random."""
    rng, done = random.Random(seed), 0
    command = [sys.executable, "-m", "bench.torture", "--worker", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    with tempfile.TemporaryFile("w+") as log:

        def start() -> subprocess.Popen[Any]:
            return subprocess.Popen(command, env=environment, stdout=log)

        alive = [start() for _ in range(workers)]
        while done < kills and any(process.poll() is None for process in alive):
            time.sleep(rng.uniform(0.0, 0.4))
            victim = rng.randrange(workers)
            done += alive[victim].poll() is None
            alive[victim].send_signal(signal.SIGKILL)
            alive[victim].wait()
            alive[victim] = start()
        codes = [process.wait(120) for process in alive]
        log.seek(0)
        made = len(log.read().split())
    assert not any(code not in (0, -signal.SIGKILL) for code in codes), codes
    worker(path)
    found = tree(path)
    different = sum(found.get(key) != peace.get(key) for key in found.keys() | peace.keys())
    return Shared(done, made, different, len(verify(Cache.open(path))))


def main(arguments: Sequence[str], prog: str = "python -m bench.torture") -> int:
    """Prints the table; 1 if anything was missed, lost or left."""
    options = parser(prog).parse_args(arguments)
    if options.worker:
        print(*worker(location(options.worker)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        worker(here / "peace")
        peace, bad = tree(here / "peace"), 0
        rows = [("what", "tried", "outcome"), ("---", "---", "---")]
        if options.damages:
            result = damage(here, options.damages, options.seed)
            bad += sum(result[1:])
            words = f"{result.missed} missed, {result.read} read, {result.foreign} foreign errors, {result.unmended} not mended"
            rows.append(("flips and truncations", f"{result.tried:,}", words))
        kills = 0
        places = [here / "shared", *([location(options.bucket) / "torture"] if options.bucket else [])]
        for place in places if options.kills else ():
            outcome, kills, turn, made = [0, 0], 0, 0, 0
            while kills < options.kills:
                path = place / str(turn) if not isinstance(place, Path) else place.with_name(f"shared{turn}")
                told = shared(path, peace, options.workers, options.kills - kills, options.seed + turn)
                outcome, kills, turn = [outcome[0] + told.different, outcome[1] + told.faults], kills + told.kills, turn + 1
                made += told.made
                open_place(path).drop_tree("") if not isinstance(path, Path) else shutil.rmtree(path)
            bad += sum(outcome)
            words = f"{outcome[0]} files differ, {outcome[1]} remains; {made} parts made for {turn * COUNT // PART}"
            rows.append((f"{options.workers} workers, killed at random ({place})", f"{kills} kills in {turn} caches", words))
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return int(bad > 0)


def parser(prog: str) -> Parser:
    """The options."""
    parser = Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", type=int, default=2000, help="flips and truncations (default: 2000)")
    parser.add_argument("--kills", type=int, default=200, help="kills a place (default: 200)")
    parser.add_argument("--workers", type=int, default=8, help="processes that share a cache (default: 8)")
    parser.add_argument("--bucket", metavar="s3://BUCKET/PREFIX", help="share a cache there too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", metavar="PATH", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
