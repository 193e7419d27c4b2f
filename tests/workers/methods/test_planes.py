"""Networks of one plane, of two and of five: every operation, with values that can be computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.protocol.operations.presets import PRESETS
from tests.workers.fakes import finish
from workers.contract import Grant, IterativeMethod, MethodError, OneShotMethod, Outcome, Row, params
from workers.engine.registry import find_methods
from workers.networks.build import LoadedNetwork
from workers.networks.catalogue.reading import make_entry
from workers.networks.layers import describe
from workers.networks.preprocess import Preprocessing, from_mapping
from workers.networks.trials import Behaviour
from workers.passes.planes import as_colours, as_grey


class Linear(nn.Module):
    """One convolution without bias, its mean over the map, three classes: everything is linear but one ReLU."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(planes, 4, 3, padding=1, bias=False)
        self.two = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.relu(self.one(x)).mean((2, 3)))  # type: ignore[no-any-return]


def network(planes: int) -> LoadedNetwork:
    torch.manual_seed(planes)
    module = Linear(planes).eval().requires_grad_(False)
    values = {
        "source": "python:tests.workers.networks.own_networks:body",
        "arguments": {"planes": planes},
        "weights": "random",
        "classes": ["a", "b", "c"],
        "preprocess": {"size": 16, "resize": 16, "channels": planes, "mean": [0.5], "std": [0.25]},
    }
    entry = make_entry("mine", values, Path())
    how = entry.transform
    return LoadedNetwork(entry, module, describe(module, (16, 16), planes), how, torch.device("cpu"), Behaviour())


def upload(planes: int) -> Tensor:
    """What a network of so many planes is given: colours for one and three, an array for others."""
    generator = torch.Generator().manual_seed(3)
    if planes in (1, 3):
        return torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8, generator=generator)
    return torch.rand(16, 16, planes, generator=generator)


def inputs(planes: int) -> Tensor:
    """The normalised input, by hand; Pillow rounds grey to 8 bits."""
    given = upload(planes)
    if planes in (1, 3):
        given = given.float() / 255
        if planes == 1:
            red, green, blue = upload(3).int().unbind(2)
            # Pillow's own integers: L = (19595 R + 38470 G + 7471 B + 0x8000) >> 16
            given = ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16)[:, :, None].float() / 255
    return ((given.permute(2, 0, 1) - 0.5) / 0.25)[None]


def answer(own: LoadedNetwork, operation: str, images: Sequence[Tensor], **request: Any) -> Outcome:
    method = find_methods()[operation]
    assert isinstance(method, OneShotMethod)
    row = Row(params({"preprocess": None, "precision": "exact", "seed": 0} | request), images)
    (found,) = finish(method.run(own, [row], Grant()))[0]
    if isinstance(found, MethodError):
        raise found
    return found


SALIENCY = {
    "target": 1, "nonstandard_gate": False, "samples": 8, "noise": 0.1, "steps": 16, "max_steps": 64,
    "tolerance": 0.01, "baseline": "black",
}  # fmt: skip


@pytest.mark.parametrize("planes", [1, 2, 3, 5])
def test_attributions_have_the_networks_planes_and_are_right(planes: int) -> None:
    own, x = network(planes), inputs(planes).requires_grad_()
    (slopes,) = torch.autograd.grad(own.module(x)[0, 1], x)
    found = answer(own, "saliency", [upload(planes)], method="gradient", **SALIENCY).arrays["attribution"]
    torch.testing.assert_close(found, slopes)
    times = answer(own, "saliency", [upload(planes)], method="gradient-x-input", **SALIENCY).arrays["attribution"]
    torch.testing.assert_close(times, slopes * x.detach())
    integrated = answer(own, "saliency", [upload(planes)], method="integrated-gradients", **SALIENCY)
    with torch.no_grad():
        difference = float(own.module(x)[0, 1] - own.module(torch.full_like(x, -2.0))[0, 1])
    assert integrated.arrays["attribution"].shape == (1, planes, 16, 16)
    assert float(integrated.arrays["attribution"].sum()) == pytest.approx(difference, rel=0.02)
    assert integrated.facts["images"][0]["completeness"]["within_tolerance"]


@pytest.mark.parametrize("planes", [1, 2, 3, 5])
def test_projections_have_the_networks_planes_and_patches_are_a_stated_picture(planes: int) -> None:
    own = network(planes)
    wish = {"layers": ["one"], "channels": [2], "by": "max", "seed_unit": "max", "rule": "gradient", "switches": "sum"}
    found = answer(own, "deconv", [upload(planes)], nonstandard_gate=False, **wish)
    unit = found.facts["layers"][0]["projections"][0]
    with torch.no_grad():
        value = own.module.get_submodule("one")(inputs(planes))[0, 2, unit["y"], unit["x"]]
    projection = found.arrays["projection/one"]
    assert projection.shape == (1, planes, 16, 16)
    kernel = own.module.get_submodule("one").weight[2]
    box = projection[0, :, max(unit["y"] - 1, 0) : unit["y"] + 2, max(unit["x"] - 1, 0) : unit["x"] + 2]
    top, left = int(unit["y"] == 0), int(unit["x"] == 0)
    torch.testing.assert_close(box, value * kernel[:, top : top + box.shape[1], left : left + box.shape[2]])
    assert found.arrays["patch/one"].shape[1:] == (3, 3, 3)
    shown = as_colours((inputs(planes)[0] * 0.25 + 0.5) * 255).round()
    patch = found.arrays["patch/one"][0].permute(2, 0, 1).float()
    middle = shown[:, unit["y"], unit["x"]]
    torch.testing.assert_close(patch[:, 1, 1], middle, atol=1, rtol=0)


@pytest.mark.parametrize("planes", [1, 2, 3, 5])
def test_every_fill_of_occlusion_hides_all_planes(planes: int) -> None:
    own, x = network(planes), inputs(planes)
    for fill, value in (("mean", 0.0), ("black", -2.0), ("grey", 0.0), ("white", 2.0)):
        wish = {"window": [8, 8], "stride": [8, 8], "fill": fill, "target": 1, "incremental": planes == 2}
        unit = {"layer": "one", "channel": 0, "y": None, "x": None}
        found = answer(own, "occlusion", [upload(planes)], unit=unit, **wish).arrays["probability"]
        for row in range(2):
            for column in range(2):
                hidden = x.clone()
                hidden[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = value
                with torch.no_grad():
                    expected = own.module(hidden).softmax(1)[0, 1]
                assert float(found[0, row, column]) == pytest.approx(float(expected), abs=2e-6)


@pytest.mark.parametrize("planes", [1, 2, 3, 5])
def test_guided_gradcam_has_the_networks_planes(planes: int) -> None:
    own = network(planes)
    wish = {"layer": "@relu", "targets": [1], "methods": ["guided-gradcam", "gradcam"], "nonstandard_gate": False}
    found = answer(own, "cam", [upload(planes)], relu=True, counterfactual=False, upsampled=False, **wish)
    shapes = {name: tuple(array.shape) for name, array in found.arrays.items()}
    assert any(shape[-3:] == (planes, 16, 16) for name, shape in shapes.items() if "guided" in name), shapes


def ascended(own: LoadedNetwork, **request: Any) -> tuple[Outcome, Any]:
    """A job of one picture, and the last preview."""
    method = find_methods()["maximize"]
    assert isinstance(method, IterativeMethod)
    row = Row(params(request))
    states = _done(method.start(own, row, Grant()))
    while not all(method.done(state) for state in states):
        assert method.step(own, [state for state in states if not method.done(state)], Grant()) == [None]
    preview = method.progress(states, True).preview
    found = _done(method.finish(own, row, states, Grant()))
    if isinstance(found, MethodError):
        raise found
    return found, preview


def _done(made: Any) -> Any:
    if not hasattr(made, "send"):
        return made
    while True:
        try:
            next(made)
        except StopIteration as stop:
            return stop.value


def wish(preset: str, steps: int = 6) -> dict[str, Any]:
    numbers = dict(PRESETS[preset]) | {"steps": steps, "size": [16, 16]}
    objective = [{"kind": "channel", "layer": "one", "channel": 1, "reduce": "mean"}]
    return {
        "preprocess": None, "precision": "exact", "seed": 5, "size": [16, 16], "objective": objective, "layer": None,
        "channels": None, "start": "noise", "stop_at": None, **numbers,
    }  # fmt: skip


@pytest.mark.parametrize("preset", list(PRESETS))
def test_grey_networks_get_grey_pictures_in_every_preset(preset: str) -> None:
    own = network(1)
    found, preview = ascended(own, **wish(preset))
    images = found.arrays["images"]
    assert images.shape == (1, 16, 16, 3) and images.dtype == torch.uint8
    assert torch.equal(images[..., 0], images[..., 1]) and torch.equal(images[..., 0], images[..., 2])
    assert torch.equal(preview[..., 0], preview[..., 1])
    # The loss is of one jittered view after the other, so the picture's own value tells whether it was ascended.
    assert found.facts["pictures"][0]["value"] > found.arrays["loss"][0, 0]
    # The check is of the very picture: as an upload it gives the same means.
    x, _ = own.prepare([images[0]])
    with torch.no_grad():
        means = own.module.get_submodule("one")(x).mean((2, 3))
    torch.testing.assert_close(found.arrays["channel_means"], means)


def test_one_step_of_grey_pixels_by_hand() -> None:
    """Plain ascent in [0, 1]: the gradient of a channel's mean, once, not three times."""
    own = network(1)
    numbers = wish("pixel", 1) | {
        "pixel_space": "unit",
        "optimizer": "ascent",
        "learning_rate": 0.5,
        "start_spread": 0.0,
    }
    found, _ = ascended(own, **numbers)
    x = torch.full((1, 1, 16, 16), (128.0 / 255 - 0.5) / 0.25, requires_grad=True)
    (slopes,) = torch.autograd.grad(own.module.get_submodule("one")(x)[0, 1].mean(), x)
    moved = ((128.0 / 255 + 0.5 * slopes[0, 0] / 0.25).clamp(0, 1) * 255).round()
    assert float((found.arrays["images"][0, :, :, 0].float() - moved).abs().max()) <= 1


@pytest.mark.parametrize("planes", [2, 5])
def test_networks_of_other_planes_get_pictures_of_theirs(planes: int) -> None:
    found, _ = ascended(network(planes), **wish("pixel"))
    assert found.arrays["planes"].shape == (1, planes, 16, 16)
    shown = as_colours(found.arrays["planes"][0]).permute(1, 2, 0)
    assert torch.equal(found.arrays["images"][0], shown)
    with pytest.raises(MethodError, match="maco keeps the amplitudes"):
        ascended(network(planes), **wish("maco"))


def test_uploads_of_other_planes_are_refused_with_what_would_be_right() -> None:
    with pytest.raises(MethodError, match="takes 5 planes and the upload has colours") as caught:
        network(5).prepare([upload(3)])
    assert caught.value.problem == "not-applicable"
    with pytest.raises(MethodError, match="takes 3 planes and the upload has 5 planes"):
        network(3).prepare([upload(5)])


def test_float_planes_are_taken_as_they_are() -> None:
    planes = torch.rand(16, 16, 5)
    x, where = network(5).prepare([planes])
    torch.testing.assert_close(x, ((planes.permute(2, 0, 1) - 0.5) / 0.25)[None])
    assert where[0].upload_size == (16, 16)
    colours = torch.rand(16, 16, 3)
    x, _ = network(1).prepare([colours])
    torch.testing.assert_close(x, ((as_grey(colours.permute(2, 0, 1)) - 0.5) / 0.25)[None])


def test_float_planes_are_resized_as_pillow_resizes_each() -> None:
    """8-bit values in float planes come to what the 8-bit picture comes to, up to Pillow's rounding to 8 bits."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 256, (40, 52, 3), dtype=torch.uint8, generator=generator)
    how = Preprocessing((16, 16), 20, "bicubic")
    first, where = how.apply(colours)
    second, same = how.apply(colours.float() / 255)
    assert where == same
    assert float((first - second.clamp(0, 1)).abs().max()) <= 1.01 / 255


def test_what_a_catalogue_may_say_of_planes() -> None:
    base = Preprocessing((16, 16), 16)
    four = from_mapping({"channels": 4, "mean": [0.1, 0.2, 0.3, 0.4], "std": 0.5}, base)
    assert four.mean == (0.1, 0.2, 0.3, 0.4) and four.std == (0.5,) * 4
    with pytest.raises(ValueError, match=r"mean and preprocess\.std of 4 planes must be given"):
        from_mapping({"channels": 4}, base)
    with pytest.raises(ValueError, match="one number or 4"):
        from_mapping({"channels": 4, "mean": [0.1, 0.2, 0.3], "std": 0.5}, base)
    with pytest.raises(ValueError, match="a number of planes from 1 to 64, not 0"):
        from_mapping({"channels": 0}, base)
