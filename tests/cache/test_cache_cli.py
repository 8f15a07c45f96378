"""`python -m cache`: output, exit codes and one-line errors."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest

from cache import Cache
from cache.__main__ import main
from configs.cli import run


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs a command below the folder of the caches; (exit code, stdout, stderr)."""
    monkeypatch.setenv("CACHE_DIR", str(tmp_path))

    def call(*arguments):
        capsys.readouterr()
        try:
            code = run(main, [str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        out, error = capsys.readouterr()
        return code, out, error

    return call


def test_ls(kit, tmp_path, command):
    code, _, error = command("ls", tmp_path / "nothing")
    assert code == 2
    assert error.startswith("error: ")
    assert "expected caches below it, found none" in error
    kit.fill(tmp_path / "got10k" / "train")
    cache = kit.create(tmp_path / "val")
    kit.write(cache, cache.pairs, 0)
    kit.put(cache, tmp_path / "val.h5")
    for arguments in (("ls",), ("ls", tmp_path), ("ls", "--cache-dir", tmp_path)):
        code, out, error = command(*arguments)
        lines = [line.split() for line in out.splitlines()]
        assert (code, error) == (0, "")
        assert lines[0] == ["cache", "pairs", "parts", "size", "targets"]
        assert lines[1][:3] == ["got10k/train", "20", "3/3"]
        assert lines[1][-2:] == ["atom/maps", "3/3"]
        assert lines[2][:3] == ["val.h5", "20", "1/3"]
    (tmp_path / "val.h5").unlink()
    (tmp_path / "got10k/train/pairs/zarr.json").write_text("{")
    assert "cannot be read: " in command("ls")[1]


def test_a_cache_of_the_old_layout_is_listed_with_the_command_that_makes_it_again(kit, old, tmp_path, command):
    kit.fill(tmp_path / "new")
    path = old(tmp_path / "old")
    refusal = "found version 1; make it again with `make cache DATASET=demo SPLIT=train PAIRS=20` and remove this one"
    code, out, error = command("ls")
    assert (code, error) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["cache", "new", "old"]
    assert lines[2].endswith(f"cannot be read: {path}: expected a cache of layout version 2, {refusal}")
    for what in ("info", "verify", "view"):
        code, out, error = command(what, "old")
        assert (code, out, error.count("\n")) == (2, "", 1)
        assert refusal in error


def test_info(kit, path, command):
    made = kit.fill(path.with_name("made"))
    made.add_history({"what": "pairs", "seconds": 2.5})
    cache = kit.put(made, path)
    code, out, _ = command("info", path.name, "--json")
    info = json.loads(out)
    assert code == 0
    assert (info["pairs"], info["parts"], info["fingerprint"]) == (20, 3, cache.fingerprint)
    assert info["identity"] == cache.identity
    assert info["teachers"] == {"atom": kit.TEACHER}
    assert info["units"]["pairs"]["parts_done"] == 3
    maps = info["units"]["targets/atom/maps"]
    assert maps["about"] == kit.ABOUT
    assert maps["bytes_a_pair_uncompressed"] == 2 * (2 * 6 * 6 + 2 * 3 * 3)
    assert info["units"]["pairs"]["bytes_a_pair_uncompressed"] is None
    assert maps["arrays"]["layer2"]["shape"] == [2, 6, 6]
    assert maps["arrays"]["layer2"]["bytes_a_pair"] >= 2 * 6 * 6 * 2
    assert maps["bytes"] == sum(array["bytes"] for array in maps["arrays"].values())
    assert info["history"] == {"records": 1, "seconds": 2.5, "last": {"what": "pairs", "seconds": 2.5}}
    code, out, _ = command("info", path)
    assert code == 0
    for text in (
        "pairs        20 in 3 parts of 8",
        "dataset: demo",
        "teacher atom",
        "targets/atom/maps: 3/3 parts",
        f"{maps['bytes_a_pair']:,} bytes a pair, 180 a pair before compression",
        "  doc: sums of maps (layer2, layer3)",
        "  needed by: fidelity, teacher_soft",
        "constants/projection [3, 3]",
    ):
        assert text in out


def test_verify(kit, path, command):
    kit.fill(path)
    assert command("verify", path, "--deep")[:2] == (0, f"{path}: whole and finished, 20 pairs, 3 parts\n")
    code, out, _ = command("verify", path, "--json")
    assert (code, json.loads(out)) == (0, {"path": str(path), "ok": True, "deep": False, "faults": []})
    made = kit.fill(path.with_name("made"))
    made.backend.retract("pairs", [1])
    path.unlink() if path.is_file() else path.rename(path.with_name("old"))
    (path.parent / "made/pairs/grey/c.1").unlink()
    kit.put(made, path)
    remedy = "run `make cache`: finished parts are kept"
    if path.is_file():
        remedy = "remove this copy and export its zarr cache again, finished and sound"
    code, out, _ = command("verify", path)
    assert code == 1
    assert f"pairs: unfinished, 1 of 3 parts are not published (1); {remedy}" in out
    code, out, _ = command("verify", path, "--json")
    assert code == 1
    fault = json.loads(out)["faults"][0]
    assert (fault["where"], fault["unit"], fault["remedy"]) == ("pairs", "pairs", remedy)


def test_a_wrong_request_is_one_line_and_exit_2(kit, tmp_path, command):
    kit.create(tmp_path / "train")
    for arguments, text in (
        (("info", "trian"), "expected a cache, found nothing there nor in .* \\(nearest: 'train'\\)"),
        (("info", tmp_path), "expected a cache, found something else"),
        (("view", "train", "--pairs", "x"), "--pairs: expected first-last"),
        (("view", "train", "--pairs", "30-40"), "expected 1 to 400 pairs within 0-19"),
        (("view", "train", "--out", "x.gif"), "--out: expected a .png or .jpg file"),
        (("gc", "train"), "one of the arguments"),
        (("gc", "train", "--target", "atom/iou"), "expected one of the targets"),
        (("gc", "train", "--target", "../pairs"), "expected one of the targets"),
        (("gc", "train", "--teacher", "atom"), "expected one of the teachers"),
        (("nothing",), "invalid choice"),
    ):
        code, out, error = command(*arguments)
        assert (code, out, error.count("\n")) == (2, "", 1), (arguments, error)
        assert re.search(text, error), error
    code, _, error = command("view", "train", "--pairs", "0", "--out", tmp_path / "x.png")
    assert code == 1
    assert "part 0 (pairs 0-7) to be published" in error


def test_view_draws_boxes_and_proposals(kit, tmp_path, command):
    cache = kit.create(tmp_path / "cache")
    start, stop = cache.bounds(0)
    arrays = {name: kit.numbers(array)[start:stop] for name, array in cache.pairs.arrays.items()}
    arrays["ref_box"][:] = (4, 4, 8, 8)
    arrays["test_box"][:] = (4, 4, 8, 8)
    arrays["proposals"][:] = (16, 16, 8, 8)
    ref, test = (cv2.imencode(".jpg", np.zeros(shape, np.uint8))[1].tobytes() for shape in ((16, 16, 3), (32, 24, 3)))
    cache.pairs.write(0, arrays, [(ref, test)] * 8)
    out = tmp_path / "pictures" / "pairs.png"
    code, text, _ = command("view", "cache", "--pairs", "0-4,7", "--out", out)
    assert (code, text) == (0, f"picture: {out} (6 pairs)\n")
    sheet = cv2.imread(str(out))
    assert sheet is not None
    top = 22  # a line of text; a ref crop of 16 pixels is drawn 18 times as large, a test crop of 32 x 24 pixels 9 times
    height, width = (sheet.shape[0] - top) // 2, sheet.shape[1] // 4
    tile = sheet[height : 2 * height, width : 2 * width].astype(int)  # pair 7
    green, yellow = (np.abs(tile - colour).sum(axis=2) < 30 for colour in ((80, 220, 80), (60, 200, 250)))
    assert green[top + 72, 72 : 72 + 140].all()
    assert green[top + 36 : top + 100, 294 + 36].all()
    assert yellow[top + 144, 294 + 150 : 294 + 210].all()
    assert not yellow[:, :290].any()
    assert (tile[top : top + 288, 294 + 216 :] == 24).all(), "a narrow crop does not fill its cell"
    assert (sheet[height : 2 * height, 2 * width :] == 24).all()
    legend = sheet[2 * height :].astype(int)
    for colour in ((80, 220, 80), (60, 200, 250), (210, 210, 210)):
        assert (np.abs(legend - colour).sum(axis=2) < 60).any(), colour


def test_export_and_back(kit, tmp_path, command):
    kit.fill(tmp_path / "cache")
    code, out, error = command("export", "cache", tmp_path / "one.h5")
    assert (code, out) == (0, f"cache: {tmp_path / 'one.h5'}\n")
    assert "pairs: part 3 of 3" in error
    assert command("export", "one.h5", tmp_path / "back")[0] == 0
    assert kit.tree(tmp_path / "back") == kit.tree(tmp_path / "cache")


def test_gc_asks_first(kit, folder, command, monkeypatch):
    kit.fill(folder)
    code, out, error = command("gc", folder, "--target", "atom/maps")
    assert code == 2
    assert "drop target atom/maps (" in out
    assert "say --yes to go ahead" in error
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda text: "n")
    assert "nothing dropped" in command("gc", folder, "--target", "atom/maps")[1]
    assert set(Cache.open(folder).targets()) == {("atom", "maps")}
    monkeypatch.setattr("builtins.input", lambda text: "y")
    assert command("gc", folder, "--target", "atom/maps")[0] == 0
    assert Cache.open(folder).targets() == {}
    assert command("verify", folder)[0] == 0


def test_gc_drops_teachers_damage_and_remains(kit, folder, command):
    before = kit.fill(folder).pairs.entries()
    cache = Cache.open(folder)
    kit.add_maps(cache, teacher="other", teacher_identity={"architecture": "other"})
    code, out, _ = command("gc", folder, "--teacher", "atom", "--yes")
    assert code == 0
    assert "drop target atom/maps" in out
    assert "drop teacher atom" in out
    assert list(Cache.open(folder).teachers()) == ["other"]
    assert Cache.open(folder).pairs.entries() == before
    for option in ("--unfinished", "--damaged"):
        assert command("gc", folder, option, "--yes")[:2] == (0, f"{folder}: nothing to drop\n")
    left = folder.with_name(f".{folder.name}.abc.tmp")  # of a killed creation
    left.mkdir()
    assert f"drop {left}" in command("gc", folder, "--unfinished", "--yes")[1]
    assert not left.exists()
    unit = kit.add_maps(Cache.open(folder))  # the same name again
    kit.write(Cache.open(folder), unit, 0)
    assert unit.missing() == [1, 2]
    (folder / "pairs/grey/c.1").write_bytes(b"")
    (folder / "ledger/.tmp-left").mkdir()
    (folder / "ledger/.tmp-left/x").write_bytes(b"12")
    assert "drop damaged part 1 of pairs" in command("gc", folder, "--damaged", "--yes")[1]
    assert Cache.open(folder).pairs.missing() == [1]
    assert "unfinished files" in command("gc", folder, "--unfinished", "--yes")[1]
    assert not (folder / "ledger/.tmp-left").exists()
    assert not (folder / "pairs/grey/c.1").exists()
    assert Cache.open(folder).pairs.missing() == [1]


def test_the_command_has_the_name_that_it_is_called_by(capsys):
    for arguments, end in ((["verify", "--help"], 0), (["verify"], 2)):
        with pytest.raises(SystemExit) as ended:
            main(arguments, prog="teachonce cache")
        assert ended.value.code == end
        assert "teachonce cache verify" in "".join(capsys.readouterr())


@pytest.mark.parametrize("words", [("ls", "\ud800"), ("info", "\ud800"), ("export", "\ud800", "x.h5"), ("ls", "a" * 300)])
def test_a_name_that_no_file_can_have_is_one_line(words, capsys):
    assert run(main, words) in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and said[:-1].isprintable()
