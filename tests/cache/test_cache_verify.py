"""Every kind of damage is found, named and mended by the command that is told."""

from __future__ import annotations

import json
import random
import re

import h5py
import numpy as np
import pytest

from bench.torture.damage import NO_FILE, spoil
from cache import Cache, gc
from cache.backends.zarr_tree import entry_text
from cache.layout import sealed
from cache.verify import verify, verify_path
from configs.errors import RequestError, RunError


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 16
    path.write_bytes(content)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    content.pop("seal", None)
    path.write_bytes(entry_text(sealed(content)) if "ledger" in path.parts else json.dumps(content, indent=2).encode())


def mend(cache, kit):
    """What the remedy of a damaged part says."""
    for action in gc.drop_damaged(cache):
        action.apply()
    again = Cache.open(cache.path)
    for unit in (again.pairs, again.target("atom", "maps")):
        for part in unit.missing():
            kit.write(again, unit, part)
    return again


PARTS = [
    (lambda p: flip(p / "pairs/ref_box/c.1.0", 3), "pairs/ref_box", 1, "8-15", "checksum of the shard differs"),
    (lambda p: flip(p / "crops/jpeg/c.2", 5000), "crops/jpeg", 2, "16-19", "checksum of the shard differs"),
    (lambda p: flip(p / "targets/atom/maps/layer3/c.0.0.0.0", 9), "targets/atom/maps/layer3", 0, "0-7", "checksum of the shard differs"),
    (lambda p: (p / "pairs/grey/c.1").write_bytes(b"x"), "pairs/grey", 1, "8-15", "shard has 1 bytes instead of 44"),
    (lambda p: (p / "pairs/grey/c.1").unlink(), "pairs/grey", 1, "8-15", "shard is missing"),
    (lambda p: (p / "ledger/pairs/00001.json").write_text("{"), "ledger/pairs", 1, "8-15", r"expected a ledger entry \(JSON\)"),
    (lambda p: edit(p / "ledger/pairs/00001.json", lambda e: e.update(pairs=[0, 8])), "ledger/pairs", 1, "8-15", "found one of another"),
    (lambda p: edit(p / "ledger/pairs/00001.json", lambda e: e.update(fingerprint="x")), "ledger/pairs", 1, "8-15", "found one of another"),
    (
        lambda p: edit(p / "ledger/pairs/00001.json", lambda e: e["arrays"].pop("pairs/grey")),
        "ledger/pairs",
        1,
        "8-15",
        "found one of another",
    ),
    (lambda p: (p / "ledger/pairs/00003.json").write_text("{}"), "ledger/pairs", 3, "none", "beyond the last"),
]


@pytest.mark.parametrize("damage, where, part, pairs, text", PARTS)
def test_a_damaged_part_is_named_and_mended(kit, tmp_path, damage, where, part, pairs, text):
    path = tmp_path / "cache"
    whole = kit.tree(kit.fill(path).path)
    assert verify(Cache.open(path)) == []
    damage(path)
    faults = verify(Cache.open(path))
    assert [(fault.where, fault.part, fault.pairs) for fault in faults if fault.part is not None] == [(where, part, pairs)]
    assert re.search(text, faults[0].what)
    assert faults[0].remedy == f"run `python -m cache verify {path} --repair`"
    mend(Cache.open(path), kit)
    assert kit.tree(path) == whole


def test_a_folder_in_the_place_of_an_entry_is_named(kit, tmp_path):
    path = tmp_path / "cache"
    kit.fill(path)
    (path / "ledger/pairs/00001.json").unlink()
    (path / "ledger/pairs/00001.json").mkdir()
    assert any("expected a ledger entry (JSON), found a folder" in fault.what for fault in verify(Cache.open(path)))
    with pytest.raises(RunError, match="found a folder; remove it"):
        Cache.open(path).pairs.read(8, 9)


def test_every_byte_of_an_entry_counts_and_one_of_before_there_was_a_seal_is_sound(kit, tmp_path):
    path = tmp_path / "cache"
    kit.fill(path)
    file = path / "ledger/pairs/00001.json"
    content = json.loads(file.read_text())
    del content["seal"]
    made = {"opencv": "4.11.0", "batch": 32, "decoder": None}
    file.write_bytes(entry_text(content))
    assert verify(Cache.open(path)) == []
    file.write_bytes(entry_text(sealed({**content, "made": made})))
    assert verify(Cache.open(path)) == [] and (Cache.open(path).pairs.entry(1) or {})["made"] == made
    whole, unit = file.read_bytes(), Cache.open(path).pairs
    for at in range(0, len(whole), 3):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 7]) + whole[at + 1 :])
        with pytest.raises(RunError, match="expected a ledger entry"):
            unit.entry(1)


FILES = ["zarr.json", "pairs/zarr.json", "targets/atom/maps/layer3/zarr.json", "ledger/zarr.json", "ledger/pairs/00001.json"]
FILES += [
    "ledger/history/00000000.json",
    "crops/jpeg/c.1",
    "targets/atom/maps/layer3/c.1.0.0.0",
    "targets/atom/maps/constants/projection/c.0.0",
]


@pytest.mark.parametrize("what", NO_FILE)
def test_what_is_no_file_is_found_and_mended(kit, tmp_path, what):
    kit.fill(tmp_path / "cache").add_history({"seconds": 1})
    path, whole = tmp_path / "cache", kit.tree(tmp_path / "cache")
    for name in FILES:
        spoil(path / name, random.Random(0), what)
        assert verify_path(path) != []
        cache = kit.create(path)  # writes lost descriptions again
        kit.add_maps(cache)
        for action in gc.drop_damaged(cache):
            action.apply()
        for unit in kit.create(path).units().values():
            for part in unit.missing():
                kit.write(cache, unit, part)
        found = kit.tree(path)
        assert found == {key: text for key, text in whole.items() if key in found}, name
        assert whole.keys() - found.keys() <= {"ledger/history/00000000.json"}


def test_a_lost_ledger_entry_shows_as_remains(kit, tmp_path):
    path = tmp_path / "cache"
    kit.fill(path)
    (path / "ledger/targets/atom/maps/00001.json").unlink()
    lines = [fault.line() for fault in verify(Cache.open(path))]
    assert lines[0].startswith("targets/atom/maps: unfinished, 1 of 3 parts are not published (1); run `make cache`")
    assert [line.split(":")[0] for line in lines[1:]] == ["targets/atom/maps/layer2/c.1.0.0.0", "targets/atom/maps/layer3/c.1.0.0.0"]
    assert all("unpublished remains of a part" in line and "--unfinished" in line for line in lines[1:])
    for action in gc.drop_unfinished(Cache.open(path)):
        action.apply()
    assert len(verify(Cache.open(path))) == 1
    kit.write(Cache.open(path), Cache.open(path).target("atom", "maps"), 1)
    assert verify(Cache.open(path)) == []


@pytest.mark.parametrize(
    "damage, where, text",
    [
        (
            lambda p: edit(p / "zarr.json", lambda e: e["attributes"]["identity"].update(split="val")),
            "/",
            "attributes differ from their seal",
        ),
        (
            lambda p: edit(p / "pairs/zarr.json", lambda e: e["attributes"]["metadata"].clear()),
            "pairs",
            "attributes differ from their seal",
        ),
        (lambda p: edit(p / "targets/atom/zarr.json", lambda e: e["attributes"]["identity"].clear()), "targets/atom", "attributes differ"),
        (lambda p: (p / "targets/atom/maps/zarr.json").write_text("{"), "targets/atom/maps", "attributes cannot be read"),
        (lambda p: (p / "targets/atom/maps/zarr.json").write_text("{}"), "targets/atom/maps", "attributes cannot be read"),
        (lambda p: edit(p / "pairs/grey/zarr.json", lambda e: e.update(fill_value=True)), "pairs/grey", "zarr.json differs"),
        (lambda p: (p / "pairs/grey/zarr.json").unlink(), "pairs/grey", "zarr.json is missing"),
        (lambda p: (p / "targets/atom/maps/layer3/zarr.json").unlink(), "targets/atom/maps/layer3", "zarr.json is missing"),
        (lambda p: flip(p / "targets/atom/maps/constants/projection/c.0.0", 3), "targets/atom/maps", "constants: .* found other numbers"),
        (lambda p: (p / "notes.txt").write_text("x"), "notes.txt", "foreign file"),
        (lambda p: (p / "pairs/grey/c.7").write_text("x"), "pairs/grey/c.7", "foreign file"),
        (lambda p: (p / "pairs/grey/.c.1.abc.tmp").write_text("x"), "pairs/grey/.c.1.abc.tmp", "remains of an interrupted write"),
    ],
)
def test_other_damage_is_named(kit, tmp_path, damage, where, text):
    path = tmp_path / "cache"
    kit.fill(path)
    damage(path)
    faults = verify_path(path)
    assert where in [fault.where for fault in faults]
    assert verify_path(path, deep=True) == faults
    assert re.search(text, next(fault.what for fault in faults if fault.where == where))
    if where.startswith("targets/atom/maps"):
        assert "--target atom/maps" in faults[0].remedy


def test_a_foreign_file_beside_a_constant_is_named(kit, tmp_path):
    path = tmp_path / "cache"
    kit.fill(path)
    (path / "targets/atom/maps/constants/projection/notes.txt").write_text("x")
    assert [fault.where for fault in verify(Cache.open(path))] == ["targets/atom/maps/constants/projection/notes.txt"]


def test_damage_never_reaches_a_reader_as_numbers(kit, tmp_path):
    path = tmp_path / "cache"
    kit.fill(path)
    shards = {
        "pairs/ref_box/c.1.0": lambda cache: cache.pairs.read(8, 16),
        "crops/jpeg/c.1": lambda cache: cache.read_crops(8, 16),
        "targets/atom/maps/layer3/c.1.0.0.0": lambda cache: cache.target("atom", "maps").read(8, 16),
    }
    for name, read in shards.items():
        whole = (path / name).read_bytes()
        for half in (whole[: len(whole) // 2], b"", whole + b"1234", None):
            (path / name).unlink() if half is None else (path / name).write_bytes(half)
            with pytest.raises(RunError, match=r"part 1: expected .*; look at it with `python -m cache verify`"):
                read(Cache.open(path))
        (path / name).write_bytes(whole)
        read(Cache.open(path))


def test_offsets_outside_the_part_are_refused(kit, tmp_path):
    path = tmp_path / "cache"
    kit.fill(path)
    flip(path / "crops/offset/c.1.0", 18)
    with pytest.raises(RunError, match="crops, part 1: expected offsets within the part"):
        Cache.open(path).read_crops(8, 16)


def test_damage_of_a_copy_is_named_and_the_remedy_is_another_copy(kit, tmp_path):
    path = tmp_path / "cache.h5"
    kit.fill(path)
    assert verify(Cache.open(path)) == []
    with h5py.File(path) as file:
        at = file["pairs/ref_box"].id.get_chunk_info(2).byte_offset  # the first chunk of part 1
    flip(path, at)
    faults = verify(Cache.open(path))
    assert [(fault.where, fault.part, fault.pairs, fault.what) for fault in faults] == [
        ("pairs/ref_box", 1, "8-15", "checksum of the rows differs")
    ]
    with h5py.File(path, "r+") as file:
        file["foreign"] = np.zeros(3)
        file["ledger/pairs/notes"] = 1
        file["targets/atom/maps/constants/projection"][0, 0] = 5
        del file["pairs/grey"], file["ledger/pairs/00002"]
        file["ledger/pairs/00002"] = np.bytes_(b"[1]")
    faults = verify(Cache.open(path))
    named = {fault.where: fault.what for fault in reversed(faults)}
    assert named["foreign"] == named["ledger/pairs/notes"] == "foreign object"
    assert named["pairs/grey"] == "dataset is missing"
    assert "found other numbers" in named["targets/atom/maps"]
    assert "expected a ledger entry (JSON)" in named["ledger/pairs"]
    assert {fault.remedy for fault in faults} == {"remove this copy and export its zarr cache again, finished and sound"}


def test_every_byte_of_a_copy_counts_also_those_between_its_arrays(kit, tmp_path):
    path, rng = tmp_path / "cache.h5", random.Random(3)
    rows = kit.fill(path).pairs.read(0, 20)
    whole = path.read_bytes()
    with h5py.File(path) as file:
        texts = [file[name].id.get_offset() for name in ("attributes", "pairs/attributes", "ledger/pairs/00001")]
    places = [0, 40, len(whole) - 1, len(whole) - 80, *texts, *(rng.randrange(8, 4000) for _ in range(12))]
    for at in places:
        path.unlink()  # a file that is open stays as it was
        path.write_bytes(whole[:at] + bytes([whole[at] ^ rng.randrange(1, 256)]) + whole[at + 1 :])
        try:
            assert verify_path(path) != [], at
            found = Cache.open(path).check_before_use().pairs.read(0, 20)
            assert all(np.array_equal(found[name], rows[name]) for name in rows), at
        except (RunError, RequestError):
            pass
    path.write_bytes(whole[: whole.rindex(b"\nTeachOnce")])
    assert [fault.what for fault in verify(Cache.open(path))] == ["checksum at the end of the file is missing"]


def test_a_copy_that_was_cut_short_is_no_cache(kit, tmp_path):
    path = tmp_path / "cache.h5"
    kit.fill(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(RequestError, match="expected a cache, found something else"):
        Cache.open(path)


def test_deep_finds_what_checksums_bear_out(kit, path):
    made = kit.create(path.with_name("made"))
    start, stop = made.bounds(1)
    crops = kit.images()[start:stop]
    crops[3] = (crops[3][0], b"\xff\xd8 no picture at all")
    made.pairs.write(1, {name: kit.numbers(array)[start:stop] for name, array in made.pairs.arrays.items()}, crops)
    cache = kit.put(made, path)
    assert ["unfinished" in fault.what for fault in verify(cache)] == [True]
    assert [fault.what for fault in verify(cache, deep=True) if fault.part == 1] == ["test crop of pair 11 cannot be decoded"]
