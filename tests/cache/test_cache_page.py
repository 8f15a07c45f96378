"""The page of a cache: what it shows, that it needs nothing but itself, and that a browser draws it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cache import Array, Cache, PairSetSpec, TargetSpec
from cache.__main__ import main
from cache.page import numbers_of, overlap, page
from configs.errors import RequestError
from pairs.boxes import box_iou

N, COUNT, PART = 3, 12, 6
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
TEACHER = {"architecture": "atom"}


def boxes(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Boxes inside 32 pixels."""
    return np.concatenate([random.uniform(2, 12, (*shape, 2)), random.uniform(6, 16, (*shape, 2))], axis=-1).astype(np.float32)


def make(kit, path: Path, numbers: int = 1, parts: int = 2) -> tuple[Cache, np.ndarray, np.ndarray]:
    """A cache, the true IoU (COUNT, N) and the teacher's, which is off by 0.02 for each pair of its number."""
    random = np.random.default_rng(5)
    rows = {"ref_box": boxes(random, COUNT), "test_box": boxes(random, COUNT), "proposals": boxes(random, COUNT, N)}
    rows["sequence"], rows["frame"] = np.arange(COUNT, dtype=np.int32) % 2, np.tile(np.array([3, 9], np.int32), (COUNT, 1))
    arrays = [Array(name, value.shape[1:], value.dtype.name, "pixels") for name, value in rows.items()]
    cache = Cache.create(path, PairSetSpec(kit.IDENTITY, COUNT, arrays, 4000, PART, 3, {"sequences": ["<b>a&b</b>", "second"]}))
    true = box_iou(rows["proposals"].astype(float), rows["test_box"].astype(float)[:, None])
    said = np.clip(true + 0.02 * np.arange(COUNT)[:, None], 0, 1)
    label = 2 * said - 1 if numbers == 1 else np.zeros((COUNT, N, numbers))
    iou = TargetSpec("iou", {"version": 1}, (Array("iou", label.shape[1:], "float32", "label"),))
    shapes = {"layer2_ref": (4, 4), "layer2_test": (6, 6)}
    energy = TargetSpec("abs_sum", {"version": 2}, tuple(Array(name, shape, "float32", "F") for name, shape in shapes.items()))
    units = [cache.add_target("atom", TEACHER, target) for target in (iou, energy)]
    for part in range(parts):
        start, stop = cache.bounds(part)
        cache.pairs.write(part, {name: value[start:stop] for name, value in rows.items()}, kit.images()[start:stop])
        units[0].write(part, {"iou": label[start:stop].astype(np.float32)})
        units[1].write(part, {name: random.uniform(0, 9, (stop - start, *shape)).astype(np.float32) for name, shape in shapes.items()})
    return Cache.open(path), true, said


def shown(text: str) -> list[int]:
    """The pairs of a page, in its order."""
    return [int(number) for number in re.findall(r"<b>pair (\d+)</b>", text)]


def test_iou_here_is_that_of_the_room_above():
    random = np.random.default_rng(1)
    many, one = boxes(random, 50, 8).astype(float), boxes(random, 50).astype(float)
    many[0], one[1, 2:] = 0, 0
    assert overlap(many, one) == pytest.approx(box_iou(many, one[:, None]), abs=1e-12)


def test_the_page_has_pairs_boxes_maps_and_numbers_and_nothing_from_elsewhere(kit, tmp_path):
    cache, true, said = make(kit, tmp_path / "cache")
    text = page(cache, [0, 7])
    assert shown(text) == [0, 7]
    # two annotated boxes and N proposals a pair, each with what it is
    assert text.count("annotated box</title>") == 4
    for pair in (0, 7):
        for proposal in range(N):
            assert f"proposal {proposal}: true IoU {abs(true[pair, proposal]):.2f}, teacher {said[pair, proposal]:.2f}" in text
    # a crop and an energy map of both images
    assert text.count("data:image/jpeg;base64,") == 4
    assert text.count('data-layer="layer2"') == 4
    assert "&lt;b&gt;a&amp;b&lt;/b&gt;" in text
    assert "<b>a&b</b>" not in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    assert not re.findall(r"https?://|@import|url\(", text)


def test_the_worst_pairs_are_those_that_the_teacher_gets_most_wrong(kit, tmp_path):
    cache, true, said = make(kit, tmp_path / "cache")
    off = np.abs(said - true).mean(axis=1)
    text = page(cache, None, worst=4)
    assert shown(text) == np.argsort(-off, kind="stable")[:4].tolist()
    assert f"teacher off by {off.max():.3f}" in text
    assert "Pairs in which the teacher is furthest from the truth" in text


def test_numbers_are_those_of_the_finished_parts(kit, tmp_path):
    cache, true, said = make(kit, tmp_path / "cache", parts=1)
    numbers = numbers_of(cache, "atom")
    assert numbers.pairs.tolist() == list(range(PART))
    assert numbers.true == pytest.approx(true[:PART], abs=1e-5)
    assert numbers.teacher == pytest.approx(said[:PART], abs=1e-5)
    with pytest.raises(RequestError, match=r"expected pairs that are finished, found none of \[8\]"):
        page(cache, [1, 8])
    empty, _, _ = make(kit, tmp_path / "empty", parts=0)
    with pytest.raises(RequestError, match="expected a finished part to show, found none"):
        page(empty, [0])


def test_a_teacher_of_four_numbers_and_none_at_all_show_the_truth_alone(kit, tmp_path):
    cache, true, _ = make(kit, tmp_path / "cache", numbers=4)
    text = page(cache, [2])
    assert f"proposal 1: true IoU {abs(true[2, 1]):.2f}</title>" in text
    assert "four numbers a proposal" in text
    with pytest.raises(RequestError, match="expected a teacher's IoUs to find where it is worst, found none"):
        page(cache, None, worst=3)
    with pytest.raises(RequestError, match=r"--teacher: expected one of atom of .*, found 'atm'"):
        page(cache, [2], teacher="atm")


def test_the_command_writes_the_page(kit, tmp_path, capsys):
    make(kit, tmp_path / "cache")
    assert main(["view", str(tmp_path / "cache"), "--html", str(tmp_path / "page.html"), "--worst", "2"]) == 0
    assert f"page: {tmp_path / 'page.html'}" in capsys.readouterr().out
    assert len(shown((tmp_path / "page.html").read_text())) == 2
    for words, found in (
        (("--html", "page.txt"), "--html: expected a .html file"),
        (("--html", "page.html", "--worst", "0"), "--worst: expected 1 to 400 pairs, found 0"),
        (("--worst", "3"), "expected --html FILE"),
    ):
        with pytest.raises(RequestError, match=re.escape(found)):
            main(["view", str(tmp_path / "cache"), *words])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed to open the page in")
def test_a_browser_draws_the_page_without_a_network(kit, tmp_path):
    cache, _, _ = make(kit, tmp_path / "cache")
    (tmp_path / "page.html").write_text(page(cache, [0, 1, 2]))
    words = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    words += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run([*words, f"file://{tmp_path}/page.html#layer2"], capture_output=True, text=True, timeout=60, check=True)
    # the script has run: the layer that the address asks for is chosen, and its maps are seen
    assert len(re.findall(r'class="map"[^>]*opacity: 0.55', done.stdout)) == 6
    assert shown(done.stdout) == [0, 1, 2]
