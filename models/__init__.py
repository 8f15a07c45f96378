"""Trackers: backbones, heads, Precise RoI pooling, and their weights on disk."""

from __future__ import annotations

from models.checkpoint import guess_architecture, load_weights, read_state, save_weights, weights_digest
from models.outputs import LAYERS, STRIDES, Outputs
from models.pretrained import DEMO_TEACHER, load_imagenet_backbone, start_from
from models.prroi import prroi_pool
from models.sizes import flops, network_sizes, parameter_counts
from models.tracker import ARCHITECTURES, PARTS, Teacher, Tracker, build

__all__ = [
    "ARCHITECTURES",
    "DEMO_TEACHER",
    "LAYERS",
    "PARTS",
    "STRIDES",
    "Outputs",
    "Teacher",
    "Tracker",
    "build",
    "flops",
    "guess_architecture",
    "load_imagenet_backbone",
    "load_weights",
    "network_sizes",
    "parameter_counts",
    "prroi_pool",
    "read_state",
    "save_weights",
    "start_from",
    "weights_digest",
]
