"""Measured speed beside its baselines, and how wrong cached targets are for fresh images."""
