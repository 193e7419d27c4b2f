"""Parameterizations against sums written out, against Lucid's constants, and back from a picture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.workers.methods.maximize.recipes_at_hand import recipe
from workers.methods.maximize import spectrum
from workers.methods.maximize.parameterizations import Fourier, Maco, Pixels, mix_colors, to_bytes
from workers.methods.maximize.recipes import generator_of

SIZES = [(8, 8), (7, 9), (6, 9), (9, 6)]


def photograph(size: tuple[int, int]) -> Tensor:
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0.05, 0.95)[0]


def slow_fourier(parameters: Tensor, size: tuple[int, int]) -> Tensor:
    """Lucid's picture, one frequency and one pixel at a time (float64)."""
    height, width = size
    planes = torch.zeros(3, height, width, dtype=torch.float64)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for ky in range(height):
        for kx in range(width // 2 + 1):
            fy = min(ky, height - ky) / height
            scale = 1.0 / max(math.hypot(fy, kx / width), 1.0 / max(size))
            angle = 2 * math.pi * (ky * rows / height + kx * columns / width)
            twice = 1.0 if kx == 0 or 2 * kx == width else 2.0  # k and −k
            for channel in range(3):
                real, imaginary = parameters[channel, ky, kx].tolist()
                planes[channel] += twice * scale * (real * angle.cos() - imaginary * angle.sin())
    planes /= math.sqrt(height * width) * 4.0
    colors = np.array([[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]])
    colors = colors / np.linalg.norm(colors, axis=0).max()
    return torch.sigmoid(torch.einsum("ij,jhw->ihw", torch.from_numpy(colors), planes))


@pytest.mark.parametrize("size", SIZES)
def test_fourier_is_lucids_sum(size: tuple[int, int]) -> None:
    fourier = Fourier(recipe("lucid", size, start_spread=1.0))
    parameters = fourier.start(generator_of(0, 0, -1))
    # Columns that a real transform stores for k and −k are taken with their average, which a start need not have.
    for column in spectrum.self_paired_columns(size[1]):
        mirrored = parameters[:, spectrum.mirror(size[0]), column]
        mirrored = mirrored * torch.tensor([1.0, -1.0])
        parameters[:, :, column] = (parameters[:, :, column] + mirrored) / 2
    ours = fourier.decode(parameters[None])[0]
    torch.testing.assert_close(ours, slow_fourier(parameters, size).float(), rtol=1e-5, atol=1e-5)


def test_fourier_starts_as_nearly_grey_noise_of_lucids_spread() -> None:
    start = Fourier(recipe("lucid", (64, 64))).start(generator_of(0, 0, -1))
    assert start.shape == (3, 64, 33, 2)
    assert float(start.std()) == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize("size", SIZES)
def test_fourier_from_a_picture_gives_the_picture(size: tuple[int, int]) -> None:
    fourier, picture = Fourier(recipe("lucid", size)), photograph(size)
    torch.testing.assert_close(fourier.decode(fourier.of_image(picture)[None])[0], picture, rtol=0, atol=1e-4)


def test_pixels_start_where_the_recipes_say() -> None:
    pixel = Pixels(recipe("pixel", (32, 32)))
    start = pixel.start(generator_of(0, 0, -1))
    assert 128.0 <= float(start.min()) < 129.0
    assert 147.0 < float(start.max()) <= 148.0
    flashtorch = Pixels(recipe("flashtorch", (32, 32)))
    picture = flashtorch.decode(flashtorch.start(generator_of(0, 0, -1))[None]) * 255
    assert 149.9 <= float(picture.min()) < 151.0
    assert 179.0 < float(picture.max()) <= 180.1
    yosinski = Pixels(recipe("yosinski", (64, 64))).start(generator_of(0, 0, -1))
    assert float(yosinski.mean()) == pytest.approx(127.5, abs=0.5)
    assert float(yosinski.std()) == pytest.approx(10.0, rel=0.03)


@pytest.mark.parametrize(("space", "one"), [("byte", 1 / 255), ("unit", 1.0), ("normalized", 0.25)])
def test_pixel_spaces(space: str, one: float) -> None:
    pixels = Pixels(recipe("pixel", (4, 4), pixel_space=space))
    parameters = pixels.of_image(photograph((4, 4)))
    moved = pixels.decode(parameters[None] + 1.0)[0]
    torch.testing.assert_close(moved - photograph((4, 4)), torch.full((3, 4, 4), one), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (16, 6), (9, 12)])
def test_maco_keeps_the_amplitudes_in_every_column(size: tuple[int, int]) -> None:
    maco = Maco(recipe("maco", size))
    parameters = maco.start(generator_of(1, 0, -1))[None] * 5
    found = torch.fft.rfft2(maco.planes(parameters)[0]).abs()
    template = spectrum.amplitudes(*size)
    assert float((found - template).abs().max() / template.max()) <= 1e-4
    torch.testing.assert_close(found[template > 0], template[template > 0], rtol=1e-3, atol=1e-4)


def test_without_odd_phases_the_outer_columns_would_be_wrong() -> None:
    phases = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    amplitudes = spectrum.amplitudes(8, 8)[0]
    found = torch.fft.rfft2(torch.fft.irfft2(torch.polar(amplitudes, phases), s=(8, 8))).abs()
    wrong = (found - amplitudes).abs().amax(0) / amplitudes.amax(0)
    assert float(wrong[1:-1].max()) < 1e-4
    assert min(float(wrong[0]), float(wrong[-1])) > 0.05


@pytest.mark.parametrize("size", [(32, 32), (33, 48)])
def test_macos_planes_have_unit_variance_and_no_mean(size: tuple[int, int]) -> None:
    planes = Maco(recipe("maco", size)).planes(torch.randn(1, 3, size[0], size[1] // 2 + 1))[0]
    torch.testing.assert_close(planes.flatten(1).mean(1), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(planes.flatten(1).std(1, correction=0), torch.ones(3), rtol=1e-3, atol=0)


def test_maco_takes_a_pictures_phases() -> None:
    maco, picture = Maco(recipe("maco", (64, 64))), photograph((64, 64))
    again = maco.decode(maco.of_image(picture)[None])[0]
    ours, theirs = again.flatten() - again.mean(), picture.flatten() - picture.mean()
    assert float(torch.cosine_similarity(ours, theirs, dim=0)) > 0.5


def test_the_spectrum_falls_by_the_fitted_law() -> None:
    law = spectrum.power_law(64, 64)
    for channel, slope in enumerate(spectrum.SLOPES):
        assert float(law[channel, 0, 8] / law[channel, 0, 16]) == pytest.approx(2**slope, rel=1e-5)
    assert law[:, 0, 0].tolist() == [0.0] * 3


def test_a_file_replaces_the_law(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = np.ones((3, 16, 9), np.float32)
    np.save(tmp_path / "flat.npy", flat)
    monkeypatch.setenv(spectrum.SPECTRUM_FILE, str(tmp_path / "flat.npy"))
    found = spectrum.amplitudes(8, 8)
    assert float(found[0, 1, 1]) == pytest.approx(float(found[0, 3, 4]), rel=1e-5)
    assert float(found[0, 0, 0]) == 0.0
    np.save(tmp_path / "bad.npy", flat[0])
    monkeypatch.setenv(spectrum.SPECTRUM_FILE, str(tmp_path / "bad.npy"))
    with pytest.raises(ValueError, match="planes"):
        spectrum.amplitudes(8, 8)


def test_colours_mix_pixel_by_pixel() -> None:
    planes = torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1, 1)
    matrix = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    assert mix_colors(planes, matrix).flatten().tolist() == [1.0, 11.0, 200.0]


def test_bytes_are_rounded_and_clipped() -> None:
    pictures = torch.tensor([-1.0, 0.5, 2.0]).view(1, 3, 1, 1)
    assert to_bytes(pictures).tolist() == [[[[0, 128, 255]]]]
