"""The plan: cache, online teacher or none, term by term, and what is refused."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pytest

import configs
from configs import RequestError
from kdlosses import TARGETS
from train.plan import ABSENT, Held, Origin, Plan, TermNeeds, cache_command, make_plan, why_not_cached

ALL = {"iou": "", "abs_sum": ""}
CFKD = {"teacher_soft": ("iou",), "adaptive_hard": ("iou",), "fidelity": ("abs_sum",), "correlation_filter": ()}
WEIGHTS = "teacher.pth"


def plan(
    *overrides: str,
    train: Held = ALL,
    val: Held = ALL,
    weights: str | None = WEIGHTS,
    setting: str = "atom_cfkd",
    needs: Sequence[TermNeeds] = (CFKD,),
) -> Plan:
    return make_plan(configs.load(setting, ["dataset=got10k", *overrides]), needs, train, val, weights)


def origins(made: Plan) -> dict[str, str]:
    return {row.term: row.train for row in made.rows}


def test_replayed_images_take_every_target_from_the_cache():
    made = plan(weights=None)
    assert origins(made) == {"teacher_soft": "cache", "adaptive_hard": "cache", "fidelity": "cache", "correlation_filter": "none"}
    assert made.train == (Origin(cached=("iou", "abs_sum")),) and made.val == made.train and not made.needs_teacher


def test_fresh_images_start_the_teacher_for_those_who_need_it_only():
    made = plan("train.augment=fresh")
    assert origins(made)["fidelity"] == "online teacher" and origins(made)["correlation_filter"] == "none"
    assert made.train == made.fresh == (Origin(online=("iou", "abs_sum")),)
    assert made.val == (Origin(cached=("iou", "abs_sum")),), "validation replays the recorded pairs whatever training does"


@pytest.mark.parametrize("augment", ["fresh", "none", "replay"])
def test_student_only_losses_never_start_a_teacher(augment):
    needs = ({"ground_truth": (), "correlation_filter": (), "tracking": ()},)
    losses = ["losses.ground_truth=1", "losses.correlation_filter=1", "losses.tracking=1", "losses.teacher_soft=null"]
    losses += ["losses.adaptive_hard=null", "losses.fidelity=null"]
    made = plan(f"train.augment={augment}", "train.teacher=online", *losses, train={}, val={}, needs=needs, weights=None)
    assert set(origins(made).values()) == {"none"} and not made.needs_teacher


def test_plain_crops_are_not_what_the_teacher_saw_unless_no_photometry_was_recorded():
    assert origins(plan("train.augment=none"))["fidelity"] == "online teacher"
    same = plan("train.augment=none", "pairs.brightness=0", "pairs.grey_probability=0", weights=None)
    assert origins(same)["fidelity"] == "cache"


def test_mixed_batches_are_online_and_the_others_cached():
    made = plan("train.mix=0.1")
    assert made.train == (Origin(cached=("iou", "abs_sum")),) and made.fresh == (Origin(online=("iou", "abs_sum")),)
    assert origins(made)["fidelity"] == "cache, 10% online teacher" and made.needs_teacher


@pytest.mark.parametrize("mode", ["train.augment=fresh", "train.mix=0.5"])
@pytest.mark.parametrize("name", ["brightness", "grey", "flip", "blur"])
def test_each_change_of_the_image_sends_every_target_online(name, mode):
    made = plan(mode, f"train.fresh=[{name}]")
    assert made.fresh == (Origin(online=("iou", "abs_sum")),)
    for term in ("teacher_soft", "adaptive_hard", "fidelity"):
        row = next(row for row in made.rows if row.term == term)
        assert "online teacher" in row.train and f"fresh {name}: the teacher must see the new image" in row.why
    with pytest.raises(RequestError, match=f"fresh {name}: the teacher must see the new image: expected the teacher's weights"):
        plan(mode, f"train.fresh=[{name}]", weights=None)


def test_new_proposals_send_the_teachers_predictions_online_and_leave_the_maps_cached():
    made = plan("train.augment=fresh", "train.fresh=[proposals]")
    assert made.train == made.fresh == (Origin(cached=("abs_sum",), online=("iou",)),)
    assert origins(made) == {"teacher_soft": "online teacher", "adaptive_hard": "online teacher", "fidelity": "cache"} | {
        "correlation_filter": "none"
    }
    assert "fresh proposals: the teacher must judge the new ones" in made.table()
    mixed = plan("train.mix=0.25", "train.fresh=[proposals]")
    assert mixed.train == (Origin(cached=("iou", "abs_sum")),) and mixed.fresh == made.fresh
    assert origins(mixed)["teacher_soft"] == "cache, 25% online teacher" and origins(mixed)["fidelity"] == "cache"
    # without a loss that needs predictions there is nothing to compute, so no weights are needed
    maps = plan("train.augment=fresh", "train.fresh=[proposals]", weights=None, needs=({"fidelity": ("abs_sum",)},))
    assert maps.train == (Origin(cached=("abs_sum",)),) and not maps.needs_teacher


def test_only_predictions_have_a_number_a_proposal():
    assert [name for name, target in TARGETS.items() if target.per_proposal] == ["iou"]
    assert why_not_cached(configs.load("atom_tskd", ["train.augment=fresh", "train.fresh=[proposals]"]), "response", "fresh") == ""


def test_fresh_brightness_of_a_pair_set_without_any_changes_nothing():
    unlit = ("pairs.brightness=0", "train.augment=fresh", "train.fresh=[brightness]")
    assert plan(*unlit, weights=None).fresh == (Origin(cached=("iou", "abs_sum")),)


def test_more_proposals_a_step_than_a_pair_has_are_refused():
    with pytest.raises(RequestError, match=r"train\.proposals: expected at most the 16 that a cached pair has .*found 17; lower it, or"):
        plan("train.proposals=17")
    assert plan("train.proposals=16").train == (Origin(cached=("iou", "abs_sum")),)


def test_auto_computes_a_missing_target_online_and_says_why():
    made = plan(train={"iou": "", "abs_sum": "3 of 32 parts missing"})
    assert made.train == (Origin(cached=("iou",), online=("abs_sum",)),)
    row = next(row for row in made.rows if row.term == "fidelity")
    assert row.train == "online teacher" and "3 of 32 parts missing" in row.why and "weights are at hand" in row.why


@pytest.mark.parametrize(("overrides", "weights"), [(["train.teacher=cached"], WEIGHTS), ([], None)])
def test_a_missing_target_names_the_command_that_adds_it(overrides, weights):
    wanted = "expected its targets abs_sum in the train cache, found abs_sum: not in the cache; run `make cache DATASET=got10k SETTING="
    with pytest.raises(RequestError, match=wanted) as caught:
        plan(*overrides, train={"iou": "", "abs_sum": ABSENT}, weights=weights)
    assert ("teacher.weights=FILE" in str(caught.value)) == (weights is None)


def test_a_target_that_only_the_val_cache_lacks_is_refused_too():
    with pytest.raises(RequestError, match="in the val cache, found iou: not in the cache"):
        plan(val={"abs_sum": ""}, weights=None)


@pytest.mark.parametrize("override", ["train.augment=fresh", "train.mix=0.2", "train.teacher=online"])
def test_online_without_weights_is_refused(override):
    with pytest.raises(RequestError, match="expected the teacher's weights to compute iou, abs_sum online, found none at hand"):
        plan(override, weights=None)


def test_cached_with_plain_crops_is_refused():
    with pytest.raises(RequestError, match=r"train\.teacher=cached: expected targets of the recorded images"):
        plan("train.augment=none", "train.teacher=cached")


def test_phases_are_planned_each_for_itself():
    needs = ({"fidelity": ("abs_sum",), "correlation_filter": ()}, {"teacher_soft": ("iou",), "adaptive_hard": ("iou",)})
    made = plan(setting="sep", needs=needs)
    assert made.train == (Origin(cached=("abs_sum",)), Origin(cached=("iou",)))
    assert [row.phase for row in made.rows] == [0, 0, 1, 1]


def test_the_table_has_one_line_a_term():
    lines = plan().table().split("\n")
    assert len(lines) == 5 and lines[0].startswith("phase  loss")
    assert lines[3].split()[:6] == ["1", "fidelity", "100", "abs_sum", "cache", "cache"]
    assert "needs no teacher" in lines[4]


def test_the_command_carries_every_difference_from_the_settings_file():
    config = configs.load(
        "atom_cfkd",
        [
            "dataset=a b",
            "pairs.count=64",
            "pairs.ref.size=96",
            "pairs.test.size=112",
            "losses.fidelity.layers=[layer1, layer2]",
            "teacher.name=other",
            "teacher.feature_bits=5",
            "cache_dir=/x y",
        ],
    )
    words = shlex.split(cache_command(config, "train"))
    assert all(not word.startswith("ARGS=") or "[layer1,layer2]" in word for word in words)
    assert words[:5] == ["make", "cache", "DATASET=a b", "SETTING=atom_cfkd", "PAIRS=64"]
    assert "CACHE_DIR=/x y" in words
    arguments = next(word for word in words if word.startswith("ARGS=")).removeprefix("ARGS=")
    again = configs.load("atom_cfkd", ["pairs.count=64", *shlex.split(arguments)])
    assert again.pairs == config.pairs and again.losses == config.losses and again.teacher == config.teacher


def test_a_command_for_another_validation_set_narrows_the_split():
    words = cache_command(configs.load("atom_cfkd", ["dataset=got10k", "val_dataset=lasot"]), "val").split()
    assert "DATASET=lasot" in words and "SPLIT=val" in words
