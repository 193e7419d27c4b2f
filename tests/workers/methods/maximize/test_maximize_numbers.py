"""Every number of a recipe acts, and by its formula: whole steps against the chain written out in float64.

The draws (boxes, moves, noise) are the method's own, which the tests beside this one prove against their sources;
everything between them and the new parameters is written here once more and differentiated as one function.
"""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.workers.fakes import FakeNetwork
from tests.workers.methods.ascents import channel, climb, outcome, request, started, step, tiny
from workers.methods.maximize import spectrum
from workers.methods.maximize.ascent import Ascent
from workers.methods.maximize.recipes import Recipe, generator_of
from workers.methods.maximize.transforms import draw_noise, draw_views

ALONG_THE_GRADIENT: dict[str, Any] = {"optimizer": "ascent", "learning_rate": 1.0}
"""A step is the gradient itself, so that a factor or a term of it cannot hide."""
BYTES: dict[str, Any] = {"preset": "pixel", "learning_rate": 2.0**17}
"""Beside pixels of 0–255 a gradient would be lost in float32's last bits."""


def fourier_picture(recipe: Recipe, parameters: Tensor) -> Tensor:
    """Lucid's sum: coefficients over frequency, back to the plane, colours, sigmoid."""
    height, width = recipe.size
    down = np.fft.fftfreq(height)[:, None]
    right = np.fft.rfftfreq(width)[None]
    frequency = torch.tensor(np.maximum(np.hypot(down, right), 1 / max(height, width)))
    assert recipe.decay_power is not None
    planes = torch.fft.irfft2(torch.view_as_complex(parameters) / frequency**recipe.decay_power, s=recipe.size)
    planes = planes * math.sqrt(height * width) / 4  # Lucid multiplies the scale by this; and divides by 4
    if recipe.decorrelate:
        svd = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
        matrix = torch.tensor(svd / np.max(np.linalg.norm(svd, axis=0)))
        planes = torch.einsum("ij,jhw->ihw", matrix, planes)
    return torch.sigmoid(planes)


def maco_picture(recipe: Recipe, parameters: Tensor) -> Tensor:
    """Standardised phases, odd in the columns that a real transform stores twice, with the template's amplitudes."""
    height, width = recipe.size
    phases = (parameters - parameters.mean()) / parameters.std() * math.pi / math.sqrt(3)
    columns = list(phases.unbind(2))
    for column in (0, width // 2) if width % 2 == 0 else (0,):
        mirrored = columns[column][:, [(-row) % height for row in range(height)]]
        columns[column] = (columns[column] - mirrored) / 2
    phases = torch.stack(columns, 2)
    amplitudes = spectrum.amplitudes(height, width).double()
    planes = torch.fft.irfft2(amplitudes * torch.exp(1j * phases), s=recipe.size)
    colors = torch.tensor(spectrum.COLOR_MATRIX, dtype=torch.float64)
    mean = torch.tensor(spectrum.COLOR_MEAN, dtype=torch.float64).view(3, 1, 1)
    return torch.sigmoid(torch.einsum("ij,jhw->ihw", colors, planes) + mean)


def pixel_picture(recipe: Recipe, parameters: Tensor) -> Tensor:
    if recipe.pixel_space == "normalized":
        std, mean = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (recipe.std, recipe.mean))
        return parameters * std + mean
    return parameters / 255 if recipe.pixel_space == "byte" else parameters


PICTURES = {"fourier": fourier_picture, "maco": maco_picture, "pixel": pixel_picture}


def seen_by_the_network(row: Ascent, picture: Tensor) -> Tensor:
    """All views of one step, each pixel by pixel: moved, grey beyond the picture, and noise upon it."""
    recipe = row.recipe
    maps = draw_views(recipe, generator_of(row.seed, row.copy, row.step), row.step)
    noise = draw_noise(recipe, [generator_of(row.seed, row.copy, row.step, view) for view in range(recipe.crops)])
    if maps is None:
        views = picture.expand(recipe.crops, -1, -1, -1)
    else:
        grid = nn.functional.affine_grid(maps.double(), [len(maps), 3, *recipe.input_size], align_corners=False)
        sources = (picture - 0.5).expand(len(maps), -1, -1, -1)
        views = nn.functional.grid_sample(sources, grid, align_corners=False) + 0.5
    return views if noise is None else views + noise.double()


def charged(recipe: Recipe, picture: Tensor) -> Tensor:
    """What the picture pays: differences of neighbours, distance from grey."""
    down = (picture[:, 1:] - picture[:, :-1]) ** 2
    right = (picture[:, :, 1:] - picture[:, :, :-1]) ** 2
    return recipe.tv * (down.mean() + right.mean()) + recipe.l2 * ((picture - 0.5) ** 2).mean()


def objective_of(network: FakeNetwork, index: int) -> Any:
    """Views → the mean of a channel of the second rectification, mean over the views, in float64."""
    module = copy.deepcopy(network.module).double()[:4]

    def mean_of(views: Tensor) -> Tensor:
        return module((views - 0.5) / 0.25)[:, index].mean()

    return mean_of


def written_gradient(network: FakeNetwork, row: Ascent, index: int = 0) -> Tensor:
    """d (objective − charge) / d parameters of one step, by one pass through the whole chain."""
    parameters = row.parameters.double().requires_grad_()
    picture = PICTURES[row.recipe.parameterization](row.recipe, parameters)
    total = objective_of(network, index)(seen_by_the_network(row, picture)) - charged(row.recipe, picture)
    (gradient,) = torch.autograd.grad(total, parameters)
    return gradient


def stepped(network: FakeNetwork, row: Ascent) -> Tensor:
    """A whole step of a row, with all its slices; how far it went, by the rate."""
    before, number = row.parameters.double(), row.step
    while row.step == number:
        assert step(network, [row]) == [None]
    return (row.parameters.double() - before) / row.recipe.learning_rate


RECIPES: dict[str, dict[str, Any]] = {
    "pixel": BYTES,
    "pixel, total variation": {**BYTES, "tv": 40.0},
    "pixel, distance from grey": {**BYTES, "l2": 40.0},
    "normalized, both charges": {"preset": "flashtorch", "tv": 15.0, "l2": 25.0},
    "lucid": {"preset": "lucid"},
    "lucid without moves": {"preset": "lucid", "jitter": 0, "scale": 0.0, "rotate": 0, "jitter_after": 0},
    "lucid, grey colours, steep": {"preset": "lucid", "decorrelate": False, "decay_power": 1.5},
    "lucid with noise and charges": {"preset": "lucid", "noise": 0.2, "noise_uniform": 0.1, "tv": 9.0, "l2": 9.0},
    "lucid, six views in two slices": {"preset": "lucid", "crops": 6, "noise": 0.1, "tv": 3.0},
    "maco, eight boxes in two slices": {"preset": "maco", "crops": 8, "size": [48, 48], "l2": 5.0},
    "maco, odd sides": {"preset": "maco", "crops": 1, "size": [45, 37], "noise": 0.0, "noise_uniform": 0.0},
}


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps_go_along_the_gradient_of_the_written_chain(name: str) -> None:
    network = tiny()
    _, (row,) = started(network, request(**{**ALONG_THE_GRADIENT, **RECIPES[name]}))
    for _ in range(2):
        expected = written_gradient(network, row)
        found = stepped(network, row)
        assert float(expected.norm()) > 0
        assert float((found - expected).norm() / expected.norm()) < 2e-4


def test_the_charges_are_felt() -> None:
    """The written gradient with and without them differs by far more than the bound above."""
    network = tiny()
    for name in ("tv", "l2"):
        _, (free,) = started(network, request("pixel", **ALONG_THE_GRADIENT))
        _, (pays,) = started(network, request("pixel", **ALONG_THE_GRADIENT, **{name: 40.0}))
        without, with_it = written_gradient(network, free), written_gradient(network, pays)
        assert float((with_it - without).norm() / without.norm()) > 0.05


def test_a_charge_alone_makes_a_picture_smooth_or_grey() -> None:
    """Beside it the objective weighs nothing: total variation and the distance from grey fall at every step."""
    network = tiny()
    nothing = {"sum": [{"weight": 1e-9, "of": channel(1)}]}
    for name, measure in (
        ("tv", lambda picture: float(picture.diff(dim=1).square().mean() + picture.diff(dim=2).square().mean())),
        ("l2", lambda picture: float((picture - 0.5).square().mean())),
    ):
        asked = request("pixel", objective=[nothing], optimizer="ascent", learning_rate=2e7, steps=5, **{name: 1.0})
        _, (row,) = started(network, asked)
        measured = [measure(pixel_picture(row.recipe, row.parameters.double()))]
        for _ in range(5):
            stepped(network, row)
            measured.append(measure(pixel_picture(row.recipe, row.parameters.double())))
        assert all(later < earlier for earlier, later in pairwise(measured)), name
        assert measured[-1] < 0.6 * measured[0], name


def test_adam_goes_as_the_written_moments_say() -> None:
    """Three steps of `lucid` with its own optimizer, the moments kept here."""
    network = tiny()
    _, (row,) = started(network, request("lucid"))
    first = second = torch.zeros_like(row.parameters, dtype=torch.float64)
    for number in (1, 2, 3):
        slopes = written_gradient(network, row)
        first, second = 0.9 * first + 0.1 * slopes, 0.999 * second + 0.001 * slopes**2
        expected = (first / (1 - 0.9**number)) / ((second / (1 - 0.999**number)).sqrt() + 1e-8)
        found = stepped(network, row)
        # Adam's step is a quotient, so a coefficient whose slope nearly vanishes has a sign that float32 cannot know.
        clear = slopes.abs() > 1e-3 * slopes.abs().max()
        assert bool(clear.any())
        assert float((found - expected)[clear].abs().max()) < 2e-3


def test_the_loss_is_the_objectives_mean_over_the_views_before_the_step() -> None:
    network = tiny()
    for name in ("pixel, total variation", "lucid, six views in two slices", "maco, eight boxes in two slices"):
        _, (row,) = started(network, request(**{**ALONG_THE_GRADIENT, **RECIPES[name]}))
        for number in range(2):
            picture = PICTURES[row.recipe.parameterization](row.recipe, row.parameters.double())
            expected = float(objective_of(network, 0)(seen_by_the_network(row, picture)))
            stepped(network, row)
            assert row.losses[number] == pytest.approx(expected, rel=1e-5), name


def test_alpha_adds_up_what_each_pixel_would_change() -> None:
    """Fel et al. 2023: the sum over the steps of |d objective / d pixel|, over the colours."""
    network = tiny()
    asked = request("maco", crops=8, size=[48, 48], steps=3)
    _, (state,) = started(network, asked)
    total = torch.zeros(48, 48, dtype=torch.float64)
    for _ in range(3):
        picture = maco_picture(state.recipe, state.parameters.double()).detach().requires_grad_()
        value = 8 * objective_of(network, 0)(seen_by_the_network(state, picture))
        total += torch.autograd.grad(value, picture)[0].abs().sum(0)
        stepped(network, state)
    assert state.alpha is not None
    assert float((state.alpha - total).norm() / total.norm()) < 2e-4
    assert float(total.norm()) > 0


OTHER_NUMBERS: list[tuple[str, str, Any]] = [
    ("pixel", "pixel_space", "normalized"), ("pixel", "start_level", 100.0), ("pixel", "start_spread", 30.0),
    ("pixel", "start_distribution", "normal"), ("pixel", "optimizer", "rms"), ("pixel", "learning_rate", 3.0),
    ("pixel", "steps", 5), ("pixel", "tv", 300.0), ("pixel", "l2", 300.0), ("pixel", "decay", 0.1),
    ("pixel", "seed", 1), ("pixel", "average", 0.5), ("pixel", "noise", 0.2), ("pixel", "noise_uniform", 0.2),
    ("yosinski", "blur", 2.0), ("yosinski", "blur_every", 3), ("yosinski", "clip_each_step", False),
    ("lucid", "decay_power", 1.1), ("lucid", "decorrelate", False), ("lucid", "jitter", 7), ("lucid", "scale", 0.2),
    ("lucid", "rotate", 9), ("lucid", "jitter_after", 3), ("lucid", "average", 0.25), ("lucid", "start_spread", 0.1),
    ("lucid", "crops", 2), ("lucid", "optimizer", "nadam"), ("lucid", "parameterization", "maco"),
    ("maco", "crops", 4), ("maco", "crop_from", 0.6), ("maco", "crop_to", 0.2), ("maco", "crop_size_sd", 0.2),
    ("maco", "crop_center_sd", 0.3), ("maco", "noise", 0.1), ("maco", "noise_uniform", 0.1),
]  # fmt: skip
USED = {
    # Enough steps for a blur every few of them, and a rate at which pixels leave their range, so that a clip is felt.
    "yosinski": {"steps": 8, "learning_rate": 1e5, "start_spread": 120.0},
    "maco": {"crops": 8, "size": [48, 48]},
}


@pytest.mark.parametrize(("preset", "name", "value"), OTHER_NUMBERS, ids=lambda each: str(each))
def test_every_number_makes_another_picture(preset: str, name: str, value: Any) -> None:
    asked = request(preset, **USED.get(preset, {}))
    assert asked[name] != value
    mine, other = (outcome(tiny(), one).arrays["images"] for one in (asked, {**asked, name: value}))
    assert not torch.equal(mine, other)


def test_diversity_and_redirection_are_felt() -> None:
    """The two numbers for which one live picture is not enough."""
    two = request("pixel", objective=[channel(1), channel(1)])
    mine, other = (outcome(tiny(), {**two, "diversity": weight}).arrays["images"] for weight in (0.0, 5.0))
    assert not torch.equal(mine, other)
    network = tiny()
    with torch.no_grad():
        network.module[2].bias[0] = 40.0  # at ReLU6's upper limit everywhere
        network.module[2].weight[0] *= 3
    unit = {"unit": {"layer": "3", "channel": 0, "y": 2, "x": 3}}
    down = {"sum": [{"weight": -1.0, "of": unit}]}
    asked = request("pixel", objective=[down], steps=60, learning_rate=20.0)
    rescued = outcome(network, asked).facts["pictures"][0]
    assert rescued["loss_first"] == -6.0
    assert (rescued["dead"], rescued["loss_last"] > -6.0) == (False, True)
    left = outcome(network, {**asked, "redirect_steps": 0}).facts["pictures"][0]
    assert (left["dead"], left["stopped_by"], left["loss_last"]) == (True, "dead", -6.0)


def test_rows_with_other_numbers_share_no_numbers() -> None:
    """Two rows of one recipe and two seeds, stepped together, each go along their own gradient."""
    network = tiny()
    rows = [started(network, request("lucid", **ALONG_THE_GRADIENT, seed=seed, tv=5.0))[1][0] for seed in (1, 2)]
    expected = [written_gradient(network, row) for row in rows]
    before = [row.parameters.double() for row in rows]
    assert step(network, rows) == [None, None]
    for row, slopes, place in zip(rows, expected, before, strict=True):
        assert float((row.parameters.double() - place - slopes).norm() / slopes.norm()) < 2e-4
    climb(network, rows)
