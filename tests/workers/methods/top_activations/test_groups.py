"""Means by group and selectivity: against a loop over all activations, by hand, and interrupted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.workers.methods.ascents import tiny
from tests.workers.methods.top_activations.test_top_activations import GRANT, IMAGES, all_maps, request, swept
from workers.contract import MethodError, Row, params
from workers.methods.top_activations import METHOD
from workers.methods.top_activations.groups import GroupMeans

NAMES = ["cat", "dog", "cat", "owl", "dog", "cat", "cat"]


@pytest.mark.parametrize("by", ["max", "mean"])
def test_means_are_those_of_all_activations(by: str) -> None:
    found = swept(tiny(), IMAGES, groups=NAMES, by=by, patches=False, projection="none")
    assert found.facts["groups"] == [
        {"name": "cat", "images": 4},
        {"name": "dog", "images": 2},
        {"name": "owl", "images": 1},
    ]
    maps = all_maps(tiny(), "3", IMAGES).flatten(2)
    values = (maps.amax(2) if by == "max" else maps.mean(2)).double().numpy()
    means = np.array(
        [
            [values[[n == name for n in NAMES], c].mean() for name in ("cat", "dog", "owl")]
            for c in range(values.shape[1])
        ]
    )
    np.testing.assert_allclose(found.arrays["group_means/3"].numpy(), means, rtol=1e-5)
    told = found.facts["layers"][1]["channels"]
    for channel, one in enumerate(told):
        best = int(means[channel].argmax())
        first = ("cat", "dog", "owl")[best]
        assert one["groups"][0] == {"group": first, "mean": pytest.approx(means[channel, best], rel=1e-5)}
        assert [each["mean"] for each in one["groups"]] == sorted(
            (each["mean"] for each in one["groups"]), reverse=True
        )
        if means[channel].min() < 0:
            assert one["selectivity"] is None
        else:
            rest = values[[name != first for name in NAMES], channel].mean()
            assert one["selectivity"] == pytest.approx(
                (means[channel, best] - rest) / (means[channel, best] + rest), rel=1e-4
            )


def test_an_interrupted_sweep_has_the_same_bits() -> None:
    wish = {"groups": NAMES, "patches": False, "projection": "none"}
    whole, interrupted = (swept(tiny(), IMAGES, cut, **wish) for cut in (False, True))
    assert whole.facts == interrupted.facts
    for name, array in whole.arrays.items():
        assert torch.equal(array.nan_to_num(-1), interrupted.arrays[name].nan_to_num(-1)), name


def test_selectivity_by_hand() -> None:
    """Means 4 and, of three others, 1; a channel that one group alone excites; one that none does; a negative mean."""
    groups = GroupMeans.none(4, ["a", "b", "b", "c"])
    for place, values in enumerate(
        ([4.0, 2.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0], [2.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, -1.0])
    ):
        groups.add(place, torch.tensor(values))
    assert groups.facts(0)["selectivity"] == pytest.approx((4 - 1) / (4 + 1))
    assert groups.facts(1)["selectivity"] == 1.0
    assert groups.facts(2)["selectivity"] is None and groups.facts(3)["selectivity"] is None
    assert groups.facts(0)["groups"] == [
        {"group": "a", "mean": 4.0},
        {"group": "b", "mean": 1.0},
        {"group": "c", "mean": 1.0},
    ]


def test_names_for_other_images_are_refused() -> None:
    row = Row(params(request(groups=["a", "b"])), IMAGES)
    with pytest.raises(MethodError, match="2 names for 7 images"):
        list(METHOD.start(tiny(), row, GRANT))
