"""Evaluation from the data set to the page: what is on disk is kept, what fails is said, and the numbers are those of the metrics."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

import teachonce
from configs.errors import RequestError, RunError
from pairs.frames import FrameError, read_frame
from tracking.contestants import Contestant
from tracking.evaluate import evaluate
from tracking.formats import FORMS, checked, write_files, zipped
from tracking.metrics import RULES, Tracked
from tracking.one_pass import Pass, answers, one_pass
from tracking.report import report
from tracking.result import Result
from tracking.results import Results, results_folder
from tracking.scores import score, speed
from tracking.sequences import VideoSet, open_videos

STILL = Contestant("still", "still")


class Counting:
    """Moves its box by a pixel a frame, and keeps what it has seen."""

    def init(self, image, box):
        self.box, self.seen = np.array(box, float), [image.shape]

    def update(self, image):
        self.seen.append(image.shape)
        self.box = self.box + np.array([1, 0, 0, 0])
        return Result(tuple(self.box.tolist()), 0.5, "uncertain")


@pytest.fixture
def videos(demo_video, monkeypatch) -> VideoSet:
    """The demo's two validation sequences of 24 frames."""
    monkeypatch.setenv("DEMO_ROOT", str(demo_video))
    return open_videos("demo")


@pytest.fixture
def own_demo(demo_video, tmp_path, monkeypatch) -> Path:
    """A copy of the demo's video to damage; the folder of its sequences."""
    shutil.copytree(demo_video, tmp_path / "demo")
    monkeypatch.setenv("DEMO_ROOT", str(tmp_path / "demo"))
    return tmp_path / "demo" / "val"


def test_a_frame_of_another_size_or_none_is_skipped_and_the_box_kept():
    plain, wide = np.zeros((40, 60, 3), np.uint8), np.zeros((40, 80, 3), np.uint8)
    tracker = Counting()
    found = list(answers(tracker, [plain, plain, FrameError("no file"), wide, plain], [5, 6, 7, 8]))
    assert [answer.result.box[0] for answer in found] == [5, 6, 6, 6, 7]
    assert [answer.wrong for answer in found[:2] + found[4:]] == [""] * 3
    assert found[2].wrong == "frame 3: no file"
    assert found[3].wrong == "frame 4: expected 60 x 40 pixels as the first frame has, found 80 x 40; skipped"
    assert [np.isfinite(answer.seconds) for answer in found] == [True, True, False, False, True]
    assert tracker.seen == [(40, 60, 3)] * 3


@pytest.mark.parametrize("frames", [[FrameError("no file"), np.zeros((40, 60, 3), np.uint8)], []])
def test_without_a_first_frame_nothing_begins(frames):
    with pytest.raises(RunError, match=r"first frame: no file|expected frames, found none"):
        list(answers(Counting(), frames, [5, 6, 7, 8]))


def test_one_pass_gives_a_row_a_frame(videos):
    video = videos.videos[0]
    answered = one_pass(Counting(), video)
    assert answered.boxes[:, 0].tolist() == pytest.approx((video.truth[0, 0] + np.arange(24)).tolist())
    assert answered.size == (next(iter(video.frames)).shape[1], next(iter(video.frames)).shape[0])
    assert answered.states == ("found", *["uncertain"] * 23)
    assert (answered.seconds >= 0).all()


def test_speed_leaves_the_first_frame_apart():
    nothing = np.zeros((5, 4))
    passes = [Pass((9, 9), nothing, np.zeros(5), ("found",) * 5, np.array([2.0, 0.1, 0.1, np.nan, 0.4])) for _ in range(2)]
    assert speed(passes) == pytest.approx((10, 5, 2))
    assert np.isnan(speed([passes[0].__class__((9, 9), nothing[:1], np.zeros(1), ("found",), np.array([np.nan]))])).all()


def test_an_evaluation_goes_on_where_it_stopped(videos, tmp_path):
    answers_first, problems = evaluate([STILL], videos, tmp_path)
    assert (problems, len(answers_first["still"])) == ([], 2)
    files = sorted((tmp_path / "demo" / "still" / "sequences").iterdir())
    before = {path: path.stat().st_mtime_ns for path in files}
    files[0].unlink()
    again, _ = evaluate([STILL], videos, tmp_path)
    assert files[1].stat().st_mtime_ns == before[files[1]]
    assert files[0].exists()
    for name, held in again["still"].items():
        assert np.array_equal(held.boxes, answers_first["still"][name].boxes)


def test_a_sequence_that_has_changed_is_tracked_again(own_demo, tmp_path):
    evaluate([STILL], open_videos("demo"), tmp_path / "out")
    truth = own_demo / "GOT-10k_Val_000001" / "groundtruth.txt"
    first, rest = truth.read_text().split("\n", 1)
    truth.write_text("11,12,33,34\n" + rest)
    answered, _ = evaluate([STILL], open_videos("demo"), tmp_path / "out")
    assert answered["still"]["GOT-10k_Val_000001"].boxes[5].tolist() == [11, 12, 33, 34]
    assert first != "11,12,33,34"


def test_another_trackers_folder_is_refused_before_anything_is_written(videos, tmp_path):
    evaluate([STILL], videos.first(1), tmp_path)
    place = tmp_path / "demo" / "still"
    content = {path: path.read_bytes() for path in place.rglob("*.json")}
    with pytest.raises(RequestError, match=r"expected results of this tracker, found another's \(kind: 'still', not 'opencv'"):
        evaluate([STILL, Contestant("opencv-MIL", "opencv"), Contestant("still", "opencv")], videos, tmp_path)
    assert content == {path: path.read_bytes() for path in place.rglob("*.json")}
    assert not (tmp_path / "demo" / "opencv-MIL").exists()
    (place / "tracker.json").unlink()
    with pytest.raises(RequestError, match=r"expected tracker.json beside its sequences, found none"):
        evaluate([STILL], videos, tmp_path)
    for name in ("../still", "", ".hidden", "a/b"):
        with pytest.raises(RequestError, match="expected a name that a folder can have"):
            results_folder(tmp_path, "demo", name)


def test_damaged_answers_are_named(videos, tmp_path):
    evaluate([STILL], videos.first(1), tmp_path)
    path = tmp_path / "demo" / "still" / "sequences" / f"{videos.videos[0].name}.json"
    for content in ("[1, 2]", '{"boxes": [[1, 2]]}', "{"):
        path.write_text(content)
        with pytest.raises(RunError, match=rf"{path.name}: expected .* found .*; remove the file"):
            evaluate([STILL], videos.first(1), tmp_path)


def test_one_bad_sequence_is_reported_and_the_others_are_evaluated(own_demo, tmp_path, capsys):
    (own_demo / "GOT-10k_Val_000001" / "00000001.jpg").write_bytes(b"")
    (own_demo / "GOT-10k_Val_000002" / "00000007.jpg").unlink()  # the box of the frame before is kept
    frame = read_frame(own_demo / "GOT-10k_Val_000002" / "00000008.jpg")
    (own_demo / "GOT-10k_Val_000002" / "00000007.jpg").write_bytes(b"no image")
    cv2.imwrite(str(own_demo / "GOT-10k_Val_000002" / "00000009.jpg"), frame[:100])
    words = ["tracking", "eval", "--dataset", "demo", "--baselines", "still", "--jobs", "1", "--out", str(tmp_path / "out")]
    assert teachonce.main(words) == 1
    printed = capsys.readouterr().out
    assert "failed: still, GOT-10k_Val_000001: first frame: expected a frame, found an empty file" in printed
    page = (tmp_path / "out" / "demo" / "report.md").read_text()
    assert "## 1 sequences failed" in page
    assert "Frames that could not be used, in which the last box was kept: still 2." in page
    held = json.loads((tmp_path / "out" / "demo" / "results.json").read_text())
    assert held["sequences"] == ["GOT-10k_Val_000002"]
    skipped = json.loads((tmp_path / "out" / "demo" / "still" / "sequences" / "GOT-10k_Val_000002.json").read_text())["skipped"]
    assert [line.split(":")[0] for line in skipped] == ["frame 7", "frame 9"]


def test_several_processes_give_what_one_gives(videos, tmp_path):
    alone, _ = evaluate([STILL], videos, tmp_path / "one", jobs=1)
    shared, problems = evaluate([STILL], videos, tmp_path / "two", jobs=2)
    assert problems == []
    for name, held in alone["still"].items():
        assert np.array_equal(held.boxes, shared["still"][name].boxes)


def test_a_process_that_is_killed_is_one_line(videos, tmp_path, monkeypatch):
    monkeypatch.setattr("tracking.evaluate.ProcessPoolExecutor", lambda jobs, *rest, **more: DyingPool(jobs))
    with pytest.raises(RunError, match=r"expected 2 processes to live, found one killed .* fewer JOBS"):
        evaluate([STILL], videos, tmp_path, jobs=2)


class DyingPool(ProcessPoolExecutor):
    """A pool of forked processes, each of which dies at its first work."""

    def __init__(self, jobs):
        super().__init__(jobs, multiprocessing.get_context("fork"))

    def submit(self, work, /, *given, **named):
        return super().submit(os._exit, 1)


def perfect(videos: VideoSet) -> dict[str, Pass]:
    """Answers that follow the truth."""
    return {video.name: Pass((320, 240), video.truth.copy(), np.ones(24), ("found",) * 24, np.full(24, 0.01)) for video in videos.videos}


def test_the_page_shows_the_numbers_of_the_metrics(videos, tmp_path):
    answered, _ = evaluate([STILL], videos, tmp_path)
    answered = {"perfect": perfect(videos), **answered}
    table = report(answered, videos, [], tmp_path / "demo", "1 process")
    first, still = table.splitlines()[2:]
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells == ["perfect", "95.2 (95.2 to 95.2)", "100.0", "100.0", "100.0 (100.0 to 100.0)", *["100.0"] * 4, "10 ms"]
    held_boxes = {name: held.boxes for name, held in answered["still"].items()}
    tracked = [Tracked(v.name, "got10k", held_boxes[v.name], v.truth, v.visible, answered["still"][v.name].size) for v in videos.videos]
    rule = RULES["got10k"]
    ao = float(rule.number("ao", rule.measure(tracked), np.ones(2)))
    assert f" {100 * ao:.1f} (" in still
    held = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert held["trackers"]["still"]["got10k.ao"]["value"] == pytest.approx(ao)
    assert held["differences"]["still"]["got10k.ao"]["value"] == pytest.approx(1 - ao)
    page = (tmp_path / "demo" / "report.md").read_text()
    assert "## perfect against the others" in page
    for name in ("success.png", "success.svg", "precision.png", "precision.svg", "norm_precision.png", "norm_precision.svg"):
        assert (tmp_path / "demo" / "plots" / name).stat().st_size > 2000
    strips = read_frame(tmp_path / "demo" / "worst.jpg")
    assert strips.shape[0] > 300
    assert strips.shape[1] > 1000
    assert strips.std() > 20


def test_only_sequences_that_all_have_finished_are_compared(videos, tmp_path):
    answered = {"perfect": perfect(videos), "other": {videos.videos[1].name: perfect(videos)[videos.videos[1].name]}}
    scores = score(answered, videos)
    assert scores.sequences == (videos.videos[1].name,)
    assert score({"none": {}}, videos) is None
    assert "there are no numbers" in report({"none": {}}, videos, ["it failed"], tmp_path, "")


def test_got10k_files_are_what_its_toolkit_reads(videos, demo_video, tmp_path):
    experiments = pytest.importorskip("got10k.experiments", reason="the package got10k is not installed")
    answered, _ = evaluate([STILL], videos, tmp_path / "out")
    written = write_files(answered["still"], videos, tmp_path / "results" / "GOT-10k" / "still")
    assert written.name == "still.zip"
    toolkit = experiments.ExperimentGOT10k(str(demo_video), "val", str(tmp_path / "results"), str(tmp_path / "reports"))
    theirs = toolkit.report(["still"])["still"]["overall"]
    rule, rounded = RULES["got10k"], []
    for video in videos.videos:
        boxes = np.loadtxt(tmp_path / "results" / "GOT-10k" / "still" / video.name / f"{video.name}_001.txt", delimiter=",")
        rounded.append(Tracked(video.name, "got10k", boxes, video.truth, video.visible, answered["still"][video.name].size))
    measures, every = rule.measure(rounded), np.ones(2)
    assert float(rule.number("ao", measures, every)) == pytest.approx(theirs["ao"], abs=1e-6)
    assert float(rule.number("sr50", measures, every)) == pytest.approx(theirs["sr"], abs=1e-6)
    assert measures["success"].over(every) == pytest.approx(theirs["succ_curve"], abs=1e-6)


def test_each_benchmark_has_its_form(videos, tmp_path):
    answered = perfect(videos)
    name, other = (video.name for video in videos.videos)

    def paths(kind: str) -> dict[str, str]:
        return checked(answered, VideoSet("x", kind, videos.videos, ()))

    assert set(paths("got10k")) == {f"{n}/{n}_{what}.txt" for n in (name, other) for what in ("001", "time")}
    assert set(paths("lasot")) == {f"{n}.txt" for n in (name, other)} | {f"times/{n}_time.txt" for n in (name, other)}
    assert set(paths("trackingnet")) == {f"{name}.txt", f"{other}.txt"}
    row = videos.videos[0].truth[3]
    for kind, decimals in (("got10k", 3), ("trackingnet", 2), ("otb", 4)):
        files = paths(kind)
        text = next(text for path, text in files.items() if path.endswith((f"{name}_001.txt", f"/{name}.txt")) or path == f"{name}.txt")
        assert text.splitlines()[3] == ",".join(f"{value:.{decimals}f}" for value in row)
        assert len(text.splitlines()) == 24
    assert paths("got10k")[f"{name}/{name}_time.txt"].splitlines()[1] == "0.01000000"
    net = VideoSet("net", "trackingnet", videos.videos, ())
    packed = write_files(answered, net, tmp_path / "files")
    with zipfile.ZipFile(packed) as archive:
        assert sorted(archive.namelist()) == [f"{name}.txt", f"{other}.txt"]
    assert packed.read_bytes() == zipped(paths("trackingnet"))
    assert set(FORMS) == {"got10k", "trackingnet", "otb", "lasot", "uav123", "folder", "video"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda boxes: boxes[:-1], "expected 24 boxes, one a frame, found 23"),
        (lambda boxes: np.where(np.arange(24)[:, None] == 4, np.nan, boxes), "expected finite numbers and an area in frame 5, found"),
        (lambda boxes: boxes * [1, 1, 0, 1], "expected finite numbers and an area in frame 1"),
        (lambda boxes: boxes + np.array([3, 0, 0, 0]), "expected the given box first"),
    ],
)
def test_result_files_are_checked_before_they_are_written(videos, tmp_path, change, words):
    answered = perfect(videos)
    name = videos.videos[1].name
    held = answered[name]
    answered[name] = Pass(held.size, change(held.boxes), held.scores, held.states, held.seconds)
    with pytest.raises(RunError, match=f"{name}: {words}"):
        write_files(answered, videos, tmp_path / "files")
    del answered[name]
    with pytest.raises(RunError, match=f"expected answers for all sequences, found none for {name}"):
        write_files(answered, videos, tmp_path / "files")
    assert not list(tmp_path.iterdir())


def test_answers_that_are_no_boxes_are_not_kept(videos, tmp_path):
    place = Results(tmp_path / "x", {"kind": "still"})
    place.begin()
    held = perfect(videos)[videos.videos[0].name]
    with pytest.raises(RunError, match="expected a finite box for each of 24 frames"):
        place.write(videos.videos[0], Pass(held.size, held.boxes * np.nan, held.scores, held.states, held.seconds))
    assert place.read(videos.videos[0]) is None
