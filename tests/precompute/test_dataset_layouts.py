"""Every layout, written exactly as its authors do: what is opened must be what was written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from configs.errors import RequestError
from configs.schema import PairsConfig
from pairs.annotation import natural, pack_names, read_boxes, unpack_name
from pairs.layouts import Options
from precompute.datasets import KINDS, open_entry
from precompute.datasets.coco import _items
from precompute.datasets.kinds import Kind
from precompute.datasets.table import Survey, Table
from tests.compare import frames_of


def test_got10k_reads_names_boxes_visibility_and_paths(tmp_path, write_got10k, boxes):
    folder = write_got10k(tmp_path, [3, 25])
    name = "GOT-10k_Train_000002"
    (folder / name / "absence.label").write_text("1\n" + "0\n" * 24)
    (folder / name / "cover.label").write_text("8\n0\n" + "1\n" * 23)
    rows = boxes(25)
    rows[3, 2] = 0
    (folder / name / "groundtruth.txt").write_text("".join("{},{},{},{}\r\n".format(*row) for row in rows))
    data = open_entry("x", {"kind": "got10k", "root": str(tmp_path), "train": {}}, "train")
    assert data.sequences == ["GOT-10k_Train_000001", name]
    assert data.lengths.tolist() == [3, 25]
    np.testing.assert_array_equal(data.boxes[frames_of(data, 1)], rows)
    assert np.flatnonzero(~data.visible[frames_of(data, 1)]).tolist() == [0, 1, 3]
    assert data.visible[frames_of(data, 0)].all()
    assert data.frame_path(1, 0) == folder / name / "00000001.jpg"
    assert data.frame_path(1, 24) == folder / name / "00000025.jpg"
    with pytest.raises(IndexError, match=r"expected a frame in \[0, 25\)"):
        data.frame_path(1, 25)
    assert not data.still
    assert data.usable(PairsConfig()).tolist() == [1]


def test_got10k_val_folder_is_an_option(tmp_path, write_got10k):
    write_got10k(tmp_path, [2], "val")
    data = open_entry("x", {"kind": "got10k", "root": str(tmp_path), "train": {"folder": "val"}}, "train")
    assert data.sequences == ["GOT-10k_Val_000001"]


@pytest.mark.parametrize("separator", [",", "\t", " ", ", ", ";"])
def test_folder_of_one_sequence_takes_any_separator_and_sorts_naturally(tmp_path, write_frames, boxes, separator):
    write_frames(tmp_path, ["10.png", "9.png", "2.png", "._2.png", "groundtruth.jpg.txt"])
    (tmp_path / "groundtruth.txt").write_text("\n".join(separator.join(map(str, row)) for row in boxes(3)) + "\n\n")
    data = open_entry("x", {"kind": "folder", "root": str(tmp_path), "train": {"folder": "."}}, "train")
    assert data.sequences == [tmp_path.name]
    np.testing.assert_array_equal(data.boxes, boxes(3))
    assert [data.frame_path(0, i).name for i in range(3)] == ["2.png", "9.png", "10.png"]


def test_folder_of_subfolders(tmp_path, write_frames, boxes):
    for name, count in (("b10", 2), ("b9", 3)):
        write_frames(tmp_path / name, [f"f{i}.jpg" for i in range(8, 8 + count)])
        (tmp_path / name / "groundtruth.txt").write_text("\n".join(",".join(map(str, row)) for row in boxes(count)))
    data = open_entry("x", {"kind": "folder", "root": str(tmp_path), "val": None}, "val")
    assert data.sequences == ["b9", "b10"]
    assert [data.frame_path(0, i).name for i in range(3)] == ["f8.jpg", "f9.jpg", "f10.jpg"]


def _lasot(root: Path, write_frames, name: str, occluded: str, out: str, rows: np.ndarray) -> None:
    folder = root / name.rpartition("-")[0] / name
    write_frames(folder / "img", [f"{i + 1:08d}.jpg" for i in range(len(rows))])
    (folder / "groundtruth.txt").write_text("\n".join("{:.0f},{:.0f},{:.0f},{:.0f}".format(*np.rint(row)) for row in rows))
    (folder / "full_occlusion.txt").write_text(occluded)
    (folder / "out_of_view.txt").write_text(out)


def test_lasot_opens_what_the_split_files_name(tmp_path, write_frames, boxes):
    _lasot(tmp_path, write_frames, "airplane-1", "0,1,0,0", "0,0,1,0", boxes(4))
    _lasot(tmp_path, write_frames, "electric-fan-3", "0,0", "0,0\n", boxes(2))
    _lasot(tmp_path, write_frames, "zebra-9", "0", "0", boxes(1))
    (tmp_path / "training_set.txt").write_text("electric-fan-3\nairplane-1\n")
    (tmp_path / "testing_set.txt").write_text("zebra-9\n")
    entry = {"kind": "lasot", "root": str(tmp_path), "train": {}, "val": {"split_file": "testing_set.txt"}}
    data = open_entry("x", entry, "train")
    assert data.sequences == ["electric-fan-3", "airplane-1"]
    assert data.visible[frames_of(data, 1)].tolist() == [True, False, False, True]
    assert data.frame_path(1, 3) == tmp_path / "airplane" / "airplane-1" / "img" / "00000004.jpg"
    assert open_entry("x", entry, "val").sequences == ["zebra-9"]


def test_trackingnet_opens_the_chosen_sets_in_natural_order(tmp_path, write_frames, boxes):
    for number, videos in ((0, ["v10_0", "v2_0"]), (11, ["w"])):
        (tmp_path / f"TRAIN_{number}" / "anno").mkdir(parents=True)
        for video in videos:
            write_frames(tmp_path / f"TRAIN_{number}" / "frames" / video, [f"{i}.jpg" for i in range(12)])
            lines = [",".join(map(str, row)) for row in boxes(12)]
            (tmp_path / f"TRAIN_{number}" / "anno" / f"{video}.txt").write_text("\n".join(lines))
    entry = {"kind": "trackingnet", "root": str(tmp_path), "train": {"sets": [0]}, "val": {}}
    data = open_entry("x", entry, "train")
    assert data.sequences == ["TRAIN_0/v2_0", "TRAIN_0/v10_0"]
    assert data.visible.all()
    assert data.frame_path(0, 0).name == "0.jpg"
    assert data.frame_path(1, 11) == tmp_path / "TRAIN_0" / "frames" / "v10_0" / "11.jpg"
    assert open_entry("x", entry, "val").sequences == ["TRAIN_11/w"]


MIXED = ["._1.JPG", "10.jpg", "9.jpeg", "2.Jpg", "1.PNG", "3.JPG", "notes.txt", ".4.png"]


def test_every_layout_finds_frames_of_any_image_kind_in_any_case(tmp_path, write_got10k, write_frames, boxes):
    lines = "\n".join(",".join(map(str, row)) for row in boxes(5))
    folder = write_got10k(tmp_path, [5]) / "GOT-10k_Train_000001"
    for path in folder.glob("*.jpg"):
        path.unlink()
    _lasot(tmp_path, lambda folder, names: write_frames(folder, MIXED), "airplane-1", "0,0,0,0,0", "0,0,0,0,0", boxes(5))
    (tmp_path / "training_set.txt").write_text("airplane-1\n")
    (tmp_path / "TRAIN_0" / "anno").mkdir(parents=True)
    (tmp_path / "TRAIN_0" / "anno" / "v.txt").write_text(lines)
    (folder / "groundtruth.txt").write_text(lines)
    for place in (folder, tmp_path / "TRAIN_0" / "frames" / "v"):
        write_frames(place, MIXED)
    for kind, options in (("got10k", {}), ("lasot", {}), ("trackingnet", {"sets": [0]}), ("folder", {"folder": f"train/{folder.name}"})):
        data = open_entry("x", {"kind": kind, "root": str(tmp_path), "train": options}, "train")
        assert [data.frame_path(0, i).name for i in range(5)] == ["1.PNG", "2.Jpg", "3.JPG", "9.jpeg", "10.jpg"], kind


def test_digits_that_are_no_decimal_ones_are_letters(tmp_path, write_frames):
    for name in ("b\u2460", "b10", "b9", "b\u00b2"):
        write_frames(tmp_path / name, ["1\u2460.jpg", "12\u2460.jpg", "2\u2460.jpg"])
        (tmp_path / name / "groundtruth.txt").write_text("1,2,3,4\n" * 3)
    data = open_entry("x", {"kind": "folder", "root": str(tmp_path), "train": {}}, "train")
    assert data.sequences == ["b9", "b10", "b\u00b2", "b\u2460"]
    assert [data.frame_path(0, i).name for i in range(3)] == ["1\u2460.jpg", "2\u2460.jpg", "12\u2460.jpg"]


def test_coco_has_a_sequence_for_every_real_box(tmp_path, write_coco):
    images = {7: ("a.jpg", 40, 30), 9: ("b.jpg", 20, 50)}
    annotations = [
        {"id": 1, "image_id": 9, "iscrowd": 0, "bbox": [1.5, 2, 3, 4]},
        {"id": 2, "image_id": 7, "iscrowd": 1, "bbox": [0, 0, 5, 5], "segmentation": {"counts": [1], "size": [1, 1]}},
        {"id": 3, "image_id": 7, "iscrowd": 0, "bbox": [0, 0, 0, 5]},
        {"id": 4, "image_id": 7, "iscrowd": 0, "bbox": [2, 3, 4, 5]},
    ]
    write_coco(tmp_path, images, annotations)
    data = open_entry("x", {"kind": "coco", "root": str(tmp_path), "train": {}}, "train")
    assert data.sequences == ["b.jpg/1", "a.jpg/4"]
    assert data.boxes.tolist() == [[1.5, 2, 3, 4], [2, 3, 4, 5]]
    assert data.frame_path(1, 0) == tmp_path / "images" / "train2014" / "a.jpg"
    assert data.still
    assert data.usable(PairsConfig()).tolist() == [0, 1]


def test_coco_objects_below_a_pixel_are_not_drawn(tmp_path, write_coco):
    good = {"image_id": 7, "iscrowd": 0}
    write_coco(tmp_path, {7: ("a.jpg", 40, 30)}, [{**good, "id": 1, "bbox": [1, 2, 0.4, 4]}, {**good, "id": 2, "bbox": [1, 2, 1, 4]}])
    for kind in ("coco", "coco_synth"):
        data = open_entry("x", {"kind": kind, "root": str(tmp_path), "train": {}}, "train")
        assert data.visible.tolist() == [False, True]
        assert data.usable(PairsConfig()).tolist() == [1]


@pytest.mark.parametrize("indent", [None, 1])
def test_the_streaming_json_reader_gives_what_json_gives(tmp_path, indent):
    value = {
        "info": {"images": [1]},
        "images": [{"id": 1, "n": 'é\\"]'}],
        "empty": [],
        "annotations": [],
        "more": [{"id": [2, {}]}, 3, None],
    }
    (tmp_path / "x.json").write_text(json.dumps(value, indent=indent))
    assert list(_items(str(tmp_path / "x.json"), ("images", "annotations", "more"))) == [
        (key, item) for key in ("images", "annotations", "more") for item in value[key]
    ]


@pytest.mark.parametrize("text", ["GOT-10k_Train_000003\n0\n", "2\nGOT-10k_Train_000001\n\n"])
def test_split_file_picks_names_and_indices_in_its_order(tmp_path, write_got10k, text):
    write_got10k(tmp_path, [2, 3, 4])
    (tmp_path / "mine.txt").write_text(text)
    data = open_entry("x", {"kind": "got10k", "root": str(tmp_path), "train": {"split_file": "mine.txt"}}, "train")
    assert data.sequences == ["GOT-10k_Train_000003", "GOT-10k_Train_000001"]
    assert data.lengths.tolist() == [4, 2]


def test_split_file_narrows_coco(tmp_path, write_coco):
    boxes = [{"id": i, "image_id": 1, "iscrowd": 0, "bbox": [i, 0, 5, 5]} for i in range(4)]
    write_coco(tmp_path, {1: ("a.jpg", 40, 30)}, boxes)
    (tmp_path / "mine.txt").write_text("3\na.jpg/1\n")
    data = open_entry("x", {"kind": "coco", "root": str(tmp_path), "train": {"split_file": str(tmp_path / "mine.txt")}}, "train")
    assert data.sequences == ["a.jpg/3", "a.jpg/1"]
    assert data.boxes[:, 0].tolist() == [3, 1]


def test_content_hash_follows_names_counts_boxes_and_visibility_and_nothing_else(tmp_path, write_got10k):
    def digest(root: Path) -> str:
        return open_entry("x", {"kind": "got10k", "root": str(root), "train": {}}, "train", fresh=True).content_hash

    folder = write_got10k(tmp_path / "a", [4, 5])
    write_got10k(tmp_path / "b", [4, 5], size=(16, 16))
    first = digest(tmp_path / "a")
    assert first == digest(tmp_path / "b")
    one = folder / "GOT-10k_Train_000001"
    for file, text in (("cover.label", "8\n8\n8\n0\n"), ("groundtruth.txt", "0,0,5,5\n" * 4)):
        old = (one / file).read_text()
        (one / file).write_text(text)
        assert digest(tmp_path / "a") != first
        (one / file).write_text(old)
    (folder / "list.txt").write_text("GOT-10k_Train_000002\nGOT-10k_Train_000001\n")
    assert digest(tmp_path / "a") != first


def test_box_file_readers_agree(tmp_path):
    values = np.random.default_rng(0).normal(0, 100, (50, 4))
    (tmp_path / "comma").write_text("".join("{!r},{!r},{!r},{!r}\n".format(*row) for row in values.tolist()))
    # one line in another style sends the whole file to the careful reader
    (tmp_path / "mixed").write_text((tmp_path / "comma").read_text().replace(",", "\t", 3))
    np.testing.assert_array_equal(read_boxes(str(tmp_path / "comma")), values)
    np.testing.assert_array_equal(read_boxes(str(tmp_path / "mixed")), values)


@pytest.mark.parametrize(
    "names",
    [["00000008.jpg", "00000009.jpg", "00000010.jpg"], ["8.png", "9.png", "10.png"], ["a.jpg"], ["a1.jpg", "b.jpg"], ["1.jpg", "3.jpg"]],
)
def test_packed_names_come_back(names):
    packed = pack_names(names)
    assert [unpack_name(packed, index) for index in range(len(names))] == names
    assert sorted(names, key=natural) == names


def test_a_row_is_all_that_a_new_kind_needs(tmp_path, write_frames, monkeypatch):
    def survey(root: Path, split: str, options: Options) -> Survey:
        names = sorted(path.name for path in (root / split).glob(str(options.get("glob", "*.jpg"))))
        count = len(names)
        boxes, visible = np.tile([1.0, 2.0, 3.0, 4.0], (count, 1)), np.ones(count, bool)
        return Survey("x", 0, lambda: Table(names, [split] * count, names, np.arange(count + 1), boxes, visible, []))

    monkeypatch.setitem(KINDS, "mine", Kind(survey, ("glob",), still=True))
    write_frames(tmp_path / "train", ["a.jpg", "b.jpg", "c.png"], size=(64, 48))
    (tmp_path / "pick.txt").write_text("b.jpg\n")
    data = open_entry("x", {"kind": "mine", "root": str(tmp_path), "train": {}}, "train")
    assert data.still and data.sequences == ["a.jpg", "b.jpg"] and data.boxes.shape == (2, 4)
    assert data.source.load(1, 0, np.empty(0)).shape == (48, 64, 3)
    entry = {"kind": "mine", "root": str(tmp_path), "train": {"glob": "*", "split_file": "pick.txt"}}
    assert open_entry("x", entry, "train").sequences == ["b.jpg"]
    with pytest.raises(RequestError, match=r"found 'folder'"):
        open_entry("x", {**entry, "folder": "."}, "train")
