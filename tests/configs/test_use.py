"""An override that changes nothing is an error, whatever the setting and the field."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

import configs
from configs.errors import RequestError
from configs.overrides import yaml_value
from configs.schema import Config
from configs.tracking import RefinementConfig
from configs.use import without_use
from train.request import understood_study

OTHERS: tuple[Any, ...] = (
    *(0.5, 2, 48, 0.05, 3, True, False, "cached", "fresh", "smooth_l1", "mse", "causal", "bfloat16", "cpu", "torch", "layer3", "drnet"),
    *(
        "pair",
        "gaussian",
        "trained",
        "teacher",
        "none",
        "online",
        "ref",
        "subsample",
        "atom_resnet50",
        "layer2",
        "label",
        "atom_vot",
        ("layer2",),
        ("backbone",),
        ("head",),
        ("flip",),
        (0.2,),
        ("a",),
        "other",
    ),
)
"""Values of which every field takes some."""
taken: dict[str, Any] = {}
"""Field -> the value that it took last."""


def leaves(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted name -> value of every field of a dumped configuration; phases as they are numbered."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inner = dict(enumerate(value)) if key == "phases" else value
        found |= leaves(inner, f"{above}{key}.") if isinstance(inner, dict) and inner else {f"{above}{key}": value}
    return found


def with_one(config: Config, name: str, value: Any) -> Config | None:
    """The configuration with another value of a field; None where it takes no such value."""
    tree: Any = config.model_dump()
    tree["phases"] = dict(enumerate(tree["phases"]))
    *above, last = name.split(".")
    node = tree
    for part in above:
        node = node[int(part) if part.isdecimal() else part]
    node[last] = value
    try:
        return Config.model_validate({**tree, "phases": [*tree["phases"].values()]})
    except ValidationError:
        return None


@pytest.mark.parametrize("setting", configs.settings())
def test_every_field_of_every_setting_can_be_overridden(setting):
    plain = changed = configs.load(setting)
    # what phases have of their own, and what is no plain value; train.mix would need another train.augment
    skipped = {
        "setting",
        "like",
        "teacher",
        "second_student",
        "phases",
        "train.mix",
        *(("train.epochs", "train.freeze") if plain.phases else ()),
    }
    wanted: dict[str, Any] = {}
    for name, old in leaves(plain.model_dump()).items():
        if name in skipped or (old is None and "losses" in name):
            continue
        likely = sorted(OTHERS, key=lambda value: (value != taken.get(name), type(value) is not type(old)))
        tries = ((value, with_one(changed, name, value)) for value in likely if value != old)
        wanted[name], changed = next((value, config) for value, config in tries if config is not None)
    taken.update(wanted)
    loaded = configs.load(setting, [f"{name}={yaml_value(value)}" for name, value in wanted.items()], strict=False)
    found, before = leaves(loaded.model_dump()), leaves(plain.model_dump())
    assert len(wanted) > 80 and not {
        name for name in wanted if found[name] != leaves(changed.model_dump())[name] or found[name] == before[name]
    }


@pytest.mark.parametrize("setting", configs.settings())
def test_what_a_setting_makes_no_use_of_is_refused(setting):
    config = configs.load(setting)
    useless = {"setting": "gt", "train.track_sequences": 2}
    if config.train.augment != "fresh":
        useless["train.fresh"] = "[flip]"
    if config.teacher is None:
        useless |= {"train.teacher": "online", "train.check_pairs": 9, "memory_gb": 2}
    if config.train.freeze == ("backbone",):
        useless["train.backbone_lr"] = 0.1
    if config.student.architecture.startswith("drnet"):
        useless |= {"tracking.refinement.steps": 6, "tracking.refinement": "{top_k: 2}"}
    clashing = {"train.teacher"} if config.train.augment == "fresh" else set()
    for name, value in useless.items():
        if name in clashing:
            continue
        with pytest.raises(RequestError, match=f"override {name}.*: expected a setting in which .*, or leave it out"):
            configs.load(setting, [f"{name}={value}"])
    harmless = {"train.check_pairs=0", "train.teacher=auto", "memory_gb=null"} if config.teacher is None else set()
    assert set(without_use(config)) - {"train.check_pairs"} <= {
        *useless,
        *(f"tracking.refinement.{name}" for name in RefinementConfig.model_fields),
    }
    configs.load(setting, sorted(harmless))


def test_they_are_found_in_a_section_too_and_are_fine_where_another_makes_them_count():
    with pytest.raises(RequestError, match=r"override train\.fresh: expected a setting in which batches are fresh"):
        configs.load("gt", ["train={fresh: [flip], epochs: 3}"])
    with pytest.raises(RequestError, match=r"override train\.lr: expected a setting in which more than the backbone is trained"):
        configs.load("gt", ["train.freeze=[head]", "train.backbone_lr=0.1", "train.lr=0.1"])
    configs.load("gt", ["train.freeze=[head]", "train.lr=0.1"])
    configs.load("gt", ["train.track_sequences=2", "train.track_every=1"])
    configs.load("gt", ["train.mix=0.5", "train.fresh=[flip]"])


def test_of_a_study_one_setting_has_to_make_use_of_each(tmp_path, monkeypatch):
    monkeypatch.setenv("CACHE_DIR", str(tmp_path))
    with pytest.raises(RequestError, match=r"override train\.fresh: expected a setting in which batches are fresh"):
        understood_study(["gt", "ts"], [0], ["train.fresh=[flip]"], None, None)
    for overrides in (["train.teacher=online"], ["train.check_pairs=4"]):
        with pytest.raises(RequestError, match="expected the cache of one data set"):
            understood_study(["gt", "ts"], [0], overrides, None, None)
        with pytest.raises(RequestError, match="expected a setting in which a teacher is"):
            understood_study(["gt"], [0], overrides, None, None)


@pytest.mark.parametrize(
    ("override", "options"), [("train.seed=3", {}), ("train.epochs=3", {"epochs": 2}), ("train={batches: 3}", {"batches": 2})]
)
def test_what_an_option_states_is_not_stated_again(override, options):
    with pytest.raises(RequestError, match=r"override train\..*: expected it or --.*, found both"):
        understood_study(["gt"], [0], [override], options.get("epochs"), options.get("batches"))
