"""What the room offers to the others."""

from __future__ import annotations

from configs.section import LAYERS
from models.backbones import BACKBONES
from models.checkpoint import guess_architecture, load_weights, read_state, save_weights, weights_digest
from models.device import pick_device
from models.layout import format_of, same_format
from models.outputs import STRIDES, Outputs
from models.pretrained import load_imagenet_backbone, start_from
from models.prroi import prroi_pool
from models.sizes import flops, network_sizes, parameter_counts, size_facts
from models.teacher import DEMO_TEACHER, TeacherNetwork, TeacherSpec, choose_teacher, demo_teacher
from models.tracker import ARCHITECTURES, PARTS, Tracker, build

__all__ = [
    "ARCHITECTURES",
    "BACKBONES",
    "DEMO_TEACHER",
    "LAYERS",
    "PARTS",
    "STRIDES",
    "Outputs",
    "TeacherNetwork",
    "TeacherSpec",
    "Tracker",
    "build",
    "choose_teacher",
    "demo_teacher",
    "flops",
    "format_of",
    "guess_architecture",
    "load_imagenet_backbone",
    "load_weights",
    "network_sizes",
    "parameter_counts",
    "pick_device",
    "prroi_pool",
    "read_state",
    "same_format",
    "save_weights",
    "size_facts",
    "start_from",
    "weights_digest",
]
