"""What is wrong with a data set is said in one line with its file and line; `skip_faulty` drops, the index never hides."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from configs.errors import RequestError
from configs.schema import PairsConfig
from precompute.datasets import Problem, open_entry, scan
from precompute.datasets.table import Outlines, Table

FIRST = "GOT-10k_Train_000001"


def _entry(root: Path, **options) -> dict:
    return {"kind": "got10k", "root": str(root), "train": options}


def _replace_line(line: int, text: str):
    def change(folder: Path) -> None:
        lines = (folder / "groundtruth.txt").read_text().split("\n")
        lines[line - 1] = text
        (folder / "groundtruth.txt").write_text("\n".join(lines))

    return change


FRAME_FAULTS = {
    "nan": (_replace_line(3, "1,2,nan,4"), r"/groundtruth.txt:3: expected finite numbers, found '1,2,nan,4'"),
    "infinite": (_replace_line(1, "1,2,inf,4"), r"/groundtruth.txt:1: expected finite numbers"),
    "beyond": (_replace_line(4, "1,2,1e308,4"), r"/groundtruth.txt:4: expected numbers up to 1,000,000, found '1,2,1e308,4', beyond"),
    "far left": (_replace_line(4, "-2e6\t2\t3\t4"), r"/groundtruth.txt:4: expected numbers up to 1,000,000, found '-2e6"),
    "huge label": (lambda f: (f / "cover.label").write_text("8\n8\n" + "9" * 30 + "\n8\n8"), r"/cover.label:3: expected whole numbers"),
    "letters": (_replace_line(2, "1,2,x,4"), r"/groundtruth.txt:2: expected four numbers x,y,w,h, found '1,2,x,4'"),
    "three": (_replace_line(2, "1,2,3"), r"/groundtruth.txt:2: expected four numbers x,y,w,h, found '1,2,3'"),
    "blank": (_replace_line(2, ""), r"/groundtruth.txt:2: expected four numbers x,y,w,h, found ''"),
    "bad label": (lambda f: (f / "cover.label").write_text("8\n8\n?\n8\n8"), r"/cover.label:3: expected whole numbers, found '\?'"),
}
"""Of one frame: a change of the first sequence of five frames, and what is said of it."""
FAULTS = {
    "five after three": (_replace_line(2, "1,2,3\n1,2,3,4,5"), r"/groundtruth.txt:2: expected four numbers"),
    "binary": (lambda f: (f / "groundtruth.txt").write_bytes(b"1,2,3,4\n\xff\xfe"), r"/groundtruth.txt:2: expected text"),
    "short": (_replace_line(5, ""), r"/groundtruth.txt:5: expected a line for each of the 5 frames, found 4"),
    "long": (_replace_line(5, "1,2,3,4\n1,2,3,4"), r"/groundtruth.txt:6: expected a line for each of the 5 frames, found 6"),
    "no boxes": (lambda f: (f / "groundtruth.txt").unlink(), r"/groundtruth.txt: expected this file, found none"),
    "no label": (lambda f: (f / "cover.label").unlink(), r"/cover.label: expected this file, found none"),
    "short label": (lambda f: (f / "absence.label").write_text("0\n0\n"), r"/absence.label: expected 5 labels, one a frame, found 2"),
    "no frame": (lambda f: [p.unlink() for p in f.glob("*.jpg")], r"000001: expected frames \(.jpg, .jpeg, .png, .*\), found none"),
    "no folder": (shutil.rmtree, r"000001: expected a folder of frames, found none"),
    "three of five": (
        lambda f: (f / "groundtruth.txt").write_text("1,2,3,4\n1,2,3\n1,2,3,4\nx\n1,2,nan,4"),
        r"/groundtruth.txt:2: expected four numbers x,y,w,h, found '1,2,3'",
    ),
}
"""Of a sequence."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_sequence_is_refused_with_file_and_line(tmp_path, write_got10k, name):
    change, message = FAULTS[name]
    folder = write_got10k(tmp_path, [5, 5])
    change(folder / FIRST)
    with pytest.raises(RequestError, match=message) as error:
        open_entry("mine", _entry(tmp_path), "train")
    text = str(error.value)
    assert text.startswith("dataset mine (train): ")
    assert "more faulty" not in text
    assert "skip_faulty: true" in text
    assert "\n" not in text


@pytest.mark.parametrize("name", FRAME_FAULTS)
def test_a_faulty_label_costs_its_frame_and_is_told(tmp_path, write_got10k, capsys, name):
    change, message = FRAME_FAULTS[name]
    folder = write_got10k(tmp_path, [5, 5])
    change(folder / FIRST)
    data = open_entry("mine", _entry(tmp_path), "train")
    (fault,) = data.faulty_frames
    assert re.search(message, str(fault)) and not data.problems and data.lengths.tolist() == [5, 5]
    assert np.flatnonzero(~data.visible).tolist() == [fault.line - 1]
    assert np.isfinite(data.boxes).all()
    said = capsys.readouterr().err
    assert said == f"warning: dataset mine (train): 1 frames with a faulty label count as invisible: {fault}\n"


def test_faulty_labels_of_one_frame_are_counted_once_and_on_one_line_too(tmp_path, write_got10k, capsys):
    folder = write_got10k(tmp_path, [5, 5]) / FIRST
    _replace_line(3, "1,2,nan,4")(folder)
    (folder / "cover.label").write_text("8\n8\n?\n8\n8")
    (folder / "absence.label").write_text("0,0,0,0,x")
    data = open_entry("mine", _entry(tmp_path), "train")
    assert [f"{Path(fault.file).name}:{fault.line}" for fault in data.faulty_frames] == ["groundtruth.txt:3", "absence.label:1"]
    assert np.flatnonzero(~data.visible).tolist() == [2, 4]
    assert f"{data.faulty_frames[0]} and 1 more; make check lists all" in capsys.readouterr().err


def test_skip_faulty_drops_and_counts(tmp_path, write_got10k, capsys):
    folder = write_got10k(tmp_path, [5, 5, 5])
    for change, name in ((FAULTS["short"][0], "000001"), (FAULTS["no label"][0], "000003")):
        change(folder / f"GOT-10k_Train_{name}")
    with pytest.raises(RequestError, match=r"000001/groundtruth.txt:5: .* \(and 1 more faulty sequences\)"):
        open_entry("mine", _entry(tmp_path), "train")
    data = open_entry("mine", _entry(tmp_path, skip_faulty=True), "train")
    assert data.sequences == ["GOT-10k_Train_000002"]
    assert data.dropped == 2
    assert "2 of 3 sequences dropped as faulty, first: " in capsys.readouterr().out
    assert len(data.problems) == 2


def test_zero_boxes_are_invisible_frames_and_no_fault(tmp_path, write_got10k):
    folder = write_got10k(tmp_path, [5])
    _replace_line(2, "0,0,0,0")(folder / FIRST)
    assert open_entry("mine", _entry(tmp_path), "train").visible.tolist() == [True, False, True, True, True]


@pytest.mark.parametrize("row", ["NaN,NaN,NaN,NaN", "nan\tnan\tnan\tnan"])
def test_a_row_of_nan_is_an_absent_target_and_no_fault(tmp_path, write_got10k, row):
    folder = write_got10k(tmp_path, [5])
    _replace_line(2, row)(folder / FIRST)
    data = open_entry("mine", _entry(tmp_path), "train")
    assert data.visible.tolist() == [True, False, True, True, True]
    assert data.boxes[1].tolist() == [0, 0, 0, 0]
    assert data.boxes[2].tolist() == [1, 0.5, 10.25, 8.5]


def test_an_entry_that_is_wrong_is_refused_by_name(tmp_path, write_got10k):
    folder = write_got10k(tmp_path, [5])
    good = _entry(tmp_path)
    for entry, split, message in (
        ({**good, "kind": "got1k"}, "train", r"expected kind to be one of got10k, .*found 'got1k' \(nearest: 'got10k'\)"),
        ({**good, "kind": "otb"}, "train", r"mine: expected data to train on, found otb, to evaluate on; make eval DATASET=mine"),
        ({**good, "skip_faulty": "no"}, "train", r"expected skip_faulty to be true or false, found 'no'"),
        (good, "val", r"expected a split 'val', found train"),
        (_entry(tmp_path, floder="x"), "train", r"expected an option of .*found 'floder' \(nearest: 'folder'\)"),
        (_entry(tmp_path / "no"), "train", r"expected its root to be a folder, found none at '.*no'"),
        (_entry(tmp_path, folder="other"), "train", r"other/list.txt: expected this file, found none"),
        (_entry(tmp_path, split_file="s.txt"), "train", r"s.txt: expected this file, found none"),
        (
            {"kind": "coco_synth", "layout": "gut10k", "root": str(tmp_path), "train": {}},
            "train",
            r"expected layout to be one of coco, got10k",
        ),
        ({"kind": "trackingnet", "root": str(tmp_path), "train": {"sets": [12]}}, "train", r"expected a list of numbers in 0-11"),
        ({"kind": "trackingnet", "root": str(tmp_path), "train": {"sets": [3]}}, "train", r"TRAIN_3/anno: expected a folder, found none"),
        ({"kind": "lasot", "root": str(tmp_path), "train": {}}, "train", r"training_set.txt: expected this file, found none"),
        ({"kind": "coco", "root": str(tmp_path), "train": {}}, "train", r"instances_train2014.json: expected this file, found none"),
    ):
        with pytest.raises(RequestError, match=message):
            open_entry("mine", entry, split)
    (tmp_path / "s.txt").write_text(f"{FIRST}\n1\n")
    with pytest.raises(RequestError, match=r"s.txt:2: expected a sequence name or an index below 1, found '1'"):
        open_entry("mine", _entry(tmp_path, split_file="s.txt"), "train")
    for text, message in (
        (f"{FIRST}\n\n0\n", rf"s.txt:3: expected each sequence once, found {FIRST} in lines 1 and 3; drop one"),
        (f"\n{FIRST}\n{FIRST}", rf"s.txt:3: expected each name once, found '{FIRST}' in lines 2 and 3; drop one"),
        (f"{FIRST}\n\n{'9' * 5000}\n", r"s.txt:3: expected a sequence name or an index below 1, found '9999"),
    ):
        (tmp_path / "s.txt").write_text(text)
        with pytest.raises(RequestError, match=message):
            open_entry("mine", _entry(tmp_path, split_file="s.txt"), "train")
    (folder / "list.txt").write_text(f"{FIRST}\nx\n{FIRST}\n")
    with pytest.raises(RequestError, match=rf"list.txt:3: expected each name once, found '{FIRST}' in lines 1 and 3; drop one"):
        open_entry("mine", good, "train")
    (folder / "list.txt").write_text("\n\n")
    with pytest.raises(RequestError, match=r"list.txt: expected one name a line, found an empty file"):
        open_entry("mine", good, "train")


def test_a_wrong_root_is_said_with_what_lies_there(tmp_path):
    for name in ("GOT-10k", "b\x1b", "c", "d", "e", "f", ".hidden"):
        (tmp_path / name).mkdir()
    for kind, options, path in (
        ("got10k", {}, "train/list.txt"),
        ("lasot", {}, "training_set.txt"),
        ("trackingnet", {}, "TRAIN_0/anno"),
        ("coco", {}, "annotations/instances_train2014.json"),
        ("folder", {"folder": "no"}, "no"),
    ):
        with pytest.raises(RequestError, match="found none") as error:
            open_entry("mine", {"kind": kind, "root": str(tmp_path), "train": options}, "train")
        assert f"{tmp_path}/{path}: expected " in str(error.value)
        assert f"{tmp_path} holds 'GOT-10k', 'b\\x1b', 'c', 'd', 'e' and 1 more; correct the root ({tmp_path}) or " in str(error.value)


def test_missing_sets_are_named_with_what_to_write(tmp_path):
    for number in (0, 3, 7):
        (tmp_path / f"TRAIN_{number}" / "anno").mkdir(parents=True)
    entry = {"kind": "trackingnet", "root": str(tmp_path), "train": {"sets": [0, 1, 3, 10]}}
    with pytest.raises(RequestError, match=r"found no TRAIN_1, TRAIN_10; unpack them or write `sets: \[0, 3\]` in the entry"):
        open_entry("mine", entry, "train")
    for wrong in ([0, 0], [], [True], "0", 5):
        with pytest.raises(RequestError, match=r"expected a list of numbers in 0-11, each once"):
            open_entry("mine", {**entry, "train": {"sets": wrong}}, "train")


def test_folder_without_annotation_is_refused(tmp_path, write_frames):
    write_frames(tmp_path, ["1.jpg"])
    with pytest.raises(RequestError, match=r"expected frames with a groundtruth\.txt, or such subfolders, found neither"):
        open_entry("mine", {"kind": "folder", "root": str(tmp_path), "train": {}}, "train")


@pytest.mark.parametrize(("mode", "seen", "fine"), [("interval", 5, True), ("interval", 4, False), ("causal", 5, True)])
def test_usable_needs_length_and_visible_frames(tmp_path, write_got10k, mode, seen, fine):
    folder = write_got10k(tmp_path, [20, 19])
    (folder / FIRST / "cover.label").write_text("3\n" * seen + "0\n" * (20 - seen))
    data = open_entry("mine", _entry(tmp_path), "train")
    if fine:
        assert data.usable(PairsConfig(mode=mode)).tolist() == [0]
    else:
        with pytest.raises(RequestError, match=r"expected a sequence of at least 20 frames, 5 visible, found none among 2"):
            data.usable(PairsConfig(mode=mode))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("between", [",", "\t", ";", "  ", ", "])
def test_every_form_of_a_text_file_gives_the_same_boxes(tmp_path, write_got10k, end, between):
    folder = write_got10k(tmp_path, [3])
    rows = [[1.5, 2.0, 30.0, 4.0], [2.0, 3.0, 30.0, 5.0], [3.0, 4.0, 30.0, 6.0]]
    text = end.join(between.join(map(str, row)) for row in rows) + end
    (folder / FIRST / "groundtruth.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (folder / "list.txt").write_bytes(b"\xef\xbb\xbf" + FIRST.encode() + end.encode())
    assert open_entry("mine", _entry(tmp_path), "train", fresh=True).boxes.tolist() == rows


def test_two_coco_images_of_one_id_are_a_fault(tmp_path, write_coco):
    write_coco(tmp_path, {1: ("a.jpg", 8, 8)}, [{"id": 1, "image_id": 1, "iscrowd": 0, "bbox": [0, 0, 5, 5]}])
    file = tmp_path / "annotations" / "instances_train2014.json"
    tree = json.loads(file.read_text())
    file.write_text(json.dumps({**tree, "images": [*tree["images"], {**tree["images"][0], "file_name": "b.jpg"}]}))
    with pytest.raises(RequestError, match=r"image 1: expected COCO's fields, found id 1 of another image"):
        open_entry("mine", {"kind": "coco", "root": str(tmp_path), "train": {}}, "train")


def test_coco_faults(tmp_path, write_coco):
    good = {"id": 1, "image_id": 1, "iscrowd": 0, "bbox": [0, 0, 5, 5]}
    entry = {"kind": "coco", "root": str(tmp_path), "train": {}}
    images = {1: ("a.jpg", 8, 8), 2: ("b.jpg", 8, 8)}
    for bad, message in (
        ({**good, "id": 2, "bbox": [0, 0, 5]}, r"annotation 2: expected COCO's fields, found bbox \[0, 0, 5\]"),
        ({**good, "id": 2, "bbox": [0, 0, float("nan"), 3]}, r"annotation 2: expected COCO's fields, found bbox"),
        ({**good, "id": 2, "bbox": "1234"}, r"annotation 2: expected COCO's fields, found bbox '1234'"),
        ({**good, "id": 2, "bbox": ["1", "2", "3", "4"]}, r"annotation 2: expected COCO's fields, found bbox \['1'"),
        ({**good, "id": 2, "bbox": [0, 0, 1e308, 3]}, r"annotation 2: expected COCO's fields, found bbox \[0, 0, 1e\+308, 3\]"),
        ({**good, "id": 2, "bbox": [0, 0, 10**400, 3]}, r"annotation 2: expected COCO's fields, found bbox \[0, 0, 1000"),
        ({**good, "id": 2, "image_id": [1]}, r"annotation 2: expected COCO's fields, found unhashable type"),
        ({"id": 2, "image_id": 1}, r"annotation 2: expected COCO's fields, found no 'bbox'"),
        ({**good, "id": 2, "image_id": 9}, r"expected image 9 of an annotation among the images, found none"),
    ):
        file = write_coco(tmp_path, images, [good, bad])
        with pytest.raises(RequestError, match=message):
            open_entry("mine", entry, "train", fresh=True)
        skipped = open_entry("mine", {**entry, "skip_faulty": True}, "train", fresh=True)
        assert (skipped.sequences, skipped.dropped) == (["a.jpg/1"], 1)
    write_coco(tmp_path, images, [good, {**good, "id": 2, "image_id": 2}])
    (tmp_path / "images" / "train2014" / "b.jpg").unlink()
    with pytest.raises(RequestError, match=r"b.jpg: expected this image, found none; restore it"):
        open_entry("mine", entry, "train", fresh=True)
    file.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [good]}))
    for kind in ("coco", "coco_synth"):
        assert open_entry("mine", {**entry, "kind": kind}, "train", fresh=True).sequences == ["a.jpg/1"]
    with pytest.raises(RequestError, match=r"image 1: expected COCO's fields, found no 'width'"):
        open_entry("mine", {**entry, "kind": "coco_blend"}, "train", fresh=True)
    file.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg", "width": 1e308, "height": None}], "annotations": [good]}))
    with pytest.raises(RequestError, match=r"image 1: expected COCO's fields, found width 1e\+308 and height None"):
        open_entry("mine", {**entry, "kind": "coco_blend"}, "train", fresh=True)
    for text, message in (
        ('{"images": [{"id": 1},\n', r"train2014.json:2: expected JSON, found a fault at column 1"),
        ('{"images": [1 2]}', r"train2014.json:1: expected JSON, found a fault at column 15"),
        ("{}", r"expected COCO's `images` and `annotations`, found no image"),
    ):
        file.write_text(text)
        with pytest.raises(RequestError, match=re.compile(message)):
            open_entry("mine", entry, "train", fresh=True)


def _open(root: Path, monkeypatch: pytest.MonkeyPatch, may_scan: bool):
    """Opens; with may_scan false, an attempt to read the annotation fails the test."""
    with monkeypatch.context() as patch:
        if not may_scan:
            patch.setattr(scan, "scan", lambda *_: pytest.fail("read the annotation although nothing had changed"))
        return open_entry("mine", _entry(root, skip_faulty=True), "train")


def test_index_saves_the_second_scan_and_gives_the_same(tmp_path, write_got10k, settle, monkeypatch):
    folder = write_got10k(tmp_path / "data", [5, 6, 7])
    FAULTS["short"][0](folder / FIRST)
    FRAME_FAULTS["nan"][0](folder / "GOT-10k_Train_000002")
    settle(tmp_path / "data")
    first = _open(tmp_path / "data", monkeypatch, True)
    second = _open(tmp_path / "data", monkeypatch, False)
    assert first.content_hash == second.content_hash
    assert first.problems == second.problems and first.faulty_frames == second.faulty_frames != []
    assert second.dropped == 1
    assert second.frame_path(1, 6) == first.frame_path(1, 6)


CHANGES = {
    "boxes": lambda f: (f / FIRST / "groundtruth.txt").write_text("9,9,9,9\n" * 5),
    "label": lambda f: (f / FIRST / "cover.label").write_text("8\n0\n8\n8\n8\n"),
    "list": lambda f: (f / "list.txt").write_text(f"{FIRST}\n"),
    "order": lambda f: (f / "list.txt").write_text(f"GOT-10k_Train_000002\n{FIRST}\n"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_index_notices_a_change(tmp_path, write_got10k, settle, monkeypatch, name):
    folder = write_got10k(tmp_path / "data", [5, 6])
    settle(tmp_path / "data")
    first = _open(tmp_path / "data", monkeypatch, True)
    CHANGES[name](folder)
    assert _open(tmp_path / "data", monkeypatch, True).content_hash != first.content_hash


def test_index_notices_a_lost_frame(tmp_path, write_got10k, settle, monkeypatch):
    folder = write_got10k(tmp_path / "data", [5, 6])
    settle(tmp_path / "data")
    _open(tmp_path / "data", monkeypatch, True)
    (folder / FIRST / "00000003.jpg").unlink()
    assert "expected a line for each of the 4 frames, found 5" in str(_open(tmp_path / "data", monkeypatch, True).problems[0])


def test_index_of_files_just_written_is_not_kept(tmp_path, write_got10k):
    write_got10k(tmp_path / "data", [5])
    open_entry("mine", _entry(tmp_path / "data"), "train")
    assert not list(Path(os.environ["TEACHONCE_INDEX"]).iterdir())


def test_damaged_index_is_made_anew(tmp_path, write_got10k, settle, monkeypatch):
    write_got10k(tmp_path / "data", [5, 6])
    settle(tmp_path / "data")
    first = _open(tmp_path / "data", monkeypatch, True)
    (index,) = Path(os.environ["TEACHONCE_INDEX"]).iterdir()
    whole = index.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\0" * 99, bytes(len(whole))):
        index.write_bytes(damaged)
        assert _open(tmp_path / "data", monkeypatch, True).content_hash == first.content_hash
    assert index.read_bytes()[:2] == whole[:2]


def test_an_index_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path, write_got10k, settle, monkeypatch, capsys):
    write_got10k(tmp_path / "data", [5, 6])
    settle(tmp_path / "data")
    (tmp_path / "file").touch()
    monkeypatch.setenv("TEACHONCE_INDEX", str(tmp_path / "file"))
    assert _open(tmp_path / "data", monkeypatch, True).lengths.tolist() == [5, 6]
    assert "index not kept" in capsys.readouterr().err


def test_table_round_trip_keeps_strange_names(tmp_path):
    names, problems = ["é\udcff", "b"], [Problem("a", 3, "é")]
    outlines = Outlines.of([[np.ones((3, 2), np.float32)], []], np.array([[8, 9], [6, 7]], np.int32))
    table = Table(names, ["x", "y"], ["1.jpg", "a\0b"], np.array([0, 1, 3]), np.ones((3, 4)), np.ones(3, bool), problems, 2, outlines)
    table.save(tmp_path / "t.npz", "s")
    back = Table.load(tmp_path / "t.npz", "s")
    assert back is not None
    assert (back.sequences, back.frames, back.problems, back.dropped) == (names, table.frames, problems, 2)
    for name, array in (vars(table) | vars(outlines)).items():
        if isinstance(array, np.ndarray):
            np.testing.assert_array_equal((vars(back) | vars(back.outlines))[name], array, strict=True)
    assert Table.load(tmp_path / "t.npz", "other") is None
