"""`exact` on a CPU: a request has the same bits alone, beside others in one batch, and however busy the machine is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations import operations
from tests.workers.fakes import finish
from workers.contract import Grant, OneShotMethod, Outcome, Row, params
from workers.engine.registry import find_methods
from workers.networks.build import LoadedNetwork, load
from workers.networks.card import make_card
from workers.networks.catalogue import find_entry

SIDE = 224
IDLE, BUSY = Grant(slice_s=30.0), Grant(slice_s=1e-4)
"""A slice that never ends, and one that every pass exceeds: what a pace by time makes of an idle and a busy machine."""

ASKED: dict[str, dict[str, Any]] = {
    "classify": {},
    "feature-maps": {"layers": ["blocks.2", "conv_head", "classifier"], "channels": "all"},
    "cam": {"methods": ["gradcam", "gradcam++", "layercam"], "targets": [1, "top:2"]},
    "cam masks": {"methods": ["scorecam", "ablationcam"], "layer": "blocks.1", "targets": [7]},
    "saliency": {"method": "gradient"},
    "saliency samples": {"method": "smoothgrad", "samples": 3},
    "saliency line": {"method": "integrated-gradients", "steps": 3, "max_steps": 3},
    "deconv": {"layers": ["blocks.1"], "channels": "first:2"},
}
SMALL = {"cam masks": 64, "deconv": 96}
"""Input size of what takes long."""


@pytest.fixture(scope="module")
def lite0() -> LoadedNetwork:
    return load("efficientnet_lite0")


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return ModelCard.model_validate(make_card(find_entry("efficientnet_lite0"), "0" * 64))


def picture(seed: int) -> Tensor:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (16, 16, 3), np.uint8)
    return torch.from_numpy(np.kron(coarse, np.ones((SIDE // 16, SIDE // 16, 1), np.uint8)))


def row(name: str, card: ModelCard, images: list[Tensor]) -> tuple[OneShotMethod, Row]:
    """The method and the request as a worker gets it."""
    operation = operations()[name.split()[0]]
    asked = dict(ASKED[name])
    if name in SMALL:
        asked["preprocess"] = {"size": [SMALL[name]] * 2}
    named = [{"id": f"img-{number}"} for number in range(len(images))]
    resolved = operation.resolve(operation.request(**asked, images=named), card)
    method = find_methods()[name.split()[0]]
    assert isinstance(method, OneShotMethod)
    return method, Row(params(resolved.model_dump(mode="json")), images)


def arrays(result: Any) -> dict[str, Tensor]:
    assert isinstance(result, Outcome), result
    return dict(result.arrays)


@pytest.mark.parametrize("name", list(ASKED))
def test_the_same_bits_alone_in_company_and_under_load(name: str, lite0: LoadedNetwork, card: ModelCard) -> None:
    method, own = row(name, card, [picture(1)])
    mates = [row(name, card, [picture(seed)])[1] for seed in (2, 3)]
    ((alone,), _) = finish(method.run(lite0, [own], IDLE))
    (in_company, _) = finish(method.run(lite0, [mates[0], own, mates[1]], IDLE))
    ((under_load,), _) = finish(method.run(lite0, [own], BUSY))
    for other in (in_company[1], under_load):
        assert arrays(other).keys() == arrays(alone).keys()
        for array, values in arrays(alone).items():
            assert torch.equal(values, arrays(other)[array]), array
        assert other.facts == alone.facts
    # The mates are other requests with other answers: an answer that did not depend on its image would pass as well.
    first = next(iter(arrays(alone)))
    assert not torch.equal(arrays(alone)[first], arrays(in_company[0])[first])
