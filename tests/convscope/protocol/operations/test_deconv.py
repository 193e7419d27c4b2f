"""deconv's requests: defaults, refusals, cost and pictures, on real layer tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations.deconv import OPERATION, DeconvRequest
from convscope.protocol.pictures import ArrayInfo
from convscope.protocol.problems import ProblemError
from convscope.render import RenderOptions, render
from tests.convscope.render.helpers import Png
from workers.networks.card import make_card
from workers.networks.catalogue import find_entry


def card(name: str) -> ModelCard:
    """The network's card."""
    return ModelCard.model_validate(make_card(find_entry(name), ""))


def resolve(model: ModelCard, **wanted: Any) -> DeconvRequest:
    """A request on an image, with its defaults filled in."""
    return OPERATION.resolve(DeconvRequest.model_validate({"image": {"id": "x"}, **wanted}), model)


def test_defaults() -> None:
    vgg, lite = card("vgg16-random"), card("efficientnet_lite0")
    found = resolve(vgg)
    assert (found.layers, found.rule, found.channels, found.by) == (["features.22"], "deconvnet", "strongest", "max")
    assert (found.switches, found.seed_unit, found.layer) == ("sum", "max", None)
    assert resolve(lite).layers == ["blocks.2"], "67 of 224 pixels; the next stage's units see the whole photograph"
    assert resolve(card("vit_b_16-random"), nonstandard_gate=True).layers == ["conv_proj"]
    assert resolve(lite).rule == "guided"  # no max-pools, so no switches
    assert resolve(lite, rule="deconvnet").rule == "deconvnet"
    again = OPERATION.resolve(found, vgg)
    assert again == found


def test_layers_by_alias_and_all_convolutions_of_a_chain() -> None:
    vgg = card("vgg16-random")
    assert resolve(vgg, layers="conv1_1,conv5_3").layers == ["features.0", "features.28"]
    assert resolve(vgg, layer="block5_conv1").layers == ["features.25"]


@pytest.mark.parametrize(
    ("model", "wanted", "problem", "words"),
    [
        ("vgg16-random", {"layer": "conv9_1"}, "unknown-layer", "conv"),
        ("vgg16-random", {"layer": "conv1_1", "channels": [64]}, "channel-out-of-range", "0 to 63"),
        ("efficientnet_b0-random", {"layer": "features.5"}, "not-applicable", "nonstandard_gate"),
        ("convnext_tiny-random", {}, "not-applicable", ""),
        ("vit_b_16-random", {"layer": "encoder"}, "not-applicable", ""),
    ],
)
def test_refusals_say_why_and_what_would_be_possible(model: str, wanted: Any, problem: str, words: str) -> None:
    with pytest.raises(ProblemError) as refusal:
        resolve(card(model), **wanted)
    assert (refusal.value.name, refusal.value.status) == (problem, 422)
    assert words in refusal.value.detail


@pytest.mark.parametrize(
    ("model", "layer", "kind"),
    [
        ("efficientnet_b0-random", "features.5", "silu"),
        ("convnext_tiny-random", "features.3", "gelu"),
        ("mobilenet_v3_small-random", "features.5", "hardswish"),
    ],
)
@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
def test_smooth_gates_are_refused_with_what_would_be_possible(model: str, layer: str, kind: str, rule: str) -> None:
    own = card(model)
    with pytest.raises(ProblemError) as refusal:
        resolve(own, layer=layer, rule=rule)
    assert (refusal.value.name, refusal.value.status) == ("not-applicable", 422)
    assert kind in refusal.value.detail
    assert refusal.value.extra["possible"] == ["rule=gradient", "nonstandard_gate=true"]
    for possible in ({"rule": "gradient"}, {"rule": rule, "nonstandard_gate": True}):
        assert resolve(own, layer=layer, **possible).layers == [layer]


def test_bent_gates_on_request_and_the_gradient_always() -> None:
    model = card("efficientnet_b0-random")
    assert resolve(model, layer="features.5", nonstandard_gate=True).nonstandard_gate
    assert resolve(model, layer="features.5", rule="gradient").rule == "gradient"


@pytest.mark.parametrize(
    "wanted", [{"rule": "lrp"}, {"seed_unit": "top:0"}, {"seed_unit": "min"}, {"layer": "a", "layers": ["b"]}, {"x": 1}]
)
def test_schema_refuses(wanted: Any) -> None:
    with pytest.raises(ValidationError):
        DeconvRequest.model_validate({"image": {"id": "x"}, **wanted})


def test_cost_counts_projections() -> None:
    vgg = card("vgg16-random")
    cost = OPERATION.cost(resolve(vgg, layer="conv3_3", channels="top:4", seed_unit="top:3"), vgg, 1)
    assert cost.result_bytes == 12 * (12 * 224 * 224 + 15 * 40 * 40)
    assert cost.forwards == 1 + 2 * 12


def test_pictures_put_the_patch_beside_the_projection_with_its_caption() -> None:
    unit = {"channel": 7, "y": 3, "x": 4, "activation": 2.5, "dead": False}
    facts = {"layers": [{"layer": "features.28", "rule": "deconvnet", "projections": [unit, {**unit, "y": None}]}]}
    arrays = {"projection/features.28": ArrayInfo((2, 3, 224, 224), "float32")}
    (picture,) = OPERATION.pictures({"model": "vgg16"}, facts, arrays)
    assert picture.name == "features.28"
    assert picture.signed
    assert [part.array for part in picture.tiles[0].parts] == ["patch/features.28", "patch_projection/features.28"]
    assert picture.tiles[1].parts[1].index == (1,)
    assert picture.tiles[0].caption == ("channel 7", "unit (3, 4)", "activation 2.5")
    assert picture.tiles[1].caption[1] == "whole map"


def test_all_maps_of_a_layer_are_one_projection_and_the_picture_is_whole() -> None:
    vgg = card("vgg16-random")
    found = resolve(vgg, layer="conv1_1", seed_unit="layer")
    assert (found.channels, found.seed_unit) == ("all", "layer")
    assert OPERATION.cost(found, vgg, 1).forwards == 3.0
    with pytest.raises(ValidationError, match="leave channels away"):
        resolve(vgg, layer="conv1_1", seed_unit="layer", channels=[3])
    one = {"channel": None, "y": None, "x": None, "activation": 2.5}
    facts = {"layers": [{"layer": "features.0", "rule": "deconvnet", "projections": [one]}]}
    arrays = {
        "projection/features.0": np.random.RandomState(1).randn(1, 3, 12, 12).astype(np.float32),
        "patch/features.0": np.zeros((1, 4, 4, 3), np.uint8),
        "patch_projection/features.0": np.zeros((1, 3, 4, 4), np.float32),
    }
    (picture,) = OPERATION.pictures({"model": "vgg16"}, facts, {})
    page = Png.of(render(picture, arrays.__getitem__, None, RenderOptions(view="picture", scale=2)))
    whole = page.body(24, 24)
    ordered = np.sort(np.abs(arrays["projection/features.0"]).ravel())
    end = ordered[int(np.ceil(0.995 * len(ordered))) - 1]
    wanted = np.clip(arrays["projection/features.0"][0] / end * 127 + 128.5, 1, 255).astype(np.uint8)
    assert (np.abs(whole[::2, ::2].transpose(2, 0, 1).astype(int) - wanted) <= 1).all()
    assert picture.tiles[0].caption == ("all channels", "strongest 2.5")
