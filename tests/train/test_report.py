"""Reports and studies: every number beside what it was computed from, and the commands that make them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import pytest

import configs
from cache import Cache
from configs import RequestError, RunError, cli
from configs.budget import share_epochs
from train.__main__ import main, parse_seeds, parser
from train.reports import run_folder, study
from train.reports.report import break_even, report
from train.reports.run_folder import mflops, read_run, trained_parameters
from train.request import members
from train.run import run

SHORT = ("train.check_pairs=0", "train.val_batches=1", "train.pictures=1")


@pytest.fixture(scope="module")
def runs(world: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One cached run, one of ground truth alone."""
    folder = tmp_path_factory.mktemp("runs")
    return [run(world.config(*SHORT, "train.check_pairs=1", runs=folder)), run(world.config(*SHORT, setting="gt", runs=folder))]


def rows_of(page: str, heading: str) -> list[list[str]]:
    """Cells of the table below a heading, the head first."""
    part = page.split(f"## {heading}")[1].split("\n## ")[0]
    lines = [line for line in part.split("\n") if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_report_states_what_the_runs_measured(runs, tmp_path):
    page = report(runs, tmp_path / "out").read_text()
    first = read_run(runs[0])
    rows = rows_of(page, "Student against teacher")
    assert [row[0] for row in rows[1:]] == ["atom_cfkd/seed0", "gt/seed0"]
    wanted = [first.before["iou_error"], first.after["iou_error"], first.before["teacher_iou_error"], first.before["correlation"]]
    assert [float(cell) for cell in rows[1][1:5]] == pytest.approx(wanted, abs=6e-4)
    assert float(rows[1][9]) == pytest.approx(first.before["teacher_refinement_gain"], abs=6e-4) and rows[2][9] == "-"
    assert rows[2][3] == "-", "a setting without a teacher has none to compare with"
    numbers = rows_of(page, "Runs")
    assert first.result is not None
    assert numbers[1][1:6] == ["atom_resnet18tiny", f"{first.result['parameters']:,}", "7", "8", "32"]
    terms = rows_of(page, "Weighted loss terms")
    assert terms[0][1:] == [*first.after["terms"], "ground_truth", "sum"]
    for name in re.findall(r"\]\((.*?\.png)\)", page):
        image = cv2.imread(str(tmp_path / "out" / name))
        assert image is not None and image.std() > 5, f"{name} is missing or empty"


def test_the_cost_of_the_cache_is_what_its_ledger_and_history_say(runs, world, tmp_path):
    page = report(runs, tmp_path / "out").read_text()
    cache = Cache.open(world.folder / "caches" / "train")
    unit = cache.target("atom_resnet18tiny", "abs_sum")
    assert unit is not None
    rows = {(row[0], row[1]): row[2] for row in rows_of(page, "Cache")}
    assert rows["train", "atom_resnet18tiny: abs_sum"] == f"{sum(unit.nbytes().values()) / cache.count:,.0f}"
    first = read_run(runs[0])
    # both histories: 4 s of work, 1 s of teacher over 88 pairs; the run sees 32 pairs
    line = break_even(first, [Cache.open(world.folder / "caches" / split) for split in ("train", "val")])
    assert line is not None and f"saves {32 / 88:,.1f} s" in line and f"after **{4 / (32 / 88):.2f} runs**" in line and line in page
    assert break_even(read_run(runs[1]), [cache]) is None, "ground truth alone saves no teacher"


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RequestError, match="expected the folder of a run"):
        report([tmp_path], tmp_path / "out")


def test_parameters_and_operations_are_counted_for_what_runs(world):
    # published by the reference: 4 ATOM heads and backbones without the stages that are never run
    assert trained_parameters("atom_resnet18tiny") < trained_parameters("atom_mobilenetsmall") < trained_parameters("atom_resnet18")
    # the stem of both crops alone: 2 images x 8 filters of 3 x 7 x 7, a multiply-add for each of 32 x 32 places
    stem = 2 * 8 * 147 * 32 * 32 / 1e6
    assert stem < mflops("atom_resnet18tiny", world.config().pairs) < 10 * stem


def test_a_study_runs_every_member_once_and_compares_them(world, tmp_path, monkeypatch, capsys):
    plain = world.config(runs=tmp_path / "runs").model_dump(mode="json")
    overrides = [f"{key}={plain[key]}" for key in ("dataset", "cache_dir", "run_dir")]
    overrides += [f"pairs.{key}={plain['pairs'][key]}" for key in ("count", "val_count", "proposals")]
    overrides += ["pairs.ref.size=64", "pairs.test.size=64"]
    overrides += ["student.architecture=atom_resnet18tiny", "teacher.architecture=atom_resnet18tiny", *SHORT]
    overrides += [f"train.{key}={plain['train'][key]}" for key in ("batch", "lr", "log_every", "feed", "feed_threads", "device")]
    words = ["study", "gt", "sep", "--seeds", "0", "1", "--epochs", "2", "--batches", "2", "--out", str(tmp_path / "out"), "--", *overrides]
    assert cli.run(main, words) == 0
    page = (tmp_path / "out" / "report.md").read_text()
    rows = rows_of("## Summary\n" + page, "Summary")
    assert [row[:2] for row in rows[1:4]] == [["gt", "2"], ["sep", "2"], ["teacher", ""]]
    assert [row[-1] for row in rows[1:4]] == ["49.5", "59.5", "66.6"] and "not measured here" in page
    values = [read_run(tmp_path / "runs" / "gt" / f"study-seed{seed}").after["iou_error"] for seed in (0, 1)]
    mean, spread = (float(cell) for cell in rows[1][2].split(" ± "))
    assert mean == pytest.approx(sum(values) / 2, abs=1e-4) and spread == pytest.approx(abs(values[0] - values[1]) / 2**0.5, abs=1e-4)
    assert "4 steps of 4, 16 pairs a run" in page and (tmp_path / "out" / "compared.png").exists()
    capsys.readouterr()
    monkeypatch.setattr("train.run._train", lambda *arguments: pytest.fail("a finished member was run again"))
    assert cli.run(main, words) == 0
    assert capsys.readouterr().out.count("this run has finished") == 4


def test_a_failed_member_is_reported_and_the_others_go_on(world, tmp_path, monkeypatch):
    good, bad = (world.config(*SHORT, f"train.name=n{seed}", setting="gt", runs=tmp_path / "runs") for seed in (0, 1))

    def fails_once(config):
        if config is bad:
            raise RunError("step 3: expected finite losses, found nan")
        return run(config)

    monkeypatch.setattr(study, "run", fails_once)
    with pytest.raises(RunError, match=r"found failures in gt seed 0; see .*report\.md"):
        study.study([bad, good], tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    assert "## Failed\n\n- gt, seed 0: step 3: expected finite losses" in page and "gt/n0" in page


def test_budgets_must_be_equal():
    with pytest.raises(RequestError, match=r"equally many pairs, found gt 2,400,000, atom_cfkd 1,600,000; give --epochs and --batches"):
        members(["gt", "atom_cfkd"], [0], ["dataset=demo"], None, None)
    equal = members(["gt", "atom_cfkd", "sep"], [0, 1], ["dataset=demo"], 10, 100)
    assert {run_folder.budget(config) for config in equal} == {(1000, 32_000)} and len(
        {run_folder.folder_of(config) for config in equal}
    ) == 6
    assert {config.train.lr_step for config in equal[:4]} == {3} and [phase.epochs for phase in equal[-1].phases] == [5, 5]
    with pytest.raises(RequestError, match="at least one for each of sep's 2 phases, found 1"):
        members(["sep"], [0], ["dataset=demo"], 1, 100)
    with pytest.raises(RequestError, match="expected each of --seeds once, found 0 0"):
        members(["gt"], [0, 0], [], None, None)


@pytest.mark.parametrize(
    ("lengths", "epochs", "wanted"), [((50, 50), 5, [2, 3]), ((1, 99), 4, [1, 3]), ((10, 10, 10), 3, [1, 1, 1]), ((3, 1), 8, [6, 2])]
)
def test_phases_share_the_epochs_in_proportion(lengths, epochs, wanted):
    assert share_epochs(lengths, epochs, "sep") == wanted


def test_seeds_are_read_in_both_forms():
    assert parse_seeds(["0,1", "2"]) == [0, 1, 2]
    with pytest.raises(RequestError, match="--seeds: expected whole numbers such as 0,1,2, found 'a'"):
        parse_seeds(["a"])


def test_help_lists_every_field_of_the_configuration(capsys):
    with pytest.raises(SystemExit):
        parser("python -m train").parse_args(["run", "--help"])
    text = capsys.readouterr().out
    missing = [name for name, _, _ in configs.field_help() if f"  {name} = " not in text and name not in ("setting", "doc")]
    assert not missing and "share of the batches with fresh augmentation" in text


def test_commands_end_with_one_line_and_the_right_code(world, tmp_path, capsys):
    assert cli.run(main, ["run", "--setting", "atom_cfdk"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: setting: expected one of") and "(nearest: 'atom_cfkd')" in error and error.count("\n") == 1
    path = tmp_path / "own.yaml"
    tree = world.config(*SHORT, "train.epochs=1", setting="gt", runs=tmp_path / "runs").model_dump(mode="json")
    path.write_text(json.dumps({key: value for key, value in tree.items() if key != "setting"}))
    assert cli.run(main, ["run", "train.batches=1", "--setting", str(path)]) == 0
    assert capsys.readouterr().out.strip().split("\n")[-1] == f"run: {tmp_path / 'runs' / 'own' / 'seed0'}"
    assert cli.run(main, ["report", str(tmp_path / "runs" / "own" / "seed0"), "--out", str(tmp_path / "page")]) == 0
    assert capsys.readouterr().out.strip() == f"report: {tmp_path / 'page' / 'report.md'}"
