"""Encoded crops -> network input: the one definition that the teacher (precompute) and the student (train) share."""

from __future__ import annotations

from models.preprocess.decoder import MEAN, STD, BrokenCrop, CropBatch, Decoder, decoder_name, make_decoder

__all__ = ["MEAN", "STD", "VERSION", "BrokenCrop", "CropBatch", "Decoder", "decoder_name", "make_decoder"]

# Raised whenever the same crop becomes another input of the networks: part of every teacher's identity in a cache.
VERSION = 1
