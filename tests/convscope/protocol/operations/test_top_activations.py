"""top-activations' requests: defaults, refusals, cost and pictures, on real layer tables."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations.top_activations import OPERATION, TopActivationsRequest
from tests.convscope.protocol.operations.resolving import refused, resolved
from workers.networks.card import make_card
from workers.networks.catalogue import find_entry

SET: dict[str, Any] = {"image_set": "set-0"}


def card(name: str) -> ModelCard:
    return ModelCard.model_validate(make_card(find_entry(name), ""))


def test_defaults() -> None:
    vgg, lite = card("vgg16-random"), card("efficientnet_lite0")
    found = resolved("top-activations", vgg, SET)
    assert (found["layers"], found["channels"], found["k"], found["by"]) == (["features"], "first:16", 9, "max")
    assert (found["projection"], found["patches"], found["images"]) == ("deconvnet", True, [])
    assert resolved("top-activations", lite, SET)["projection"] == "guided"
    assert resolved("top-activations", lite, {**SET, "patches": False})["projection"] == "none"


def test_a_network_with_bent_gates_has_no_projection_unless_it_is_asked_for() -> None:
    bent = card("efficientnet_b0-random")
    assert resolved("top-activations", bent, SET)["projection"] == "none"
    assert refused("top-activations", bent, {**SET, "projection": "guided"}).name == "not-applicable"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"channels": "top:4"}, "ranks by one image"),
        ({"channels": "strongest"}, "ranks by one image"),
        ({"by": "mean", "per_image": 2}, "one mean for each channel"),
        ({"patches": False, "projection": "guided"}, "stands beside a patch"),
        ({"layer": "a", "layers": ["b"]}, "either layer or layers"),
        ({"k": 101}, "less than or equal to 100"),
        ({"k": 0}, "greater than or equal to 1"),
    ],
)
def test_what_makes_no_sense_is_said(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TopActivationsRequest.model_validate({**SET, **wrong})


def test_unknown_layers_and_channels_are_refused() -> None:
    lite = card("efficientnet_lite0")
    assert refused("top-activations", lite, {**SET, "layer": "blocks.9"}).name == "unknown-layer"
    problem = refused("top-activations", lite, {**SET, "layer": "blocks.0", "channels": [16]})
    assert problem.name == "channel-out-of-range"


def test_cost_counts_every_image_and_every_pass_back() -> None:
    lite = card("efficientnet_lite0")
    body = {**SET, "layer": "blocks.0", "channels": "all", "k": 2}
    request = OPERATION.resolve(TopActivationsRequest.model_validate(body), lite)
    with_projections = OPERATION.cost(request, lite, 100)
    # 16 channels × 2 units: one forward an image, one for each shown image, a forward and backward a unit.
    assert with_projections.forwards == 100 + 32 + 2 * 32
    plain = OPERATION.resolve(TopActivationsRequest.model_validate({**body, "patches": False}), lite)
    assert OPERATION.cost(plain, lite, 100).forwards == 100
    assert OPERATION.cost(plain, lite, 100).result_bytes == 32 * (4 + 8 + 16)
    assert with_projections.result_bytes > OPERATION.cost(plain, lite, 100).result_bytes


def test_the_picture_is_a_row_a_channel() -> None:
    facts = {
        "layers": [
            {
                "layer": "blocks.0",
                "images": 5,
                "projection": "guided",
                "channels": [{"channel": 3, "best": [2.0, 1.0]}, {"channel": 5, "best": [4.0]}],
            }
        ]
    }
    request = {"model": "m", "patches": True, "by": "max", "k": 9}
    (picture,) = OPERATION.pictures(request, facts, {})
    assert [tile.parts[0].index for tile in picture.tiles] == [(0, 0), (0, 1), (1, 0)]
    assert [part.array for part in picture.tiles[0].parts] == ["patch/blocks.0", "projection/blocks.0"]
    assert picture.columns == 2
    assert OPERATION.pictures({**request, "patches": False}, facts, {}) == []
