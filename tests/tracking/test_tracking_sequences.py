"""Every layout, written as its authors do: the sequences that are opened must be those that were written."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from configs.errors import RequestError
from pairs.frames import FrameError
from pairs.layouts import UAV123_STARTS
from tracking.frames import FileFrames, VideoFrames, open_frames
from tracking.sequences import BENCHMARKS, Video, open_videos

BOX = "10,20,30,40"


def frames(folder: Path, count: int, first: int = 1, digits: int = 4) -> None:
    """Empty files with the names of frames."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        (folder / f"{number:0{digits}d}.jpg").touch()


def lines(count: int, joint: str = ",") -> str:
    """Boxes of which each differs."""
    return "".join(joint.join(map(str, (i, 2 * i, 10, 20))) + "\n" for i in range(1, count + 1))


def names(video: Video) -> tuple[str, ...]:
    """The files of a sequence."""
    assert isinstance(video.frames, FileFrames)
    return video.frames.names


def otb(root: Path) -> Path:
    """Basketball; David, which begins at frame 300; Jogging with two targets, tabs; Human4, one of whose files is empty."""
    for name, count in (("Basketball", 5), ("David", 310), ("Jogging", 4), ("Human4", 3)):
        frames(root / name / "img", count)
    (root / "Basketball" / "groundtruth_rect.txt").write_text(lines(5))
    (root / "David" / "groundtruth_rect.txt").write_text(lines(11, "\t"))
    (root / "Jogging" / "groundtruth_rect.1.txt").write_text(lines(4, " "))
    (root / "Jogging" / "groundtruth_rect.2.txt").write_text(lines(4))
    (root / "Human4" / "groundtruth_rect.1.txt").write_text("")
    (root / "Human4" / "groundtruth_rect.2.txt").write_text(lines(3))
    return root


def uav123(root: Path) -> Path:
    """bird1 in two parts of one folder, with a frame without the target; uav1_1, which begins at the first frame; bike1."""
    (root / "anno" / "UAV123").mkdir(parents=True)
    for name, folder, last in (("bird1_2", "bird1", 780), ("bird1_1", "bird1", 0), ("bike1", "bike1", 4), ("uav1_1", "uav1", 9)):
        frames(root / "data_seq" / "UAV123" / folder, last, digits=6)
        (root / "anno" / "UAV123" / f"{name}.txt").write_text(lines(4 if name == "bike1" else 3).replace("2,4,10,20", "NaN,NaN,NaN,NaN"))
    return root


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    """(kind, root, options of val): the data set `mine` in a catalog of the user."""

    def write(kind: str, root: Path, val: str = "{}") -> None:
        (tmp_path / "mine.yaml").write_text(f"mine: {{kind: {kind}, root: '{root}', val: {val}}}\n")
        monkeypatch.setenv("DATASETS", str(tmp_path / "mine.yaml"))

    return write


def test_otb_reads_parts_of_folders_and_two_targets(tmp_path, catalog):
    catalog("otb", otb(tmp_path / "otb"))
    videos = open_videos("mine")
    held = {video.name: video for video in videos.videos}
    assert list(held) == ["Basketball", "David", "Human4", "Jogging.1", "Jogging.2"]
    assert names(held["David"])[0] == "0300.jpg"
    assert len(held["David"].frames) == len(held["David"].truth) == 11
    assert held["Jogging.1"].truth.tolist() == held["Basketball"].truth[:4].tolist()
    assert (videos.kind, videos.problems) == ("otb", ())


def test_otb_and_the_got10k_toolkit_read_the_same(tmp_path, catalog):
    datasets = pytest.importorskip("got10k.datasets", reason="the package got10k is not installed")
    catalog("otb", otb(tmp_path / "otb"))
    theirs = datasets.OTB(str(tmp_path / "otb"), version=2015, download=False)
    ours = {video.name: video for video in open_videos("mine").videos}
    assert sorted(theirs.seq_names) == sorted(ours)
    for name in theirs.seq_names:
        files, truth = theirs[name]
        video = ours[name]
        assert [Path(file).name for file in files] == list(names(video))
        assert np.array_equal(truth, video.truth)


def test_uav123_reads_frame_ranges_and_frames_without_a_target(tmp_path, catalog):
    catalog("uav123", uav123(tmp_path / "uav"))
    held = {video.name: video for video in open_videos("mine").videos}
    assert list(held) == ["bike1", "bird1_1", "bird1_2", "uav1_1"]
    assert names(held["bird1_2"]) == ("000775.jpg", "000776.jpg", "000777.jpg")
    assert names(held["bird1_1"]) == names(held["uav1_1"]) == ("000001.jpg", "000002.jpg", "000003.jpg")
    assert held["bike1"].visible.tolist() == [True, False, True, True]
    assert held["bike1"].truth[1].tolist() == [0, 0, 0, 0]


def test_the_ranges_of_uav123_are_those_of_the_got10k_toolkit():
    datasets = pytest.importorskip("got10k.datasets.uav123", reason="the package got10k is not installed")
    import json

    table = json.loads((Path(datasets.__file__).parent / "uav123.json").read_text())["UAV123"]
    starts = {name: row["start_frame"] - 1 for name, row in table.items() if row["start_frame"] > 1}
    assert starts == UAV123_STARTS
    shared = {name for name, row in table.items() if row["folder_name"] != name}
    assert {name.rpartition("_")[0] + "_1" for name in UAV123_STARTS} | set(UAV123_STARTS) == shared


def test_lasot_hides_occluded_frames_and_reads_the_testing_set(tmp_path, catalog):
    root = tmp_path / "lasot"
    frames(root / "bear" / "bear-2" / "img", 3, digits=8)
    (root / "bear" / "bear-2" / "groundtruth.txt").write_text(lines(3))
    (root / "bear" / "bear-2" / "full_occlusion.txt").write_text("0,1,0\n")
    (root / "bear" / "bear-2" / "out_of_view.txt").write_text("0,0,1\n")
    (root / "testing_set.txt").write_text("bear-2\n")
    catalog("lasot", root, "{split_file: testing_set.txt}")
    (video,) = open_videos("mine").videos
    assert (video.name, video.visible.tolist(), len(video.truth)) == ("bear-2", [True, False, False], 3)


def test_test_sets_have_one_box_a_sequence(tmp_path, catalog):
    net = tmp_path / "net" / "TEST"
    frames(net / "frames" / "abc", 4, first=0, digits=1)
    (net / "anno").mkdir()
    (net / "anno" / "abc.txt").write_text("1.5,2,30,40\n")
    catalog("trackingnet", tmp_path / "net")
    (video,) = open_videos("mine").videos
    assert (video.name, video.annotated, len(video.frames), video.truth.tolist()) == ("abc", False, 4, [[1.5, 2, 30, 40]])
    got = tmp_path / "got" / "test"
    frames(got / "GOT-10k_Test_000001", 3, digits=8)
    (got / "GOT-10k_Test_000001" / "groundtruth.txt").write_text(BOX + "\n")
    (got / "list.txt").write_text("GOT-10k_Test_000001\n")
    catalog("got10k", tmp_path / "got")
    videos = open_videos("mine", "test")
    assert videos.name == "mine-test"
    assert [len(video.frames) for video in videos.videos] == [3]


def test_demo_video_is_read_as_the_got10k_toolkit_reads_it(demo_video, monkeypatch):
    datasets = pytest.importorskip("got10k.datasets", reason="the package got10k is not installed")
    monkeypatch.setenv("DEMO_ROOT", str(demo_video))
    theirs = datasets.GOT10k(str(demo_video), subset="val", return_meta=True)
    videos = open_videos("demo")
    assert [video.name for video in videos.videos] == theirs.seq_names
    for video, (files, truth, meta) in zip(videos.videos, theirs, strict=True):
        assert [Path(file).name for file in files] == list(names(video))
        assert np.array_equal(truth, video.truth)
        assert np.array_equal(meta["cover"] > 0, video.visible)
    assert isinstance(next(iter(videos.videos[0].frames)), np.ndarray)


def test_a_bad_sequence_is_a_problem_and_the_others_are_read(tmp_path, catalog):
    root = otb(tmp_path / "otb")
    (root / "Basketball" / "groundtruth_rect.txt").write_text("0,0,0,0\n" + lines(4))
    (root / "Human4" / "groundtruth_rect.2.txt").write_text("1,2,three,4\n")
    catalog("otb", root)
    videos = open_videos("mine")
    assert [video.name for video in videos.videos] == ["David", "Jogging.1", "Jogging.2"]
    first, second = map(str, videos.problems)
    assert "Basketball" in first
    assert "expected a box with an area in the first frame, found 0,0,0,0" in first
    assert "groundtruth_rect.2.txt:1: expected four numbers x,y,w,h, found '1,2,three,4'" in second


def test_a_file_of_boxes_that_is_missing_empty_or_no_text_costs_its_sequence_alone(tmp_path, catalog):
    root = otb(tmp_path / "otb")
    for name in ("Missing", "Empty", "Binary"):
        frames(root / name / "img", 3)
    (root / "Empty" / "groundtruth_rect.txt").touch()
    (root / "Binary" / "groundtruth_rect.txt").write_bytes(b"\xff\xfe\0")
    (root / "papers").mkdir()  # no sequence
    catalog("otb", root)
    videos = open_videos("mine")
    assert len(videos.videos) == 5 and [Path(problem.file).parent.name for problem in videos.problems] == ["Binary", "Empty", "Missing"]


def test_a_name_of_the_catalog_is_no_folder_that_lies_here(tmp_path, catalog, monkeypatch):
    catalog("otb", otb(tmp_path / "otb"))
    frames(tmp_path / "mine", 3)
    (tmp_path / "mine" / "groundtruth.txt").write_text(lines(3))
    monkeypatch.chdir(tmp_path)
    assert open_videos("mine").kind == "otb" and open_videos("./mine").kind == "folder"


def write_video(path: Path, count: int = 5, size: tuple[int, int] = (64, 48)) -> Path:
    """A video of grey levels."""
    path.parent.mkdir(exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, size)
    for level in range(count):
        writer.write(np.full((size[1], size[0], 3), 40 * level, np.uint8))
    writer.release()
    return path


def test_a_video_file_has_its_boxes_beside_it(tmp_path):
    clip = write_video(tmp_path / "clip.avi")
    (tmp_path / "clip.txt").write_text(BOX + "\n")
    videos = open_videos(str(clip))
    (video,) = videos.videos
    assert (videos.name, video.name, len(video.frames), video.annotated) == ("clip", "clip", 5, False)
    levels = [float(frame.mean()) for frame in video.frames]
    assert levels == pytest.approx([0, 40, 80, 120, 160], abs=3)
    assert [float(frame.mean()) for frame in video.frames.take([1, 3])] == pytest.approx([40, 120], abs=3)


def test_a_folder_of_videos_is_a_data_set(tmp_path, catalog):
    write_video(tmp_path / "clips" / "a.avi", 3)
    (tmp_path / "clips" / "a.txt").write_text(lines(3))
    (tmp_path / "clips" / "b.avi").write_bytes(b"no video")
    (tmp_path / "clips" / "b.txt").write_text(lines(3))
    catalog("video", tmp_path / "clips")
    videos = open_videos("mine")
    assert [(video.name, len(video.frames), video.annotated) for video in videos.videos] == [("a", 3, True)]
    assert [Path(problem.file).name for problem in videos.problems] == ["b.avi"]


def test_a_folder_is_a_data_set(tmp_path):
    frames(tmp_path / "clips" / "a", 3)
    (tmp_path / "clips" / "a" / "groundtruth.txt").write_text(lines(3))
    videos = open_videos(str(tmp_path / "clips"))
    assert (videos.name, videos.kind, [video.name for video in videos.videos]) == ("clips", "folder", ["a"])
    assert isinstance(next(iter(videos.videos[0].frames)), FrameError)  # an empty file is no frame


@pytest.mark.parametrize(
    ("dataset", "split", "words"),
    [
        ("nothing.mp4", None, "expected a video, found nothing"),
        ("nothing.mp4", "val", "a folder or video has no splits"),
        ("/", "val", "a folder or video has no splits"),
        ("coco", None, "COCO_ROOT"),
        ("mine", "training", "expected a split among test, found 'training'"),
        ("nowhere", None, "expected one of"),
    ],
)
def test_a_wrong_data_set_is_one_line(tmp_path, catalog, dataset, split, words):
    catalog("otb", otb(tmp_path / "otb"))
    with pytest.raises(RequestError, match="expected") as error:
        open_videos(dataset, split)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_still_images_are_no_video(tmp_path, catalog):
    catalog("coco", tmp_path)
    with pytest.raises(RequestError, match=r"expected video of a kind among got10k, .*, found 'coco'"):
        open_videos("mine")


def test_unreadable_and_empty_videos_are_refused(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"not a video" * 40)
    (tmp_path / "bad.txt").write_text(BOX)
    (tmp_path / "empty").mkdir()
    for make in (lambda: open_videos(str(tmp_path / "bad.mp4")), lambda: open_frames(tmp_path / "bad.mp4")):
        with pytest.raises(
            RequestError,
            match=r"expected a video.*, found .*; or convert it, or give a folder of its frames",
        ):
            make()
    with pytest.raises(RequestError, match="expected images in the folder, found none"):
        open_frames(tmp_path / "empty")
    with pytest.raises(RequestError, match="expected a video, a folder of images or the number of a camera, found nothing"):
        open_frames(tmp_path / "none")
    assert len(VideoFrames(write_video(tmp_path / "good.avi"))) == 5


def test_a_video_without_boxes_and_with_too_few_is_refused(tmp_path):
    clip = write_video(tmp_path / "clip.avi")
    with pytest.raises(RequestError, match=r"expected its boxes in .*clip.txt, found no such file"):
        open_videos(str(clip))
    (tmp_path / "clip.txt").write_text(lines(3))
    with pytest.raises(RequestError, match="expected a box for each of the 5 frames, or the first alone, found 3"):
        open_videos(str(clip))


def test_sequences_are_chosen_by_name(tmp_path, catalog):
    catalog("otb", otb(tmp_path / "otb"))
    videos = open_videos("mine")
    assert [video.name for video in videos.named(["Jogging.2", "David"]).videos] == ["Jogging.2", "David"]
    assert [video.name for video in videos.first(2).videos] == ["Basketball", "David"]
    with pytest.raises(RequestError, match=r"found 'Joging.2' \(nearest: 'Jogging.2'\)"):
        videos.named(["Joging.2"])


def test_every_kind_names_a_default_split():
    assert {kind: next(iter(row.splits)) for kind, row in BENCHMARKS.items()} == {
        "got10k": "val",
        "folder": "val",
        "video": "val",
        "lasot": "val",
        "trackingnet": "test",
        "otb": "test",
        "uav123": "test",
    }
