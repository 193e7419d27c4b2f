"""Layers by names of the field, and the word for all convolutions, wherever layers are named."""

from __future__ import annotations

from typing import Any

import pytest

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations import operations
from convscope.protocol.operations.base import called
from tests.convscope.protocol.operations.test_deconv import card

IMAGE = {"image": {"id": "x"}}
OF_VGG11 = [f"features.{number}" for number in (0, 3, 6, 8, 11, 13, 16, 18)]


@pytest.fixture(scope="module")
def vgg11() -> ModelCard:
    return card("vgg11-random")


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("feature-maps", IMAGE),
        ("deconv", IMAGE),
        ("cka", {**IMAGE, "mode": "channels"}),
        ("top-activations", {"image_set": "set-x"}),
    ],
)
def test_convolutions_are_all_convolutions(operation: str, body: dict[str, Any], vgg11: ModelCard) -> None:
    kind = operations()[operation]
    asked = kind.request.model_validate({**body, "layers": "convolutions"})
    assert getattr(kind.resolve(asked, vgg11), "layers") == OF_VGG11  # noqa: B009
    twice = kind.request.model_validate({**body, "layers": ["conv1_1", "features.0", "conv2_1"]})
    assert getattr(kind.resolve(twice, vgg11), "layers") == OF_VGG11[:2]  # noqa: B009


def test_the_layers_of_another_network_too(vgg11: ModelCard) -> None:
    kind = operations()["cka"]
    images = [{"id": f"x{number}"} for number in range(8)]
    body = {"images": images, "mode": "models", "other_model": "vgg11-random", "other_layers": ["convolutions"]}
    resolved = kind.resolve(kind.request.model_validate(body), vgg11)
    found = kind.resolve_others(resolved, {"vgg11-random": vgg11})
    assert getattr(found, "other_layers") == OF_VGG11  # noqa: B009


def test_headings_say_further_names() -> None:
    facts = {"aliases": {"features.1": ["relu1_1", "block1_conv1"]}}
    assert called("features.1", facts) == "features.1 (relu1_1, block1_conv1)"
    assert called("features.0", facts) == "features.0"
    assert called("features.0", {}) == "features.0"
