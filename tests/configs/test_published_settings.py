"""The settings against the published ones: budgets, networks and objectives of the CFKD thesis and its public code, written out."""

from __future__ import annotations

from typing import Any

import pytest

import configs

COMMON: dict[str, Any] = {"batch": 32, "epochs": 50, "batches": 1000, "lr": 1e-2, "backbone_lr": None, "lr_step": 15, "gamma": 0.1}
COMMON |= {"val_batches": 500, "val_every": 5, "freeze": ()}
MOBILENET, RESNET = "atom_mobilenetsmall", "atom_resnet18"
SOFT = {"teacher_soft": (1, "smooth_l1")}
SOFT_HARD = SOFT | {"adaptive_hard": (0.1, "smooth_l1")}
FIDELITY = {"fidelity": (100, "mse")}
FILTER = {"correlation_filter": (0.01, None)}
CFKD = SOFT_HARD | FIDELITY | FILTER
TSKD = {"teacher_soft": (1, "mse"), "adaptive_hard": (0.1, "mse"), "target_response": (100, "mse")}
COMPRESSION = SOFT_HARD | {"projected_fidelity": (0.01, None), "tracking": (100, None)}
# setting -> (student, teacher, term -> (weight, form) where the term has a choice of form, what the budget differs in)
PUBLISHED: dict[str, tuple[str, str | None, dict[str, Any], dict[str, Any]]] = {
    "atom_paper": (RESNET, None, {"ground_truth": (1, "mse")}, {"batch": 64, "lr": 1e-3, "gamma": 0.2, "freeze": ("backbone",)}),
    "gt": (MOBILENET, None, {"ground_truth": (1, "smooth_l1")}, {"batches": 1500}),
    "ts": (MOBILENET, RESNET, SOFT, {"batches": 1500}),
    "ts_ah": (MOBILENET, RESNET, SOFT_HARD, {"batches": 1500}),
    "ts_ah_fid": (MOBILENET, RESNET, SOFT_HARD | FIDELITY, {}),
    "atom_cfkd": (MOBILENET, RESNET, CFKD, {}),
    "resnet18medium": ("atom_resnet18medium", RESNET, CFKD, {}),
    "resnet18small": ("atom_resnet18small", RESNET, CFKD, {}),
    "resnet18tiny": ("atom_resnet18tiny", RESNET, CFKD, {}),
    "atom_tskd": (MOBILENET, RESNET, TSKD, {}),
    "atom_compression": (MOBILENET, RESNET, COMPRESSION, {}),
    "drnet_cfkd": ("drnet_mobilenetsmall", "drnet_resnet50", CFKD, {"batches": 1800, "gamma": 0.2}),
    # no row of the thesis' table: TSKD's terms for either student, and their mutual term
    "atom_tsskd": (MOBILENET, RESNET, TSKD | {"mutual_students": (1, None)}, {}),
}
OURS = {"ts_ah_cls"}
"""Settings that nobody has published."""
# Each with the layers and the numbers that its formula states.
FORMULAS: dict[str, dict[str, Any]] = {
    "adaptive_hard": {"threshold": 0.005},
    "fidelity": {"layers": ("layer2", "layer3")},
    "projected_fidelity": {"layers": ("layer2", "layer3"), "projection": "fixed"},
    "correlation_filter": {"layers": ("conv1", "layer1", "layer2", "layer3"), "normalise": "batch", "sigma": 0.15},
    "target_response": {"layers": ("conv1", "layer1", "layer2", "layer3"), "weights": "correlation"},
    "tracking": {"layers": ("layer1", "layer2", "layer3"), "sigma": 0.25, "regularisation": 1e-5},
    "mutual_students": {"dull": 1.0, "intelligent": 0.5, "decay": 0.9, "threshold": 0.005},
}
SAMPLING = {"mode": "interval", "max_gap": 50, "min_frames": 20, "min_visible": 5}
IMAGES = {"ref": (288, 5.0, 0.0, 0.0), "test": (288, 5.0, 0.5, 4.5)}
SAMPLING |= {"grey_probability": 0.05, "brightness": 0.2, "proposals": 16, "proposal_sigmas": (0.01, 0.05, 0.1, 0.2, 0.3)}
SAMPLING |= {"proposal_min_iou": 0.1}


def objective(losses: configs.schema.Losses) -> dict[str, Any]:
    """Term -> (weight, form or None)."""
    return {name: (term.weight, getattr(term, "form", None)) for name, term in losses.active().items()}


@pytest.mark.parametrize("setting", PUBLISHED)
def test_a_setting_is_the_published_one(setting):
    student, teacher, losses, differs = PUBLISHED[setting]
    config = configs.load(setting)
    assert {name: getattr(config.train, name) for name in COMMON} == COMMON | differs
    assert (config.student.architecture, config.teacher and config.teacher.architecture) == (student, teacher)
    assert objective(config.losses) == losses and not config.phases
    assert config.student.weights == ("imagenet" if setting == "atom_paper" else None)
    assert (config.second_student is not None) == (setting == "atom_tsskd")


def test_sep_is_the_published_one():
    config = configs.load("sep")
    assert {name: getattr(config.train, name) for name in COMMON} == COMMON
    assert config.teacher is not None and (config.student.architecture, config.teacher.architecture) == (MOBILENET, RESNET)
    phases = [(phase.epochs, phase.freeze, objective(phase.losses)) for phase in config.phases]
    assert phases == [(50, ("head",), FIDELITY | FILTER), (50, ("backbone",), SOFT_HARD)]


def test_no_setting_is_left_out_and_all_share_formulas_and_sampling():
    ours = {name for name in configs.settings() if not name.startswith("demo")}
    assert ours == {*PUBLISHED, "sep", *OURS}
    for setting in sorted(ours):
        config = configs.load(setting)
        assert {name: getattr(config.pairs, name) for name in SAMPLING} == SAMPLING, setting
        for name, image in zip(IMAGES, config.pairs.images, strict=True):
            assert (image.size, image.area_factor, image.scale_jitter, image.center_jitter) == IMAGES[name], setting
        for phase in config.phases_or_one():
            for name, term in phase.losses.active().items():
                wanted = FORMULAS.get(name, {})
                assert {key: getattr(term, key) for key in wanted} == wanted, (setting, name)
