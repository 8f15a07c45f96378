"""Encoded crops -> network input: the one definition that teacher and student share, whatever library does the work."""

from __future__ import annotations

from pairs.decode.decoder import BrokenCrop, Crops, Decoder, DecoderOptions, decoder_name, make_decoder

__all__ = ["PREPROCESS_VERSION", "BrokenCrop", "Crops", "Decoder", "DecoderOptions", "decoder_name", "make_decoder"]

# Raised whenever the same crop becomes another input of the networks: part of every teacher's identity in a cache.
PREPROCESS_VERSION = 1
