"""The table of targets: the documents hold what `python -m kdlosses` prints, and what it says of losses and bytes is so."""

from __future__ import annotations

from pathlib import Path

import pytest

import configs
from configs.cli import run
from configs.schema import Losses
from kdlosses import TARGETS, build_objective
from kdlosses.__main__ import SETTINGS, main, markdown
from kdlosses.kinds import needs_teacher
from kdlosses.modules import MODULES
from kdlosses.needs import Networks
from models import LAYERS

ROOT = Path(__file__).parents[2]
# every way in which a term can ask for targets
ASKING: dict[str, list[dict[str, object]]] = {
    "teacher_soft": [{}],
    "adaptive_hard": [{}],
    "fidelity": [{"layers": LAYERS}],
    "projected_fidelity": [{"layers": LAYERS, "projection": kind} for kind in ("fixed", "trained")],
    "target_response": [{"weights": kind} for kind in ("correlation", "gaussian")],
    "classifier": [{"wanted": "teacher"}],
    "mutual_students": [{}],
}


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = run(main, arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    out, error = capsys.readouterr()
    return code, out, error


def test_a_document_holds_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys)
    assert code == 0
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    holding = [path for path in documents if f"\n\n{out}\n" in path.read_text()]
    assert holding, "paste the output of `python -m kdlosses` where the documents say what a pair takes"


def test_the_needed_by_column_is_what_the_objectives_ask_for() -> None:
    asked: dict[str, set[str]] = {name: set() for name in TARGETS}
    for term in Losses.model_fields:
        for options in ASKING.get(term, [{}]):
            beside = {} if term != "mutual_students" else {"ground_truth": 1}
            objective = build_objective(
                Losses.model_validate({term: {"weight": 1, **options}, **beside}), dict.fromkeys(LAYERS, 4), dict.fromkeys(LAYERS, 8), 1
            )
            for name in objective.per_term[term].targets:
                asked[name].add(term)
    assert {name: set(one.needed_by) for name, one in TARGETS.items()} == asked


def test_each_setting_is_a_column_of_its_own_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "--setting", "atom_cfkd drnet_cfkd", "pairs.ref.size=144", "pairs.test.size=144", "pairs.proposals=8")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines()]
    assert lines[0] == [
        "target",
        "what it is",
        "needed by",
        "bytes a pair, atom_resnet18 (`atom_cfkd`)",
        "bytes a pair, drnet_resnet50 (`drnet_cfkd`)",
    ]
    assert [line[0] for line in lines[2:]] == [f"`{name}`" for name in TARGETS]
    rows = {line[0].strip("`"): line for line in lines[2:]}
    assert rows["iou"][1:] == ["prediction of each proposal", "teacher_soft, adaptive_hard, mutual_students", "16", "64"]
    assert rows["abs_sum"][1:] == ["channel-summed absolute features (layer2, layer3)", "fidelity", "1,620", "1,620"]
    both = 2 * 2 * (128 * 18**2 + 256 * 9**2)
    assert rows["features"][3:] == [f"{both:,}", f"{4 * both:,}"]


def test_the_default_is_the_published_settings() -> None:
    loaded = [configs.load(name) for name in SETTINGS.split()]
    assert [(one.teacher.architecture, one.pairs.ref.size, one.pairs.test.size, one.pairs.proposals) for one in loaded if one.teacher] == [
        ("atom_resnet18", 288, 288, 16),
        ("drnet_resnet50", 288, 288, 16),
    ]
    assert len(markdown(loaded)) == 2 + len(TARGETS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--setting", "gt"], "expected settings with a teacher, found gt without"),
        (["--setting", "atom_cfdk"], "nearest: 'atom_cfkd'"),
        (["--setting", " "], "expected names of settings, found none"),
        (["pairs.test.sise=64"], "nearest: 'size'"),
        (["teacher.architecture=atom_resnet19"], "expected an architecture among"),
        (["--settings", "x"], "unrecognized arguments: --settings"),
    ],
)
def test_a_wrong_request_is_one_line_and_code_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = call(capsys, *arguments)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert message in error


def test_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert all(word in out for word in ("--setting", "key=value", "--debug", SETTINGS))


@pytest.mark.parametrize("name", Losses.sections())
def test_whether_an_objective_needs_a_teacher_is_known_without_its_modules(name: str) -> None:
    for options in (*ASKING.get(name, [{}]), *([{"wanted": "label"}] if name == "classifier" else [])):
        losses = Losses.model_validate({"ground_truth": {}, name: options})
        channels = dict.fromkeys(LAYERS, 2)
        networks = Networks(channels, channels, 1)
        assert needs_teacher(losses) == any(MODULES[type(term)](term, networks).needs.targets for term in losses.active().values())
