"""The demonstration data: the same bytes whatever the jobs, boxes that fit, and no file of anyone else touched."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from configs.catalog import dataset_entry
from configs.errors import RequestError
from configs.schema import PairsConfig
from precompute.datasets import open_entry
from precompute.demo import generate
from precompute.demo.moving import Painter, Pose, draw_look, draw_look_alike
from precompute.demo.scene import Scene
from precompute.demo.texture import FAMILIES, Recipe, draw_palette, draw_recipe, paint
from tests.compare import frames_of

SMALL = generate.Request(train=3, val=1, frames=4, seed=5)


def _digests(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "out"
    assert generate.generate(root, SMALL, jobs=1)
    return root


def test_two_jobs_write_the_same_bytes(made, tmp_path):
    assert generate.generate(tmp_path / "out", SMALL, jobs=2)
    assert _digests(tmp_path / "out") == _digests(made)


def test_a_sequence_depends_on_its_number_only(made, tmp_path):
    generate.generate(tmp_path / "more", SMALL._replace(train=1, val=2))
    ours, more = _digests(made), _digests(tmp_path / "more")
    shared = {name for name in ours if "000001/" in name}
    assert len(shared) == 2 * (4 + 5)
    assert all(ours[name] == more[name] for name in shared)
    frames = [name for name in ours if name.endswith(".jpg")]
    assert len({ours[name] for name in frames}) == len(frames) == 16
    generate.generate(tmp_path / "seed", SMALL._replace(seed=6, train=1))
    other = _digests(tmp_path / "seed")
    assert all(ours[name] != other[name] for name in shared if name.endswith(".jpg"))


def test_the_evaluation_split_is_of_its_own_stream(made, tmp_path, capsys, monkeypatch):
    """No frame of training, in a folder of its own that opens by its name; the counts of the kind are defaults."""
    root = tmp_path / "eval"
    arguments = ["--kind", "eval", "--out", str(root), "--test", "2", "--frames", "4", "--seed", "5", "--jobs", "1"]
    assert generate.main(arguments) == 0
    assert capsys.readouterr().out == f"{root}: 2 sequences of 4 frames, made\n"
    assert sorted(path.name for path in root.iterdir()) == ["demo.json", "test"]
    theirs, ours = _digests(root), _digests(made)
    assert not set(theirs.values()) & {value for name, value in ours.items() if name.endswith((".jpg", "groundtruth.txt"))}
    monkeypatch.setenv("DEMO_EVAL_ROOT", str(root))
    assert open_entry("demo_eval", dataset_entry("demo_eval"), "val").lengths.tolist() == [4, 4]


def test_a_target_of_the_evaluation_set_moves_a_third_as_far_a_frame():
    def step(kind: str) -> float:
        poses = Scene(np.random.default_rng(7), generate.KINDS[kind].frames).target.poses
        return float(np.mean([np.hypot(b.x - a.x, b.y - a.y) for a, b in itertools.pairwise(poses)]))

    assert step("eval") == pytest.approx(step("demo") / 3, rel=0.1)


def test_every_nth_frame_of_a_scene_is_written():
    whole, apart = (Scene(np.random.default_rng(7), count, every) for count, every in ((7, 1), (3, 3)))
    boxes, every_third = ([annotation.box for _, annotation in scene.frames()] for scene in (whole, apart))
    assert every_third == boxes[::3]
    assert len(set(boxes)) == 7


def test_a_marker_of_before_a_field_counts_as_its_default(tmp_path):
    request = SMALL._replace(train=1, val=0, frames=2)
    assert generate.generate(tmp_path / "out", request)
    marker = tmp_path / "out" / "demo.json"
    old = {key: value for key, value in json.loads(marker.read_text()).items() if key not in ("test", "every")}
    marker.write_text(json.dumps(old))
    assert not generate.generate(tmp_path / "out", request)
    assert generate.generate(tmp_path / "out", request._replace(every=2))


def test_it_opens_as_got10k(made):
    for split, count in (("train", 3), ("val", 1)):
        data = open_entry("demo", {"kind": "got10k", "root": str(made), split: {"folder": split}}, split)
        assert data.lengths.tolist() == [4] * count
        assert len(data.usable(PairsConfig(min_frames=4, min_visible=1))) == count
        for sequence in range(count):
            height, width = cv2.imread(str(data.frame_path(sequence, 3))).shape[:2]
            boxes = data.boxes[frames_of(data, sequence)]
            assert (boxes[:, 2:] >= 8).all()
            assert (boxes[:, :2] >= 0).all()
            assert (boxes[:, :2] + boxes[:, 2:] <= (width, height)).all()


def test_complete_data_is_left_alone_and_partial_or_other_data_made_anew(made, tmp_path, capsys):
    root = tmp_path / "out"
    arguments = ["--out", str(root), "--train", "1", "--val", "1", "--frames", "2", "--jobs", "1"]
    assert generate.main(arguments) == 0
    assert capsys.readouterr().out == f"{root}: 1 + 1 sequences of 2 frames, made\n"
    first = _digests(root)
    frame = root / "train" / "GOT-10k_Train_000001" / "00000001.jpg"
    frame.write_bytes(b"kept")
    generate.main(arguments)
    assert "already there" in capsys.readouterr().out
    assert frame.read_bytes() == b"kept"
    marker = json.loads((root / "demo.json").read_text())
    (root / "demo.json").write_text(json.dumps({**marker, "complete": False}))
    generate.main(arguments)
    assert _digests(root) == first
    generate.main([*arguments, "--frames", "3"])
    assert len(list((root / "train" / "GOT-10k_Train_000001").glob("*.jpg"))) == 3


def test_a_failed_run_is_known_as_partial(tmp_path, monkeypatch):
    request = SMALL._replace(train=1, frames=2)
    with monkeypatch.context() as patch:
        patch.setattr(generate, "_write_annotations", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            generate.generate(tmp_path / "out", request)
    assert json.loads((tmp_path / "out" / "demo.json").read_text())["complete"] is False
    assert generate.generate(tmp_path / "out", request)


def test_folders_of_others_are_refused(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.jpg").touch()
    with pytest.raises(RequestError, match="expected an empty folder or one made by demo-data, found other files"):
        generate.generate(tmp_path, SMALL)
    assert (tmp_path / "train" / "mine.jpg").exists()
    (tmp_path / "demo.json").write_text("[]")
    with pytest.raises(RequestError, match="as demo-data wrote it"):
        generate.generate(tmp_path, SMALL)
    with pytest.raises(RequestError, match="--frames: expected a number of at least 2, found 1"):
        generate.main(["--out", str(tmp_path), "--frames", "1"])
    with pytest.raises(RequestError, match="found --train, --val and --test of 0"):
        generate.main(["--out", str(tmp_path), "--train", "0", "--val", "0"])


def test_help_names_the_command_that_was_typed(capsys):
    with pytest.raises(SystemExit):
        generate.main(["--help"], "teachonce precompute demo-data")
    assert capsys.readouterr().out.startswith("usage: teachonce precompute demo-data ")


@pytest.mark.parametrize("seed", range(3))
def test_box_is_tight_and_cover_counts_what_is_hidden(seed):
    scene = Scene(np.random.default_rng(seed), 4)
    for index, (frame, annotation) in enumerate(scene.frames()):
        assert frame.shape == (scene.height, scene.width, 3)
        colour, alpha, left, top = scene.target.painter.render(scene.target.poses[index])
        assert colour.shape[:2] == alpha.shape
        canvas = np.zeros((scene.height + 400, scene.width + 400), bool)
        canvas[200 + top : 200 + top + alpha.shape[0], 200 + left : 200 + left + alpha.shape[1]] = alpha > 0.5
        inside = canvas[200:-200, 200:-200]
        x, y, w, h = annotation.box
        assert not np.delete(inside, np.s_[y : y + h], axis=0).any()
        assert not np.delete(inside, np.s_[x : x + w], axis=1).any()
        assert inside[y].any()
        assert inside[y + h - 1].any()
        assert inside[:, x].any()
        assert inside[:, x + w - 1].any()
    layer = scene.target.painter.render(scene.target.poses[0])
    hidden = np.zeros((scene.height, scene.width), np.float32)
    whole = scene._annotate(layer, hidden).cover
    assert scene._annotate(layer, hidden + 1).cover == 0
    x, y, w, h = scene._annotate(layer, hidden).box
    hidden[:, : x + w // 2] = 1
    half = scene._annotate(layer, hidden)
    assert half.box == (x, y, w, h)
    assert 0 < half.cover < whole


def test_objects_move_with_their_pose_and_look_alikes_differ():
    rng = np.random.default_rng(3)
    look = draw_look(rng, draw_recipe(rng))
    painter, pose = Painter(look), Pose(50, 40, 20, 0.3, 1.1, 0.5)
    _, alpha, left, top = painter.render(pose)
    _, moved, left2, top2 = painter.render(Pose(57, 43, 20, 0.3, 1.1, 0.5))
    assert (left2 - left, top2 - top) == (7, 3)
    np.testing.assert_allclose(moved, alpha, atol=1e-3)
    _, large, _, _ = painter.render(Pose(50, 40, 40, 0.3, 1.1, 0.5))
    assert abs((large > 0.5).sum() / (alpha > 0.5).sum() - 4) < 0.2
    alike = draw_look_alike(rng, look)
    assert alike.recipe.family == look.recipe.family
    assert np.abs(paint(alike.recipe, 64, 64) - paint(look.recipe, 64, 64)).mean() > 0.02


@pytest.mark.parametrize("family", FAMILIES)
def test_textures_are_seeded_and_varied(family):
    recipe = Recipe(family, draw_palette(np.random.default_rng(0), 3, True), 5.0, 0.4, 0.2, 11)
    image = paint(recipe, 48, 64)
    assert image.shape == (48, 64, 3)
    assert image.min() >= 0
    assert image.max() <= 1
    assert image.std() > 0.05
    np.testing.assert_array_equal(image, paint(recipe, 48, 64))
