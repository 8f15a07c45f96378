"""Settings, inheritance, overrides, and what a wrong one is told."""

from __future__ import annotations

import pytest
import yaml

import configs
from configs.errors import RequestError
from configs.load import SETTINGS


def test_every_setting_resolves_and_survives_its_dump():
    assert {"gt", "ts", "ts_ah", "ts_ah_fid", "sep", "atom_cfkd", "atom_paper", "atom_tskd", "atom_compression", "drnet_cfkd"} <= set(
        configs.settings()
    )
    for name in configs.settings():
        config = configs.load(name)
        assert config.setting == name
        assert config.doc
        assert configs.parse(yaml.safe_load(configs.dump(config)), name) == config


def test_a_setting_states_only_its_difference():
    own = yaml.safe_load((SETTINGS / "atom_cfkd.yaml").read_text())
    assert set(own) == {"base", "doc", "losses"}
    config = configs.load("atom_cfkd")
    assert {name: term.weight for name, term in config.losses.active().items()} == {
        "teacher_soft": 1,
        "adaptive_hard": 0.1,
        "fidelity": 100,
        "correlation_filter": 0.01,
    }
    assert (config.train.batch, config.train.epochs, config.train.batches, config.train.lr) == (32, 50, 1000, 0.01)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("gt", {"train.batches": 1500, "teacher": None}),
        ("atom_paper", {"train.batch": 64, "train.lr": 1e-3, "train.gamma": 0.2, "train.freeze": ("backbone",)}),
        ("drnet_cfkd", {"train.batches": 1800, "train.gamma": 0.2, "teacher.architecture": "drnet_resnet50"}),
        ("resnet18tiny", {"student.architecture": "atom_resnet18tiny", "losses.fidelity.weight": 100}),
    ],
)
def test_settings_hold_the_published_numbers(setting, expected):
    config = configs.load(setting)
    for key, value in expected.items():
        found = config
        for part in key.split("."):
            found = getattr(found, part)
        assert found == value, key


def test_sep_has_two_phases_of_fifty_epochs():
    first, second = configs.load("sep").phases_or_one()
    assert (first.epochs, second.epochs) == (50, 50)
    assert first.freeze == ("head",) and second.freeze == ("backbone",)
    assert set(first.losses.active()) == {"fidelity", "correlation_filter"}


def test_like_takes_sizes_and_budget_and_leaves_the_objective():
    demo = configs.load("demo")
    for name in ("gt", "ts", "sep", "atom_tskd", "resnet18small", "drnet_cfkd", "atom_paper"):
        plain, config = configs.load(name), configs.load(name, ["like=demo"])
        assert (config.like, config.dataset, config.pairs) == ("demo", "demo", demo.pairs)
        assert config.losses == plain.losses and [p.losses for p in config.phases] == [p.losses for p in plain.phases]
        assert config.train == demo.train.model_copy(update={"freeze": plain.train.freeze})
        assert sum(phase.epochs for phase in config.phases_or_one()) == 5 and [p.freeze for p in config.phases] == [
            p.freeze for p in plain.phases
        ]
        assert configs.parse(yaml.safe_load(configs.dump(config)), name) == config
    # what a setting does not state is the demo's, what it states is its own
    assert configs.load("ts", ["like=demo"]).student == demo.student and configs.load("ts", ["like=demo"]).teacher == demo.teacher
    assert configs.load("gt", ["like=demo"]).teacher is None
    assert configs.load("gt", ["like=demo"]).tracking == demo.tracking != configs.load("gt").tracking
    assert configs.load("resnet18small", ["like=demo"]).student.architecture == "atom_resnet18small"
    assert configs.load("drnet_cfkd", ["like=demo"]).teacher == configs.load("drnet_cfkd").teacher


def test_a_file_may_have_the_name_of_one_of_its_bases(tmp_path):
    own = tmp_path / "ts.yaml"
    own.write_text("base: ts_ah\ndoc: mine\nlosses: {adaptive_hard: 0.2}\n")
    assert {name: term.weight for name, term in configs.load(str(own)).losses.active().items()} == {"teacher_soft": 1, "adaptive_hard": 0.2}


def test_overrides_and_files_go_on_top_of_like(tmp_path):
    config = configs.load("sep", ["like=demo", "train.epochs=8", "pairs.count=7"])
    assert (
        [phase.epochs for phase in config.phases] == [4, 4]
        and config.pairs.count == 7
        and config.pairs.ref.size == config.pairs.test.size == 144
    )
    assert configs.load("ts", ["like=demo", "like=null"]) == configs.load("ts")
    own = tmp_path / "own.yaml"
    own.write_text("base: ts\nlike: demo\nlosses: {teacher_soft: 3}\n")
    assert configs.load(str(own)).train == configs.load("demo").train and configs.load(str(own)).losses.teacher_soft.weight == 3
    with pytest.raises(RequestError, match=r"found 'dmeo' \(nearest: 'demo'\)"):
        configs.load("ts", ["like=dmeo"])
    with pytest.raises(RequestError, match="epochs: expected at least one for each of sep's 2 phases, found 1"):
        configs.load("sep", ["like=demo", "train.epochs=1"])


def lengths(*overrides: str, setting: str = "sep") -> list[int]:
    return [phase.epochs for phase in configs.load(setting, overrides).phases]


def test_the_epochs_of_phases_are_shared_out_or_set_one_by_one(tmp_path):
    assert lengths("train.epochs=10") == [5, 5] and lengths("train.epochs=3") == [2, 1]
    assert lengths("phases.0.epochs=1") == [1, 50] and lengths("phases.1={epochs: 7}") == [50, 7]
    # the later wins
    assert lengths("train.epochs=10", "phases.0.epochs=1") == [1, 5] and lengths("phases.1.epochs=150", "train.epochs=8") == [2, 6]
    assert lengths("like=demo", "phases.1.epochs=9") == [2, 9] and lengths("train.epochs=1", "train.epochs=4") == [2, 2]
    config = configs.load("sep", ["phases.0.losses.fidelity=7", "phases.1.losses.adaptive_hard=null", "phases.1.freeze=[]"])
    assert {name: term.weight for name, term in config.phases[0].losses.active().items()} == {"fidelity": 7, "correlation_filter": 0.01}
    assert list(config.phases[1].losses.active()) == ["teacher_soft"] and config.phases[1].freeze == ()
    # what a run wrote is a setting
    (tmp_path / "config.yaml").write_text(configs.dump(config))
    assert configs.load(str(tmp_path / "config.yaml")).phases == config.phases
    own = tmp_path / "own.yaml"
    own.write_text("base: sep\ntrain: {epochs: 20}\nphases: {1: {freeze: []}}\n")
    assert lengths(setting=str(own)) == [10, 10] and configs.load(str(own)).phases[1].freeze == ()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["losses.fidelity=3"], r"expected losses of a phase, found 2 phases .*; state phases\.N\.losses \(N from 0\)"),
        (["losses={fidelity: 3}"], r"state phases\.N\.losses"),
        (["train.freeze=[head]"], r"expected train\.freeze of a phase, .*; state phases\.N\.freeze"),
        (["phases.2.epochs=1"], r"expected the number of a phase, 0 to 1, found '2'"),
        (["phases.x.epochs=1"], r"expected the number of a phase, 0 to 1, found 'x'"),
        (["phases.0.epoch=1"], r"found 'phases\.0\.epoch' \(nearest: 'epochs'\)"),
        (["train.epochs=1"], r"epochs: expected at least one for each of sep's 2 phases, found 1; give more"),
        (["train.epochs=few"], r"train\.epochs: expected a valid integer"),
        (["phases.0.epochs=0"], r"phases\.0\.epochs: expected greater than or equal to 1, found 0"),
        (["train.fresh=[flip]"], r"train\.fresh: expected a setting in which batches are fresh"),
    ],
)
def test_what_a_setting_with_phases_has_no_use_for_is_refused(overrides, message):
    with pytest.raises(RequestError, match=message):
        configs.load("sep", overrides)


def test_files_are_held_to_the_same(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("base: sep\nlosses: {fidelity: 3}\n")
    with pytest.raises(RequestError, match="expected losses of a phase"):
        configs.load(str(own))
    with pytest.raises(RequestError, match=r"phases\.0\.epochs=1: expected a setting with phases, found one without"):
        configs.load("gt", ["phases.0.epochs=1"])
    with pytest.raises(RequestError, match=r"train\.backbone_lr: expected a setting in which the backbone is trained"):
        configs.load("atom_paper", ["train.backbone_lr=0.1"])


def test_overrides_reach_every_depth():
    config = configs.load("atom_cfkd", ["train.epochs=2", "train.lr=1e-3", "losses.correlation_filter=null", "pairs.test.size=144"])
    assert (config.train.epochs, config.train.lr, config.pairs.test.size, config.pairs.ref.size) == (2, 1e-3, 144, 288)
    # one field alone keeps the defaults of its own image
    assert (config.pairs.test.scale_jitter, config.pairs.test.center_jitter, config.pairs.ref.center_jitter) == (0.5, 4.5, 0)
    assert config.losses.correlation_filter is None


def test_a_number_sets_a_weight_and_keeps_the_other_fields():
    term = configs.load("atom_tskd", ["losses.teacher_soft=3"]).losses.teacher_soft
    assert term is not None and (term.weight, term.form) == (3, "mse")
    fidelity = configs.load("atom_cfkd", ["losses.fidelity.form=smooth_l1"]).losses.fidelity
    assert fidelity is not None and (fidelity.weight, fidelity.form) == (100, "smooth_l1")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.epoch=2"], r"expected a known key, found 'train.epoch' \(nearest: 'epochs'\)"),
        (["losses.fidelty=2"], r"found 'losses.fidelty' \(nearest: 'fidelity'\)"),
        (["losses.fidelity.wieght=2"], r"'weight'"),
        (["train.epochs=few"], r"train.epochs: expected a valid integer.*found 'few'"),
        (["pairs.ref.size=100"], r"pairs.ref.size: expected a multiple of 16, found 100"),
        (["pairs.crop_size=144"], r"expected pairs.ref.size and pairs.test.size, found pairs.crop_size, their name in earlier versions"),
        (["pairs.test_scale_jitter=1"], r"expected pairs.test.scale_jitter, found pairs.test_scale_jitter"),
        (["train"], r"expected key=value"),
        (["train..epochs=1"], r"expected key=value"),
        (["teacher.architecture=atom_resnet99"], r"teacher.architecture: expected an architecture among .* \(nearest: 'atom_resnet"),
        (["train.lr=.inf"], r"train.lr: expected a finite number, found inf"),
        (["pairs.proposal_sigmas=[0.1, .nan]"], r"pairs.proposal_sigmas.1: expected a finite number, found nan"),
        (["train.epochs=true"], r"train.epochs: expected anything but true or false, found True"),
        (["train.compile=1"], r"train.compile: expected auto, true or false, found 1"),
        (["pairs.count=3000000000"], r"pairs.count: expected less than 2147483648"),
        (["train.name=../../x"], r"train.name: expected the name of one folder .*, found '\.\./\.\./x'"),
        (["train.name=."], r"train.name: expected the name of one folder"),
        (["teacher.name=a/b"], r"teacher.name: expected the name of one folder"),
        (["dataset=''"], r"dataset: expected a text that can be printed, found ''"),
        (['cache_dir="a\\x1b[31mb"'], r"cache_dir: expected a text that can be printed, found 'a\\x1b\[31mb'"),
        (["train.batch=1"], r"train.batch: expected at least 2 pairs for the head's BatchNorm, found 1"),
        (["train.freeze=[backbone, head]"], r"freeze: expected parameters left to train, found backbone and head frozen"),
        (["train.device=tpu"], r"train.device: expected auto, cpu, cuda or cuda:n, found 'tpu'"),
        (["x" * 9999 + "=1"], r"found 'xxx"),
        (["train.epochs.deep.er=1"], r"."),
        (["train.augment=fresh", "train.teacher=cached"], r"train.augment=fresh clashes with train.teacher=cached"),
        (["train.mix=0.1", "train.teacher=cached"], r"train.mix > 0 clashes"),
        (["losses.mutual_students=1"], r"second_student"),
        (["losses={fidelity: null, teacher_soft: null, adaptive_hard: null, correlation_filter: null}"], r"expected at least one term"),
    ],
)
def test_a_wrong_override_is_one_line(overrides, message):
    with pytest.raises(RequestError, match=message) as caught:
        configs.load("atom_cfkd", overrides)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(RequestError, match=r"found 'atom_cfk' \(nearest: 'atom_cfkd'\)"):
        configs.load("atom_cfk")


def test_a_file_of_ones_own_may_inherit_from_a_setting(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text("base: atom_cfkd\ntrain: {epochs: 3}\n")
    config = configs.load(str(own))
    assert (config.setting, config.train.epochs, config.train.batches) == ("mine", 3, 1000)
    (tmp_path / "a.yaml").write_text("base: b\n")
    (tmp_path / "b.yaml").write_text("base: a\n")
    with pytest.raises(RequestError, match="found a circle a -> b"):
        configs.load(str(tmp_path / "a.yaml"))


def test_what_a_run_wrote_is_of_the_setting_that_it_states_and_what_stands_on_it_is_not(tmp_path):
    (tmp_path / "config.yaml").write_text(configs.dump(configs.load("ts", ["train.epochs=3"])))
    assert configs.load(str(tmp_path / "config.yaml")) == configs.load("ts", ["train.epochs=3"])
    (tmp_path / "mine.yaml").write_text("base: config\n")
    assert configs.load(str(tmp_path / "mine.yaml")).setting == "mine"
    for name in ("../x", "..", "a/b", "3", "null"):
        (tmp_path / "mine.yaml").write_text(f"base: config\nsetting: {name}\n")
        with pytest.raises(RequestError, match="setting: expected"):
            configs.load(str(tmp_path / "mine.yaml"))


def test_field_help_lists_every_field_with_its_default():
    rows = {name: (default, text) for name, default, text in configs.field_help()}
    assert rows["train.epochs"][0] == "50"
    assert rows["pairs.proposal_sigmas"][0] == "[0.01, 0.05, 0.1, 0.2, 0.3]"
    assert (rows["pairs.ref.center_jitter"][0], rows["pairs.test.center_jitter"][0]) == ("0.0", "4.5")
    assert rows["losses.correlation_filter.normalise"][0] == "batch"
    assert all(text for _, text in rows.values())


def test_the_documents_list_every_setting_with_what_it_is():
    page = (SETTINGS.parents[1] / "docs" / "settings.md").read_text()
    table = page.split("| setting | objective |\n|---|---|\n")[1].split("\n\n")[0]
    assert table == "\n".join(f"| `{name}` | {doc} |" for name, doc in configs.settings().items())


@pytest.mark.parametrize("text", ["base: " + "a" * 5000, "like: 1", "like: [a]", "base: [a]", 'base: "a\\0b"'])
def test_a_base_that_can_be_none_is_one_line(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(RequestError, match=r"expected (base: to be|the name of) a setting"):
        configs.load(str(tmp_path / "mine.yaml"))
    with pytest.raises(RequestError, match="expected a YAML file, found none"):
        configs.load("a" * 5000 + ".yaml")
