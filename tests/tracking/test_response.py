"""Labels and the upsampled response: against the Fourier transform and the definition; a perfect response is found wherever it lies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from configs.tracking import LocalisationConfig, TrackingConfig
from tracking.classifier import label_sigma
from tracking.localise import localise
from tracking.response import gaussian_labels, hann_window, upsampling

CELLS, STRIDE, SIZE = 9, 16, 144


@pytest.mark.parametrize("kernel", [3, 4])
def test_a_label_is_the_gaussian_at_the_target(kernel: int):
    centers = np.array([[71.5, 40.0], [3.0, 130.0]])
    labels = gaussian_labels(centers, 0.9, CELLS, STRIDE, kernel)
    half = 0.5 * (kernel % 2 == 0)
    for n, row, column in ((0, 2, 4), (0, 3, 5), (1, 8, 0)):
        away = math.dist((column, row), (centers[n] / STRIDE + half).tolist())
        assert labels[n, row, column] == pytest.approx(math.exp(-(away**2) / (2 * 0.9**2)), rel=1e-5)


@pytest.mark.parametrize("cells", [8, 9])
def test_the_upsampled_response_is_the_padded_fourier_transform(cells: int):
    response = torch.rand(cells, cells, generator=torch.Generator().manual_seed(0)).double()
    matrix = upsampling(cells, STRIDE, cells * STRIDE, kernel=3).double()
    spectrum = torch.fft.fftshift(torch.fft.fft2(response))
    padded = torch.zeros(cells * STRIDE, cells * STRIDE, dtype=spectrum.dtype)
    start = cells * STRIDE // 2 - cells // 2
    if cells % 2 == 0:  # the highest frequency counts half at either sign
        spectrum = torch.cat([spectrum, spectrum[:1]]) * torch.tensor([0.5, *[1.0] * (cells - 1), 0.5])[:, None]
        spectrum = torch.cat([spectrum, spectrum[:, :1]], 1) * torch.tensor([0.5, *[1.0] * (cells - 1), 0.5])
    padded[start : start + len(spectrum), start : start + len(spectrum)] = spectrum
    expected = torch.fft.ifft2(torch.fft.ifftshift(padded)).real * STRIDE**2
    torch.testing.assert_close(matrix @ response @ matrix.T, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kernel", [3, 4])
def test_a_perfect_response_is_found_at_every_offset_within_a_cell(kernel: int):
    sigma = label_sigma(TrackingConfig(size=SIZE), 0.25)
    matrix = upsampling(CELLS, STRIDE, SIZE, kernel)
    for x in np.arange(64, 64 + STRIDE):
        center = np.array([x, 150 - x], float)
        label = torch.from_numpy(gaussian_labels(center[None], sigma, CELLS, STRIDE, kernel)[0])
        place = localise((matrix @ label @ matrix.T).numpy(), np.array([28.8, 28.8]), LocalisationConfig())
        np.testing.assert_allclose(place.position, center, atol=1)
        assert place.state == "found" and 0.97 < place.score < 1.03 and not place.hard_negative


def test_a_label_narrower_than_a_cell_is_widened_and_at_the_published_size_none_is():
    assert label_sigma(TrackingConfig(), 0.25) == pytest.approx(0.9)
    assert label_sigma(TrackingConfig(size=144), 0.25) == pytest.approx(0.9)
    wide = TrackingConfig(size=144, classifier={"layer": "layer1"})
    assert label_sigma(wide, 0.25) == pytest.approx(0.25 * 28.8 / 4)


def test_the_window_is_one_in_the_middle():
    window = hann_window(144)
    assert window.max() == pytest.approx(1, abs=1e-3) and 0 < window.min() < 1e-3
    torch.testing.assert_close(window, window.flip(0).T)
