"""`python -m precompute check`: all problems with their places, and the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import RequestError
from precompute import check, environment


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch) -> None:
    monkeypatch.setattr(environment, "driver_cuda", lambda: 0)


@pytest.fixture
def root(tmp_path, write_got10k, monkeypatch) -> Path:
    """30 train sequences, of which 1-25 have a NaN in line 2; 1 sound one in val."""
    folder = write_got10k(tmp_path, [20] * 30, size=(16, 16))
    write_got10k(tmp_path, [20], "val", size=(16, 16))
    for number in range(1, 26):
        (folder / f"GOT-10k_Train_{number:06d}" / "groundtruth.txt").write_text("1,1,4,4\n1,1,nan,4\n")
    monkeypatch.setenv("GOT10K_ROOT", str(tmp_path))
    return tmp_path


def test_it_prints_every_problem_up_to_a_cap(root, capsys):
    assert check.main(["got10k"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"got10k (train), got10k at {root}"
    assert lines[1] == "  30 sequences, 5 usable (16.7 %), 100 frames, 100.0 % visible"
    assert f"{root}/train/GOT-10k_Train_000001/groundtruth.txt:2: expected finite numbers, found '1,1,nan,4'" in lines[2]
    assert lines[22:24] == ["  and 5 more (--most 0 shows all)", "  25 problems"]
    assert lines[24:28] == [
        f"got10k (val), got10k at {root}",
        "  1 sequences, 1 usable (100.0 %), 20 frames, 100.0 % visible",
        "  0 problems",
        "this machine",
    ]
    check.main(["got10k", "--split", "train", "--most", "0"])
    assert sum(":2: expected finite" in line for line in capsys.readouterr().out.splitlines()) == 25


def test_json_holds_all_of_them(root, capsys):
    assert check.main(["got10k", "--json"]) == 1
    train, val = json.loads(capsys.readouterr().out)["data"]
    assert (train["sequences"], train["faulty"], train["usable"], train["frames"]) == (5, 25, 5, 100)
    assert len(train["problems"]) == 25
    assert train["problems"][0]["line"] == 2
    assert val["problems"] == []
    assert len(val["content_sha256"]) == 64
    assert check.main(["got10k", "--split", "val"]) == 0


def test_decode_finds_unreadable_frames(root, capsys):
    broken = root / "val" / "GOT-10k_Val_000001" / "00000020.jpg"
    broken.write_bytes(broken.read_bytes()[:-20])
    assert check.main(["got10k", "--split", "val"]) == 0
    assert check.main(["got10k", "--split", "val", "--decode", "1"]) == 0
    assert check.main(["got10k", "--split", "val", "--decode", "2"]) == 1
    assert f"found a truncated file at {broken}" in capsys.readouterr().out
    assert check.main(["got10k", "--split", "val", "--decode", "-1"]) == 1


def test_boxes_below_a_pixel_and_boxes_of_corners_are_counted(root, capsys):
    """Frames are 16 x 16: 8,9 ... 14,15 as x,y,w,h would end at 22,24; a target at the border leaves the frame in a few frames only."""
    truth = root / "val" / "GOT-10k_Val_000001" / "groundtruth.txt"
    for lines, subpixel, leaving in (
        (["1,1,4,4"] * 17 + ["1,1,0.5,4", "1,1,4,0.99", "0,0,0,0"], 2, 0),
        (["8,9,14,15"] * 15 + ["1,1,4,4"] * 5, 0, 15),
        (["8,9,14,15"] * 5 + ["1,1,4,4"] * 15, 0, 0),
    ):
        truth.write_text("\n".join(lines))
        assert check.main(["got10k", "--split", "val", "--json"]) == 0
        (report,) = json.loads(capsys.readouterr().out)["data"]
        assert (report["subpixel"], report["corners"]) == (subpixel, leaving)
        places = {"subpixel": 18} if subpixel else {"corners": 1} if leaving else {}
        assert report["first"] == {kind: {"sequence": "GOT-10k_Val_000001", "line": line} for kind, line in places.items()}
        assert report["visible"] == 20 - subpixel - lines.count("0,0,0,0")
        check.main(["got10k", "--split", "val"])
        out = capsys.readouterr().out
        assert ("warning: 2 frames with a box below one pixel" in out) == bool(subpixel)
        assert ("warning: 15 frames with a box that leaves its frame as one of x1,y1,x2,y2 does" in out) == bool(leaving)


def test_boxes_outside_their_frame_and_of_negative_sides_are_counted(root, capsys):
    truth = root / "val" / "GOT-10k_Val_000001" / "groundtruth.txt"
    truth.write_text("\n".join(["16,1,4,4", "1,99,4,4", "-5,1,5,4", "15,15,9,9", "1,1,-4,4", "4,4,2,-1"] + ["1,1,4,4"] * 14))
    assert check.main(["got10k", "--split", "val", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["data"]
    assert (report["outside"], report["negative"], report["corners"], report["visible"]) == (3, 2, 0, 18)
    check.main(["got10k", "--split", "val"])
    out = capsys.readouterr().out
    assert "warning: 3 frames with a box that lies outside its frame" in out
    assert "warning: 2 frames with a box of negative width or height" in out and "(first: GOT-10k_Val_000001, line 5)" in out


def test_what_is_usable_follows_the_setting(root, capsys):
    assert check.main(["got10k", "--split", "val", "pairs.min_frames=21"]) == 1
    assert "expected a sequence of at least 21 frames, 5 visible, found none among 1" in capsys.readouterr().out


def test_missing_lists_are_problems_and_wrong_requests_errors(root, capsys):
    (root / "train" / "list.txt").unlink()
    assert check.main(["got10k", "--split", "train"]) == 1
    out = capsys.readouterr().out
    assert f"{root}/train/list.txt: expected this file, found none" in out
    assert "\n  1 problem\nthis machine\n" in out
    with pytest.raises(RequestError, match="found 'got1k'"):
        check.main(["got1k"])
    with pytest.raises(RequestError, match="--decode: expected -1 or more"):
        check.main(["got10k", "--decode", "-2"])


def test_a_mixture_is_looked_over_member_by_member(root, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.yaml").write_text(
        f"other: {{kind: got10k, root: {root}, val: {{}}}}\nboth: {{kind: mixture, train: [got10k], val: [got10k, other]}}\n"
    )
    monkeypatch.setenv("DATASETS", str(tmp_path / "mine.yaml"))
    for asked in ("both", "got10k other"):
        assert check.main([asked, "--json", "pairs.min_frames=10"]) == 1
        reports = json.loads(capsys.readouterr().out)["data"]
        assert [(r["dataset"], r["split"]) for r in reports] == [("got10k", "train"), ("got10k", "val"), ("other", "val")]


def test_a_data_set_that_cannot_be_opened_hides_no_other(root, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("LASOT_ROOT", raising=False)
    monkeypatch.setenv("COCO_ROOT", str(tmp_path / "none"))
    assert check.main(["lasot coco got10k", "--split", "val", "--json"]) == 2
    lasot, coco, got10k = json.loads(capsys.readouterr().out)["data"]
    assert "expected the environment variable LASOT_ROOT" in lasot["problems"][0]["what"]
    assert "expected its root to be a folder, found none at" in coco["problems"][0]["what"]
    assert (got10k["sequences"], got10k["problems"]) == (1, [])
    assert check.main(["lasot got10k", "--split", "val"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "lasot (val)" and lines[2:4] == ["  1 problem", f"got10k (val), got10k at {root}"]


def test_the_machine_is_looked_over_too(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "caches" / "mine"))
    assert check.main(["got10k", "--split", "val"]) == 0
    out = capsys.readouterr().out
    assert f" free below {tmp_path}/caches/mine\n" in out
    assert all(f"\n  {name}: " in out for name in ("torch", "GPU driver", "DALI", "onnx", "onnxruntime"))
    monkeypatch.setattr(environment, "driver_cuda", lambda: 12040)
    monkeypatch.setattr(environment, "torch_version", lambda: ("2.15.0+cu132", "13.2"))
    monkeypatch.setattr(environment, "free_bytes", lambda path: 5_000_000)
    assert check.main(["got10k", "--split", "val", "--json"]) == 1
    disk, driver = json.loads(capsys.readouterr().out)["environment"]["problems"]
    assert disk["file"] == f"{tmp_path}/caches/mine"
    assert "found 5.0 MB; free some space or set CACHE_DIR to another disk" in disk["what"]
    assert driver["what"] == (
        "expected one for CUDA 13 or later, found CUDA 12.4 beside torch 2.15.0+cu132 (CUDA 13.2);"
        " update the driver or install a torch built for CUDA 12"
    )


def test_driver_and_folder_problems(tmp_path):
    for cuda, driver, message in (
        ("13.2", 13000, None),  # any minor version does
        ("12.6", 13000, None),
        (None, 0, None),
        ("13.2", 0, None),
        (None, 12040, "expected one built for CUDA 12, as the driver is, found CUDA 12.4 beside torch 2.15 without CUDA; install it"),
    ):
        assert [p.what for p in environment.driver_problems("2.15", cuda, driver)] == ([message] if message else [])
    (tmp_path / "file").touch()
    (problem,) = environment.disk_problems(str(tmp_path / "file" / "caches"))
    assert (problem.file, problem.what.split(";")[0]) == (
        f"{tmp_path}/file",
        "expected a folder that caches can be written to, found a file",
    )


def test_torch_is_asked_without_an_import(root):
    import torch

    assert environment.torch_version() == (torch.__version__, torch.version.cuda)
    code = "import sys, precompute.check as c; c.main(['got10k', '--split', 'val']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL).returncode == 0


def test_help_names_the_command_that_was_typed(capsys):
    with pytest.raises(SystemExit):
        check.main(["--help"], "teachonce precompute check")
    assert capsys.readouterr().out.startswith("usage: teachonce precompute check ")
