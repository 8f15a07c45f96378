"""Encoded crops -> network input: the one definition that the teacher (precompute) and the student (train) share."""

from __future__ import annotations

from models.preprocess.decoder import MEAN, STD, CropBatch, Decoder, decoder_name, make_decoder

__all__ = ["MEAN", "STD", "CropBatch", "Decoder", "decoder_name", "make_decoder"]
