"""Whole runs on a tiny cache: phases and freezing do what they say, wrong sources are refused, a diverged loss stops the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import models
import train.run
from cache import Cache
from configs import PairsConfig, RequestError, RunError
from kdlosses import LiveTeacher, build_objectives
from pairs.boxes import box_iou
from tests.compare import moved, state_of
from train import checkpoint
from train.caches import open_caches, resolve_dataset
from train.check import check_cache, decoder_note, recorded, relative_error, some_rows
from train.inputs import find_teacher, open_inputs
from train.log import read_metrics
from train.loop import Meter, PhaseLoop
from train.plan import Origin
from train.run import prepare, processes, run
from train.students import build_students, parameter_groups

QUICK = ("train.epochs=1", "train.val_batches=1", "train.log_every=1", "train.check_pairs=0", "train.pictures=0")
TRAINED = ("losses.projected_fidelity.projection=trained", "losses.projected_fidelity.weight=1")


def terms(folder: Path, kind: str = "train") -> list[dict[str, float]]:
    return [record["terms"] for record in read_metrics(folder) if record["kind"] == kind]


def test_the_share_of_online_batches_is_logged(world, tmp_path):
    folder = run(world.config(*QUICK, "train.mix=0.5", "train.batches=12", runs=tmp_path))
    online = [record["online_share"] for record in read_metrics(folder) if record["kind"] == "train"]
    cached = [record["cached_share"] for record in read_metrics(folder) if record["kind"] == "train"]
    assert set(online) == {0.0, 1.0} and all(a + b == 1 for a, b in zip(online, cached, strict=True))


def test_phases_freeze_their_parts_bit_for_bit_and_start_the_schedule_anew(world, tmp_path, monkeypatch):
    phases = "phases=[{epochs: 2, freeze: [head], losses: {fidelity: 100}}, {epochs: 1, freeze: [backbone], losses: {teacher_soft: 1}}]"
    kept: list[dict[str, torch.Tensor]] = []
    save = checkpoint.save

    def keep(folder, position, students, *rest):
        kept.append(state_of(students))
        save(folder, position, students, *rest)

    monkeypatch.setattr(checkpoint, "save", keep)
    config = world.config(*QUICK, phases, "train.lr_step=1", setting="sep", runs=tmp_path)
    folder = run(config)
    start = state_of(build_students(config)[0])
    assert len(kept) == 3
    assert moved(start, kept[1]) == {"backbone"} and moved(kept[1], kept[2]) == {"head"}
    exported = load_file(folder / "student.safetensors")
    assert all(torch.equal(value, kept[2][f"trackers.0.{name}"]) for name, value in exported.items())
    rates = {record["epoch"]: record["lr"] for record in read_metrics(folder) if record["kind"] == "train"}
    assert rates == {1: {"backbone": pytest.approx(1e-3)}, 2: {"backbone": pytest.approx(1e-4)}, 3: {"head": pytest.approx(1e-3)}}


def test_only_what_is_trained_is_given_to_adam(world):
    config = world.config("train.backbone_lr=0.0005")
    students, _ = build_students(config)
    students.freeze(())
    groups = parameter_groups(students, build_objectives(config, "atom_resnet18tiny")[0], config)
    assert [(group["name"], group["lr"]) for group in groups] == [("backbone", 5e-4), ("head", 1e-3)]
    given = {id(parameter) for group in groups for parameter in group["params"]}
    names = {name for name, parameter in students.named_parameters() if id(parameter) in given}
    assert any(".layer3." in name for name in names) and not any(".layer4." in name or ".fc." in name for name in names)


def test_nothing_left_to_train_is_refused(world, tmp_path):
    with pytest.raises(RequestError, match="found backbone and head frozen"):
        run(world.config("train.freeze=[backbone, head]", runs=tmp_path))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_term(world, tmp_path):
    with pytest.raises(RunError, match=r"step [234]: expected finite losses, found ground_truth = (nan|inf)"):
        run(world.config("train.lr=1e30", "train.log_every=4", setting="gt", runs=tmp_path))
    assert not list(tmp_path.rglob(checkpoint.FILE)), "a checkpoint of a diverged student would be gone on from"


def test_a_student_that_the_last_step_spoils_fails_at_the_validation(world, tmp_path):
    quick = ("train.epochs=1", "train.batches=1", "train.lr=1e30", "train.pictures=0")
    with pytest.raises(RunError, match=r"validation after epoch 1: expected finite numbers, found ground_truth = (nan|inf), iou_error = "):
        run(world.config(*quick, setting="gt", runs=tmp_path))
    assert not list(tmp_path.rglob(checkpoint.FILE)) and not list(tmp_path.rglob("result.json"))


def test_one_pair_a_process_is_refused_before_anything_is_written(world, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(RequestError, match=r"train\.batch: expected 2 pairs for each of 4 processes .*, found 4; raise it"):
        run(world.config(runs=tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_meter_names_the_first_bad_step():
    meter = Meter(0.0)
    for value in (1.0, 2.0, float("nan"), float("inf")):
        meter.add({"a": torch.tensor(1.0), "b": torch.tensor(value)}, Origin())
    with pytest.raises(RunError, match="step 9: expected finite losses, found b = nan;"):
        meter.means(10)
    meter.rows = meter.rows[:2]
    assert meter.means(2) == {"a": 1.0, "b": 1.5}


@pytest.mark.parametrize(("ours", "began", "taken"), [(True, 3, 3), (True, 0, None), (True, 64, None), (False, 3, None)])
def test_a_run_goes_on_with_the_threads_it_began_with(monkeypatch, ours, began, taken):
    asked: list[int] = []
    monkeypatch.setattr(train.run, "threads_are_ours", lambda: ours)
    monkeypatch.setattr(train.run, "cores", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    position = checkpoint.Position(threads=began)
    train.run._keep_threads(position)
    assert asked == ([taken] if taken else []) and position.threads == torch.get_num_threads()


def test_bfloat16_and_channels_last_stay_near_float32(world, tmp_path):
    plain = terms(run(world.config(*QUICK, "train.batches=1", runs=tmp_path / "a")))
    fast = terms(run(world.config(*QUICK, "train.batches=1", "train.precision=bfloat16", "train.channels_last=true", runs=tmp_path / "b")))
    assert fast != plain and fast[0]["fidelity"] == pytest.approx(plain[0]["fidelity"], rel=0.05)
    assert fast[0]["teacher_soft"] == pytest.approx(plain[0]["teacher_soft"], rel=0.1)


def test_students_start_from_a_file_or_a_part_of_one(world, tmp_path):
    state = load_file(world.weights)
    backbone = {name: value for name, value in state.items() if name.startswith("feature_extractor.")}
    models.save_weights(backbone, tmp_path / "backbone.safetensors")
    whole, notes = build_students(world.config(f"student.weights={world.weights}"))
    assert (
        all(torch.equal(value, state[name]) for name, value in whole.trackers[0].state_dict().items()) and "backbone and head" in notes[0]
    )
    part, notes = build_students(world.config(f"student.weights={tmp_path / 'backbone.safetensors'}"))
    assert torch.equal(part.trackers[0].state_dict()["feature_extractor.conv1.weight"], state["feature_extractor.conv1.weight"])
    assert not torch.equal(part.trackers[0].state_dict()["bb_regressor.iou_predictor.weight"], state["bb_regressor.iou_predictor.weight"])
    with pytest.raises(RequestError, match="expected a backbone of published width, found atom_resnet18tiny"):
        build_students(world.config("student.weights=imagenet"))


def test_the_validation_line_is_what_a_plain_evaluation_gives(world, tmp_path):
    config = world.config(*QUICK, "train.batches=1", "train.val_batches=6", setting="gt", runs=tmp_path)
    first = next(record for record in read_metrics(run(config)) if record["kind"] == "val")
    students, _ = build_students(config)
    (cache,) = open_caches(config, "val")
    predicted, truth = plain_predictions(students.trackers[0].eval(), cache, config.pairs)
    assert first["iou_error"] == pytest.approx(float((predicted - truth).abs().mean()), rel=1e-5)
    assert first["correlation"] == pytest.approx(float(torch.corrcoef(torch.stack([predicted, truth]))[0, 1]), rel=1e-4)
    assert first["terms"]["ground_truth"] == pytest.approx(float(torch.nn.functional.smooth_l1_loss(predicted * 2, truth * 2)), rel=1e-5)


@torch.no_grad()
def plain_predictions(tracker: torch.nn.Module, cache: Cache, pairs: PairsConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicted and true IoU of every proposal of a cache, one pair after the other."""
    predicted, truth = [], []
    for row in range(cache.count):
        (ref, test), boxes = recorded(cache, [row], pairs, "torch", torch.device("cpu"))
        predicted.append((tracker(ref, test, boxes.ref_box, boxes.proposals).prediction[0] + 1) / 2)
        truth.append(box_iou(boxes.proposals[0], boxes.test_box[0]))
    return torch.cat(predicted), torch.cat(truth)


def test_the_live_teacher_confirms_its_cache_and_refuses_anothers(world):
    config = world.config("train.check_pairs=5")
    inputs = open_inputs(config)
    assert inputs.teacher is not None and inputs.teacher.weights == world.weights, "the cache's history names the file"
    (objective,) = build_objectives(config, inputs.teacher.architecture)
    needed = {"iou": objective, "abs_sum": objective}
    cpu = torch.device("cpu")
    line = check_cache(inputs.train[0], inputs.teacher, LiveTeacher(inputs.teacher.load(cpu)), needed, config, cpu)
    assert "5 pairs of train recomputed" in line and "tolerance 0.02" in line
    torch.manual_seed(8)
    stranger = LiveTeacher(models.TeacherNetwork(models.build("atom_resnet18tiny")))
    with pytest.raises(RunError, match=r"expected the live teacher's numbers within 0.02 \(relative\), found"):
        check_cache(inputs.train[0], inputs.teacher, stranger, needed, config, cpu)


def test_some_rows_are_spread_and_never_repeat(world):
    (cache,) = open_caches(world.config(), "train")
    assert some_rows(cache, 3) == [0, 31, 63] and some_rows(cache, 1000) == list(range(64))
    assert relative_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0])) == pytest.approx(1 / 18**0.5)


def test_other_weights_under_the_teachers_name_are_refused_with_the_difference(world, tmp_path):
    models.save_weights(models.build("atom_resnet18tiny"), tmp_path / "other.safetensors")
    config = world.config(f"teacher.weights={tmp_path / 'other.safetensors'}")
    with pytest.raises(RequestError, match=r"found another's \(weights_sha256: cached .*, wanted .*teacher.name=NAME"):
        find_teacher(config, *open_caches(config, "train"))
    with pytest.raises(RequestError, match=r"dtype: cached .*float32.*, wanted .*bfloat16"):
        find_teacher(world.config("teacher.dtype=bfloat16"), *open_caches(config, "train"))


def test_a_cached_target_of_another_projection_is_computed_online_or_refused(world, tmp_path):
    config = world.config("losses.projected_fidelity.seed=1", "train.teacher=cached", setting="atom_compression", runs=tmp_path)
    with pytest.raises(RequestError, match="found projected: projection_seed: cached 0, wanted 1; run `make cache"):
        run(config)


@pytest.mark.parametrize(
    ("name", "bits", "difference"),
    [
        ("atom_resnet18tiny", "5", "feature_bits: cached nothing, wanted 5"),
        ("coarse", "5", "feature_bits: cached 3, wanted 5"),
        ("coarse", "null", "feature_bits: cached 3, wanted nothing"),
    ],
)
def test_cached_features_of_other_bits_are_refused_with_the_difference_and_the_command(world, tmp_path, name, bits, difference):
    options = (*TRAINED, f"teacher.name={name}", f"teacher.feature_bits={bits}", "train.teacher=cached")
    with pytest.raises(RequestError, match=f"found features: {difference}; run `make cache") as caught:
        run(world.config(*options, setting="atom_compression", runs=tmp_path))
    command = str(caught.value).split("`")[1]
    assert ("teacher.feature_bits=5" in command) == (bits == "5")
    # with the weights at hand they are computed instead, and the table says why
    *_, plan = prepare(world.config(*options[:-1], setting="atom_compression"))
    assert plan.train[0].online == ("features",) and difference in plan.table()


def test_rounding_changes_nothing_but_whole_features(world, tmp_path):
    """Predictions, and the targets that are made of features, are cached and used whatever the bits are."""
    options = (*QUICK, "train.teacher=cached")
    curves = [terms(run(world.config(*options, *bits, runs=tmp_path / str(len(bits))))) for bits in ((), ("teacher.feature_bits=4",))]
    assert curves[0] == curves[1]


def test_the_live_teacher_rounds_as_the_cache_does(world):
    config = world.config(*TRAINED, "teacher.name=coarse", "teacher.feature_bits=3", setting="atom_compression")
    inputs = open_inputs(config)
    assert inputs.teacher is not None and inputs.teacher.feature_bits == 3
    (objective,), cpu = build_objectives(config, inputs.teacher.architecture), torch.device("cpu")
    teacher = inputs.teacher.load(cpu)
    line = check_cache(inputs.train[0], inputs.teacher, LiveTeacher(teacher, 3), {"features": objective}, config, cpu)
    assert float(line.split("relative error ")[1].split()[0]) < 2e-3
    with pytest.raises(RunError, match=r"features/layer2_ref of teacher coarse: expected the live teacher's numbers within 0.02"):
        check_cache(inputs.train[0], inputs.teacher, LiveTeacher(teacher), {"features": objective}, config, cpu)


def test_a_missing_cache_is_refused_with_the_command_that_makes_it(world, tmp_path):
    with pytest.raises(RequestError, match=r"\(seed: cached 0, wanted 3\); make it with `make cache DATASET=tiny SETTING=atom_cfkd"):
        run(world.config("pairs.seed=3", runs=tmp_path))
    with pytest.raises(RequestError, match=r"expected a cache below it, found none; make it with `make cache DATASET=demo .*CACHE_DIR="):
        run(world.config(f"cache_dir={tmp_path / 'nowhere'}", "dataset=demo", runs=tmp_path))
    # only a name that a cache has need not be one of the catalog's
    with pytest.raises(RequestError, match=r"dataset: expected one of demo, .*, found 'tiny'; add it to configs/datasets.yaml"):
        run(world.config(f"cache_dir={tmp_path / 'nowhere'}", runs=tmp_path))


def test_without_a_data_set_the_only_fitting_cache_names_it(world, tmp_path):
    assert resolve_dataset(world.config("dataset=null")).dataset == "tiny"
    with pytest.raises(
        RequestError, match="expected the cache of one data set, found no cache that fits; make one with `make cache DATASET=NAME"
    ):
        resolve_dataset(world.config("dataset=null", f"cache_dir={tmp_path}"))


def test_several_data_sets_are_mixed_each_from_its_own_cache(world, textured, tmp_path, capsys):
    overrides = (f"cache_dir={tmp_path / 'caches'}", "val_dataset=a")
    for name, split in (("a", "train"), ("b", "train"), ("a", "val")):
        textured(world.config(*overrides, f"dataset={name}"), split, tmp_path / "caches" / f"{name}-{split}")
    config = world.config(*QUICK, *overrides, "dataset=a b", setting="gt", runs=tmp_path)
    seen: list[int] = []
    plain = PhaseLoop.one_step

    def watched(self, batch, meter):
        seen.extend(batch.source.tolist())
        plain(self, batch, meter)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PhaseLoop, "one_step", watched)
        run(config)
    assert len(seen) == 16 and set(seen) == {0, 1}
    assert "a-train, " in capsys.readouterr().out
    with pytest.raises(RequestError, match="found caches of a, b; name one with dataset=NAME"):
        resolve_dataset(world.config(*overrides, "dataset=null"))


@pytest.mark.parametrize(("made_by", "said"), [("opencv", None), ("dali-cpu", "mean pixel difference"), ("dali-gpu", "no dali-gpu here")])
def test_another_decoder_than_the_caches_is_mentioned_with_the_difference(world, monkeypatch, made_by, said):
    if made_by == "dali-cpu":
        pytest.importorskip("nvidia.dali", reason="DALI has no wheel for this platform")
    (cache,) = open_caches(world.config(), "train")
    monkeypatch.setattr(cache, "history", lambda: [{"decoder": ""}, {"decoder": made_by}])
    note = decoder_note(cache, world.config(), torch.device("cpu"))
    assert (note is None) == (said is None)
    assert note is None or (said in note and f"decoded by {made_by}, this run decodes with opencv" in note)


def test_teacher_and_student_must_give_equally_many_numbers(world):
    config = world.config("student.architecture=drnet_mobilenetsmall")
    with pytest.raises(RequestError, match=r"teacher\.architecture: expected 4 number"):
        build_objectives(config, "atom_resnet18tiny")


def test_devices_and_batches_that_cannot_be_are_refused(world, monkeypatch):
    with (
        pytest.raises(RequestError, match=r"train\.device: expected auto, cpu, cuda or cuda:n, found 'tpu9x'"),
        processes(world.config("train.device=tpu9x")),
    ):
        pass
    if not torch.cuda.is_available():
        with pytest.raises(RequestError, match="expected a CUDA device for 'cuda:7'"), processes(world.config("train.device=cuda:7")):
            pass
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(RequestError, match=r"train\.batch: expected a multiple of 3 processes, found 4"), processes(world.config()):
        pass
