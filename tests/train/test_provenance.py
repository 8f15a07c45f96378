"""What a student's weights file says of its origin: the whole of it, by hand."""

from __future__ import annotations

import models.__main__
from cache import Cache
from train.inputs import open_inputs
from train.provenance import provenance
from train.reports import run_folder
from train.run import run


def test_weights_say_where_they_come_from_and_show_prints_it(world, tmp_path, capsys):
    config = world.config("train.epochs=1", "losses.adaptive_hard=0.25", setting="ts_ah", runs=tmp_path)
    folder = run(config)
    _, metadata = models.read_state(folder / run_folder.STUDENT)
    after = run_folder.read_run(folder).after
    caches = {split: Cache.open(world.folder / "caches" / split).fingerprint for split in ("train", "val")}
    assert metadata == {
        "file": "safetensors",
        "format": "pt",
        "architecture": "atom_resnet18tiny",
        "setting": "ts_ah",
        "seed": "0",
        "steps": str(run_folder.budget(config)[0]),
        "batch": str(config.train.batch),
        "losses": '[{"teacher_soft": 1.0, "adaptive_hard": 0.25}]',
        **{f"cache_{split}": f"tiny:{fingerprint}" for split, fingerprint in caches.items()},
        "teacher": world.teacher().name,
        "teacher_sha256": world.teacher().digest,
        **{name: f"{value:.6g}" for name, value in after.items() if isinstance(value, float) and not name.startswith("teacher_")},
    }
    assert {"loss", "iou_error", "correlation"} <= metadata.keys()
    models.__main__.main(["show", str(folder / run_folder.STUDENT)])
    assert f"\nteacher_sha256: {world.teacher().digest}\n" in capsys.readouterr().out


def test_each_of_two_students_states_its_own_numbers_and_none_a_teacher_it_had_not(world, tmp_path):
    config = world.config(setting="gt", runs=tmp_path)
    inputs = open_inputs(config)
    after = {"epoch": 3, "loss": 1.5, "iou_error": 0.1, "second_iou_error": 0.2, "teacher_iou_error": 0.3, "terms": {"ground_truth": 1.5}}
    first, second = (provenance(config, inputs, after, prefix) for prefix in ("", "second_"))
    assert (first["iou_error"], second["iou_error"]) == ("0.1", "0.2")
    assert "starts_from" not in first
    assert not [name for name in first | second if name.startswith("teacher") or "second" in name]


def test_the_weights_that_training_began_with_are_named(world, tmp_path):
    for weights, wanted in ((str(world.weights), f"sha256:{world.teacher().digest}"), ("imagenet", "imagenet")):
        config = world.config(f"student.weights={weights}", setting="gt", runs=tmp_path)
        assert provenance(config, open_inputs(config), {})["starts_from"] == wanted
