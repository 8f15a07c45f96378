"""`python -m precompute cache` end to end on a small data set: what it stores, how it resumes, what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import cache.__main__
import models
import precompute.__main__
import precompute.run
from cache import Cache
from cache.verify import verify
from configs.cli import run
from configs.errors import RunError
from configs.schema import PairsConfig
from kdlosses import TARGETS, LiveTeacher, Sizes, target_spec
from kdlosses.rounding import round_mantissa
from pairs.batch import Boxes
from pairs.decode import DecoderOptions, make_decoder
from pairs.decode.decoder import Images
from pairs.replay import boxes_of, crops_of
from precompute import cost
from precompute.target_writer import TargetWriter
from tests.compare import digests

FRAMES = 24
PAIRS = PairsConfig.model_validate({"ref": {"size": 64}, "test": {"size": 64}})
ARGS = ["pairs.ref.size=64", "pairs.test.size=64", "teacher.architecture=atom_resnet18tiny", "teacher.batch=8", "train.feed=torch"]


@pytest.fixture(autouse=True)
def in_small_parts_each_time(monkeypatch, tmp_path):
    torch.set_num_threads(1)
    in_small_parts(monkeypatch, tmp_path)


def in_small_parts(monkeypatch, tmp_path):
    monkeypatch.setattr("precompute.request.PART", 32)
    monkeypatch.setattr("precompute.request.CHUNK", 8)
    for name, value in (("TEACHONCE_INDEX", "index"), ("GOT10K_ROOT", "got10k"), ("CACHE_DIR", "caches")):
        monkeypatch.setenv(name, str(tmp_path / value))


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Two sequences in train, one in val, in GOT-10k layout."""
    root, rng = tmp_path / "got10k", np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        names = [f"GOT-10k_{split}_{i}" for i in range(count)]
        for name in names:
            folder = root / split / name
            folder.mkdir(parents=True)
            still = cv2.GaussianBlur(rng.integers(0, 255, (90, 120, 3), np.uint8), (0, 0), 3)
            for frame in range(FRAMES):
                cv2.imwrite(str(folder / f"{frame + 1:08d}.jpg"), np.roll(still, frame, axis=1))
            boxes = [(20 + frame, 30, 30, 24) for frame in range(FRAMES)]
            (folder / "groundtruth.txt").write_text("".join(f"{x:.4f},{y:.4f},{w:.4f},{h:.4f}\n" for x, y, w, h in boxes))
            (folder / "absence.label").write_text("0\n" * FRAMES)
            (folder / "cover.label").write_text("8\n" * FRAMES)
        (root / split / "list.txt").write_text("\n".join(names) + "\n")
    return root


def weights(path: Path, architecture: str = "atom_resnet18tiny", seed: int = 0) -> str:
    torch.manual_seed(seed)
    models.save_weights(models.build(architecture), path)
    return str(path)


@pytest.fixture
def teacher(tmp_path) -> str:
    return weights(tmp_path / "teacher.safetensors")


def fill(*arguments: str, pairs: int = 80) -> int:
    return run(
        precompute.__main__.main,
        ["cache", "--dataset", "got10k", "--split", "train", "--pairs", str(pairs), "--device", "cpu", *arguments, *ARGS],
    )


def caches(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "caches").iterdir() if not path.name.startswith("."))


def test_the_cached_targets_are_the_teachers_answers_on_the_stored_crops(dataset, teacher, tmp_path, capsys):
    assert fill("--teacher", teacher) == 0
    (path,) = caches(tmp_path)
    assert f"cache: {path}" in capsys.readouterr().out.splitlines()[-1]
    made = Cache.open(path)
    assert made.count == 80 and made.parts == 3
    network = models.build("atom_resnet18tiny")
    models.load_weights(network, teacher)
    network.eval()
    iou = made.target("atom_resnet18tiny", "iou").read(0, 80)["iou"]
    abs_sum = made.target("atom_resnet18tiny", "abs_sum").read(0, 80)
    for pair in (0, 7, 31, 32, 79):  # first and last of a batch, of a part, of the short last part
        (ref, test), boxes = seen(made, pair, pair + 1)
        with torch.no_grad():
            outputs = network(ref, test, boxes.ref_box, boxes.proposals, ("layer2", "layer3"))
        np.testing.assert_allclose(iou[pair], outputs.prediction[0].numpy(), rtol=2e-3, atol=1e-3)
        for layer in ("layer2", "layer3"):
            for name, maps in (("ref", outputs.ref), ("test", outputs.test)):
                expected = maps[layer][0].abs().sum(0).numpy()
                np.testing.assert_allclose(abs_sum[f"{layer}_{name}"][pair], expected, rtol=2e-3, atol=1e-3)


def seen(made: Cache, start: int, stop: int) -> tuple[Images, Boxes]:
    """Some pairs of a cache as the networks see them, by the plain decoder."""
    rows, device = made.pairs.read(start, stop), torch.device("cpu")
    decoder = make_decoder("torch", DecoderOptions(stop - start, (64, 64), device))
    images, _ = decoder.start(iter([(crops_of(rows, *made.read_crops(start, stop)), None)])).batch()
    decoder.close()
    return images, boxes_of(rows, PAIRS, device)


def test_a_killed_run_resumed_by_shares_gives_the_same_bytes(dataset, teacher, tmp_path, monkeypatch, capsys):
    assert fill("--teacher", teacher) == 0
    (path,) = caches(tmp_path)
    whole = digests(path)
    shutil.rmtree(path)
    monkeypatch.setattr(TargetWriter, "_publish", killed_after_one(TargetWriter._publish))
    assert fill("--teacher", teacher) == 1
    monkeypatch.undo()
    in_small_parts(monkeypatch, tmp_path)
    assert digests(path) != whole
    assert fill("--teacher", teacher, "--share", "1/2") == 0
    assert Cache.open(path).target("atom_resnet18tiny", "iou").missing() == [2]
    assert fill("--teacher", teacher, "--share", "0/2") == 0
    assert digests(path) == whole


def test_adding_a_target_and_a_teacher_leaves_every_old_byte(dataset, teacher, tmp_path):
    assert fill("--targets", "none") == 0
    (path,) = caches(tmp_path)
    before = digests(path)
    assert fill("--teacher", teacher) == 0
    middle = digests(path)
    assert fill("--teacher", teacher, "--targets", "iou response projected") == 0
    other = weights(tmp_path / "other.safetensors", seed=1)
    assert fill("--teacher", other, "teacher.name=second") == 0
    after = digests(path)
    assert {name: after[name] for name in before} == before
    assert {name: after[name] for name in middle} == middle
    assert set(Cache.open(path).targets()) == {
        ("atom_resnet18tiny", "iou"),
        ("atom_resnet18tiny", "abs_sum"),
        ("atom_resnet18tiny", "response"),
        ("atom_resnet18tiny", "projected"),
        ("second", "iou"),
        ("second", "abs_sum"),
    }
    assert "layer2" in Cache.open(path).target("atom_resnet18tiny", "projected").constants


def test_targets_all_adds_every_target_and_leaves_every_old_byte(dataset, teacher, tmp_path, capsys):
    assert fill("--teacher", teacher, pairs=40) == 0
    (path,) = caches(tmp_path)
    before = digests(path)
    assert fill("--teacher", teacher, "--targets", "all", "student.architecture=atom_mobilenetsmall", pairs=40) == 0
    after = digests(path)
    assert {name: after[name] for name in before} == before
    made = Cache.open(path)
    assert set(made.targets()) == {("atom_resnet18tiny", name) for name in TARGETS}
    channels, (student, _) = models.network_sizes("atom_resnet18tiny")[0], models.network_sizes("atom_mobilenetsmall")
    specs = {name: target_spec(name, Sizes(channels, 1, PAIRS, student)) for name in TARGETS}
    for (_, name), unit in made.targets().items():
        assert unit.complete
        shapes = {array.name: (array.shape, array.dtype) for array in specs[name].arrays}
        assert {key: (array.shape, array.dtype) for key, array in unit.arrays.items()} == shapes
        assert unit.about == specs[name].about and unit.identity == specs[name].identity
    assert run(cache.__main__.main, ["info", str(path)]) == 0
    text = capsys.readouterr().out
    for name, spec in specs.items():
        assert f"  doc: {spec.about['doc']}\n  needed by: {', '.join(spec.about['needed_by'])}\n  target: {name}\n" in text
        assert f"{spec.pair_bytes:,} a pair before compression" in text
    assert run(cache.__main__.main, ["verify", str(path), "--deep"]) == 0


def test_targets_all_of_a_box_teacher_have_four_numbers_a_proposal(dataset, tmp_path):
    torch.manual_seed(0)
    drnet = models.build("drnet_mobilenetsmall")
    models.save_weights(drnet, tmp_path / "drnet.safetensors")
    networks = ["teacher.architecture=drnet_mobilenetsmall", "student.architecture=drnet_mobilenetsmall"]
    arguments = ["--dataset", "got10k", "--split", "train", "--pairs", "9", "--device", "cpu", "--setting", "drnet_cfkd"]
    arguments += ["--teacher", str(tmp_path / "drnet.safetensors"), "--targets", "all", *ARGS, *networks]
    assert run(precompute.__main__.main, ["cache", *arguments]) == 0
    made = Cache.open(caches(tmp_path)[0])
    units = {name: unit for (teacher, name), unit in made.targets().items() if teacher == "drnet_mobilenetsmall"}
    assert set(units) == set(TARGETS) and all(unit.complete for unit in units.values())
    assert units["iou"].read(0, 9)["iou"].shape == (9, 16, 4)
    assert units["features"].read(0, 9)["layer3_test"].shape == (9, drnet.channels["layer3"], 4, 4)
    assert verify(made, deep=True) == []


def test_whole_features_of_few_bits_are_the_plain_ones_rounded_and_their_error_is_measured(dataset, teacher, tmp_path, capsys):
    names = ("--teacher", teacher, "--targets", "features abs_sum")
    assert fill(*names) == 0
    (path,) = caches(tmp_path)
    plain = Cache.open(path).target("atom_resnet18tiny", "features")
    assert "feature_bits" not in plain.identity and "rounding_errors" not in Cache.open(path).history()[-1]
    capsys.readouterr()
    assert fill(*names, "teacher.name=coarse", "teacher.feature_bits=4") == 0
    said = capsys.readouterr().out
    made = Cache.open(path)
    unit = made.target("coarse", "features")
    assert unit.identity == plain.identity | {"feature_bits": 4}
    assert made.target("coarse", "abs_sum").identity == made.target("atom_resnet18tiny", "abs_sum").identity
    assert f"features <= {plain.spec.pair_bytes:,} + abs_sum" in said and "still to write <= " in said
    exact, rounded = plain.read(0, 80), unit.read(0, 80)
    errors = made.history()[-1]["rounding_errors"]
    for layer in ("layer2_ref", "layer2_test", "layer3_ref", "layer3_test"):
        assert np.array_equal(rounded[layer], round_mantissa(torch.from_numpy(exact[layer]), 4).numpy())
        wanted = relative(rounded[layer], exact[layer])
        assert 0.005 < wanted < 2**-5
        # the plain ones are float16 too, the measured error is that from the teacher's float32
        assert errors[f"features/{layer}"] == pytest.approx(wanted, rel=1e-3)
        assert f"{errors[f'features/{layer}']:.2g} (features/{layer})" in said
    assert "features rounded to 4 mantissa bits: relative error" in said and "over 80 pairs" in said
    assert sum(unit.nbytes().values()) < 0.8 * sum(plain.nbytes().values())
    assert made.history()[-1]["feature_bits"] == 4


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_features_of_other_bits_are_refused_with_the_difference(dataset, teacher, tmp_path, capsys):
    names = ("--teacher", teacher, "--targets", "features")
    assert fill(*names, "teacher.feature_bits=10", pairs=9) == 0
    (path,) = caches(tmp_path)
    before = digests(path)
    for bits, difference in (("5", "cached 10, wanted 5"), ("null", "cached 10, wanted nothing")):
        capsys.readouterr()
        assert fill(*names, f"teacher.feature_bits={bits}", pairs=9) == 2
        error = capsys.readouterr().err
        assert f"(feature_bits: {difference})" in error and error.count("\n") == 1
        assert "--target atom_resnet18tiny/features" in error
    assert digests(path) == before
    assert fill(*names, "teacher.feature_bits=1", pairs=9) == 2
    assert "teacher.feature_bits: expected greater than or equal to 2, found 1" in capsys.readouterr().err


def test_a_killed_run_of_compressed_features_resumes_to_the_same_bytes(dataset, teacher, tmp_path, monkeypatch):
    names = ("--teacher", teacher, "--targets", "features", "teacher.feature_bits=5")
    assert fill(*names) == 0
    (path,) = caches(tmp_path)
    whole = digests(path)
    shutil.rmtree(path)
    with monkeypatch.context() as later:
        later.setattr(TargetWriter, "_publish", killed_after_one(TargetWriter._publish))
        assert fill(*names) == 1
    assert digests(path) != whole
    assert fill(*names) == 0
    assert digests(path) == whole


def killed_after_one(publish):
    """A `TargetWriter._publish` that fails at its second part."""
    published: list[int] = []

    def killed(self, part):
        if published:
            raise RunError("killed")
        published.append(part)
        publish(self, part)

    return killed


def test_an_unreadable_frame_is_counted_and_another_pair_drawn_in_its_place(dataset, teacher, tmp_path, capsys):
    broken = dataset / "train" / "GOT-10k_train_0" / "00000005.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    assert fill("--teacher", teacher) == 0
    (path,) = caches(tmp_path)
    captured = capsys.readouterr()
    assert "drawn anew because a frame could not be used" in captured.err and "00000005.jpg" in captured.err
    rows = Cache.open(path).pairs.read(0, 80)
    assert (rows["attempt"] > 0).any()
    assert not ((rows["sequence"][:, None] == 0) & (rows["frame"] == 4)).any()
    first = digests(path)
    shutil.rmtree(path)
    assert fill("--teacher", teacher) == 0
    assert digests(path) == first


def test_a_data_set_without_frames_fails_in_one_line(dataset, teacher, capsys):
    for frame in dataset.rglob("*.jpg"):
        frame.write_bytes(b"")
    assert fill("--teacher", teacher) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "expected usable frames" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "missing.pth"], "teacher: expected a weights file, found none at missing.pth; correct TEACHER="),
        (["--targets", "iuo"], "found 'iuo' (nearest: 'iou')"),
        (["--share", "2/2"], "expected I/N with 0 <= I < N"),
        (["--share", "\u2460/2"], "expected I/N with 0 <= I < N"),
        (["pairs.test.sise=64"], "nearest: 'size'"),
        (["pairs.crop_size=64"], "expected pairs.ref.size and pairs.test.size, found pairs.crop_size"),
        (["pairs.min_frames=100"], "expected a sequence of at least 100 frames"),
        (["--device", "cuda:9x"], "expected auto, cpu, cuda"),
    ],
)
def test_a_wrong_request_is_one_line_and_code_2(dataset, teacher, arguments, message, capsys):
    given = [] if "--teacher" in arguments else ["--teacher", teacher]
    assert fill(*given, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_weights_of_another_network_are_refused_before_the_work(dataset, tmp_path, capsys):
    assert fill("--teacher", weights(tmp_path / "small.safetensors", "atom_resnet18small")) == 2
    assert "atom_resnet18tiny" in capsys.readouterr().err and not (tmp_path / "caches").exists()


def test_changed_weights_under_one_name_are_refused_with_the_difference(dataset, teacher, tmp_path, capsys):
    assert fill("--teacher", teacher) == 0
    assert fill("--teacher", weights(tmp_path / "teacher.safetensors", seed=1)) == 2
    assert "weights_sha256: cached" in capsys.readouterr().err


def test_a_disk_that_cannot_hold_it_is_refused_before_anything_is_created(dataset, teacher, tmp_path, monkeypatch, capsys):
    assert fill("--teacher", teacher, pairs=10**9) == 2
    assert "expected room for" in capsys.readouterr().err
    monkeypatch.setattr(cost, "free_bytes", lambda _: 1000)
    assert fill("--teacher", teacher) == 2
    assert "found 1.0 kB free" in capsys.readouterr().err
    assert not (tmp_path / "caches").exists()


def two(tmp_path: Path, *arguments: str) -> int:
    """`cache` of the data sets got10k and other, which is the val split alone, for both splits."""
    (tmp_path / "own.yaml").write_text(f"other: {{kind: got10k, root: {tmp_path}/got10k, train: {{folder: val}}, val: {{}}}}\n")
    given = ["cache", "--dataset", "got10k other", "--pairs", "9", "--val-pairs", "9", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATASETS", str(tmp_path / "own.yaml"))
        return run(precompute.__main__.main, [*given, *arguments, *ARGS])


FAULTS = {
    "a split that is missing": lambda root: shutil.rmtree(root / "val"),
    "a split that no pair can be drawn from": lambda root: (root / "val" / "GOT-10k_val_0" / "absence.label").write_text("1\n" * FRAMES),
    "frames that are none": lambda root: [frame.write_bytes(b"") for frame in (root / "val").rglob("*.jpg")],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_data_set_and_split_is_checked_before_the_first_cache(dataset, teacher, tmp_path, fault, capsys):
    FAULTS[fault](dataset)
    assert two(tmp_path, "--teacher", teacher) == (1 if fault == "frames that are none" else 2)
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "dataset got10k" in said.err
    assert not (tmp_path / "caches").exists() and "cache: " not in said.out


def test_a_target_of_another_teacher_in_a_later_cache_is_found_before_the_first_is_touched(dataset, teacher, tmp_path, capsys):
    other = weights(tmp_path / "other.safetensors", seed=1)
    assert fill("--split", "val", "--val-pairs", "9", "--teacher", other) == 0
    before = digests(tmp_path / "caches")
    assert two(tmp_path, "--teacher", teacher) == 2
    assert "weights_sha256: cached" in capsys.readouterr().err and digests(tmp_path / "caches") == before


def test_what_was_filled_is_printed_where_a_later_one_fails(dataset, tmp_path, monkeypatch, capsys):
    left = iter([precompute.run.fill] * 2)  # at the third it ends
    monkeypatch.setattr(precompute.run, "fill", lambda *arguments: next(left)(*arguments))
    with pytest.raises(StopIteration):
        two(tmp_path)
    said = capsys.readouterr()
    names = [line.split("caches/")[1] for line in said.out.splitlines() if line.startswith("cache: ")]
    assert [name.rpartition("-")[0] for name in names] == ["got10k-train", "got10k-val"]
    assert said.err.count("warning: teacher: expected weights") == 1
    # only what training reads is paid for by training
    assert said.out.count("break-even") == 1


def test_targets_are_computed_by_the_one_function_that_the_online_teacher_uses(dataset, teacher, tmp_path):
    assert fill("--teacher", teacher, "--targets", "response") == 0
    made = Cache.open(caches(tmp_path)[0])
    unit = made.target("atom_resnet18tiny", "response")
    network = models.build("atom_resnet18tiny")
    models.load_weights(network, teacher)
    (ref, test), boxes = seen(made, 0, 8)
    expected = LiveTeacher(models.TeacherNetwork(network)).targets(ref, test, boxes, ("response",))
    stored = unit.read(0, 8)
    assert set(stored) == {key.split("/")[1] for key in expected}
    for name, value in stored.items():
        np.testing.assert_allclose(value.astype(np.float32), expected[f"response/{name}"].numpy(), rtol=2e-3, atol=1e-3)
