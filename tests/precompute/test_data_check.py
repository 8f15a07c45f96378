"""`python -m precompute check`: all problems with their places, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.errors import RequestError
from precompute import check


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
    assert lines[24:] == [
        f"got10k (val), got10k at {root}",
        "  1 sequences, 1 usable (100.0 %), 20 frames, 100.0 % visible",
        "  0 problems",
    ]
    check.main(["got10k", "--split", "train", "--most", "0"])
    assert sum(":2: expected finite" in line for line in capsys.readouterr().out.splitlines()) == 25


def test_json_holds_all_of_them(root, capsys):
    assert check.main(["got10k", "--json"]) == 1
    train, val = json.loads(capsys.readouterr().out)
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


def test_what_is_usable_follows_the_setting(root, capsys):
    assert check.main(["got10k", "--split", "val", "pairs.min_frames=21"]) == 1
    assert "expected a sequence of at least 21 frames, 5 visible, found none among 1" in capsys.readouterr().out


def test_missing_lists_are_problems_and_wrong_requests_errors(root, capsys):
    (root / "train" / "list.txt").unlink()
    assert check.main(["got10k", "--split", "train"]) == 1
    out = capsys.readouterr().out
    assert f"{root}/train/list.txt: expected this file, found none" in out
    assert out.endswith("  1 problem\n")
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
        reports = json.loads(capsys.readouterr().out)
        assert [(r["dataset"], r["split"]) for r in reports] == [("got10k", "train"), ("got10k", "val"), ("other", "val")]


def test_help_names_the_command_that_was_typed(capsys):
    with pytest.raises(SystemExit):
        check.main(["--help"], "teachonce precompute check")
    assert capsys.readouterr().out.startswith("usage: teachonce precompute check ")
