"""Explanations under tests: by hand on networks that sum pixels, against peers, saved and resumed."""

from __future__ import annotations

import math
from typing import Any

import captum.metrics
import numpy as np
import pytest
import scipy.stats
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from tests.workers.fakes import FakeNetwork, image, traces
from tests.workers.methods.ascents import tiny
from tests.workers.methods.evaluate.trials import flat, tried, weighed
from workers.contract import MethodError
from workers.methods.evaluate.explaining import Judged
from workers.methods.evaluate.imputation import impute
from workers.methods.evaluate.judging import infidelity
from workers.methods.evaluate.probing import count_of, draw_squares, ranks_of
from workers.methods.evaluate.randomising import RandomisedCopy, depths_of, layers_of
from workers.passes.map_similarity import rank_correlation, ssim

EVERYTHING = [
    "deletion",
    "insertion",
    "confidence",
    "road",
    "infidelity",
    "sensitivity",
    "localisation",
    "randomisation",
]
PHOTOGRAPHS = [image(seed=seed) for seed in range(3)]


def figures(found: Any, method: int = 0) -> dict[str, dict[str, Any]]:
    return {one["figure"]: one for one in found.facts["methods"][method]["figures"]}


def test_curves_by_hand() -> None:
    """Four white pixels that weigh 8, 4, 2, 1: deleted in that order 15, 7, 3, 1, 0 are left."""
    found = tried(weighed(torch.tensor([[1.0, 8.0], [4.0, 2.0]])), [flat((2, 2))], metrics=["deletion", "insertion"])
    torch.testing.assert_close(found.arrays["score"], torch.tensor([15.0]))
    torch.testing.assert_close(found.arrays["deletion/gradient"], torch.tensor([[15.0, 7.0, 3.0, 1.0, 0.0]]))
    torch.testing.assert_close(found.arrays["insertion/gradient"], torch.tensor([[0.0, 8.0, 12.0, 14.0, 15.0]]))
    told = figures(found)
    assert told["deletion"]["mean"] == pytest.approx((7.5 + 7 + 3 + 1) / 4)
    assert told["insertion"]["mean"] == pytest.approx((8 + 12 + 14 + 7.5) / 4)
    assert told["deletion"]["random"] > told["deletion"]["mean"] and told["deletion"]["beats_random"]
    assert told["insertion"]["random"] < told["insertion"]["mean"] and told["insertion"]["beats_random"]


def test_a_mean_of_a_white_image_has_area_one_half_whatever_the_map_is() -> None:
    found = tried(weighed(torch.full((6, 6), 1 / 36)), [flat((6, 6))], methods=["gradient-x-input"], steps=9)
    assert figures(found)["deletion"]["mean"] == pytest.approx(0.5)
    assert figures(found)["deletion"]["random"] == pytest.approx(0.5)


def test_confidence_by_hand() -> None:
    """Muted by its own weights over 4: 1/4, 4, 1, 4/4·… of (1, 4, 2, −2) leave (1/4 + 4 + 1 − 0) of 5."""
    network = weighed(torch.tensor([[1.0, 4.0], [2.0, -2.0]]))
    found = tried(network, [flat((2, 2))], methods=["gradient-x-input"], metrics=["confidence"])
    torch.testing.assert_close(found.arrays["confidence/gradient-x-input"], torch.tensor([0.25 + 4.0 + 1.0]))
    assert figures(found)["average_drop"]["mean"] == 0.0
    assert figures(found)["average_increase"]["mean"] == 1.0
    negative = weighed(torch.tensor([[3.0, 1.0], [0.0, 0.0]]))
    found = tried(negative, [flat((2, 2))], methods=["gradient-x-input"], metrics=["confidence"])
    assert figures(found)["average_drop"]["mean"] == pytest.approx((4 - 3 - 1 / 3) / 4)
    assert figures(found)["average_increase"]["mean"] == 0.0


@pytest.mark.parametrize("method", ["gradient", "gradient-x-input", "integrated-gradients"])
def test_the_gradient_of_a_linear_network_has_no_infidelity(method: str) -> None:
    network = weighed(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))
    found = tried(network, [image((12, 12))], methods=[method], metrics=["infidelity"], samples=8)
    told = figures(found)
    assert told["infidelity"]["mean"] < 1e-8 and told["infidelity_scaled"]["mean"] < 1e-8
    assert told["infidelity_scaled"]["random"] > 1e-3


def test_infidelity_is_that_of_captum() -> None:
    network, x = tiny(), torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    squares = draw_squares(6, (32, 32), 3)
    gradient = torch.autograd.functional.jacobian(lambda one: network.module(one)[0, 2], x)[0]
    hidden = torch.where(squares[:, None], 0.0, x)
    differences = (network.module(x) - network.module(hidden))[:, 2]
    own, scaled = infidelity(Judged(gradient, gradient.abs().amax(0), True), squares, x[0], differences)
    turn = iter(squares)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        taken = torch.stack([next(turn) for _ in range(len(inputs))])[:, None] * inputs
        return taken, inputs - taken

    for normalize, expected in ((False, own), (True, scaled)):
        turn = iter(squares)
        peer = captum.metrics.infidelity(
            network.module, perturb, x, gradient[None], target=2, n_perturb_samples=6, normalize=normalize
        )
        assert expected == pytest.approx(float(peer[0]), rel=1e-4)


def test_sensitivity_is_zero_where_the_gradient_is_constant_and_the_movement_of_the_map_else() -> None:
    weights = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    found = tried(weighed(weights), [image((8, 8))], methods=["gradient", "gradient-x-input"], metrics=["sensitivity"])
    assert figures(found)["sensitivity_max"]["mean"] == 0.0
    assert figures(found)["sensitivity_max"]["random"] > 0.2
    moved = figures(found, 1)["sensitivity_max"]["mean"]  # ‖w·ε‖/‖w·x‖, ε uniform in ±0.02
    x = image((8, 8))[..., 0].float() / 255
    assert moved == pytest.approx(0.02 / math.sqrt(3) * float(weights.norm() / (weights * x).norm()), rel=0.3)


def test_boxes_and_masks_by_hand() -> None:
    """The map is 1, 8, 4, 2; the box holds the first column of the upload, twice the input's size."""
    network = weighed(torch.tensor([[1.0, 8.0], [4.0, 2.0]]))
    found = tried(network, [flat((4, 4))], metrics=["localisation"], boxes=[[0, 0, 4, 2]])
    assert found.arrays["pointing/gradient"].tolist() == [0.0]
    assert found.arrays["mass/gradient"].tolist() == pytest.approx([5 / 15])
    assert found.arrays["object-area"].tolist() == [0.5]
    mask = torch.zeros(2, 2, 3, dtype=torch.uint8)
    mask[0, 1] = 255
    found = tried(network, [flat((2, 2)), mask], metrics=["localisation"], mask={"id": "img-mask"})
    assert found.arrays["pointing/gradient"].tolist() == [1.0]
    assert found.arrays["mass/gradient"].tolist() == pytest.approx([8 / 15])


def test_a_box_outside_of_what_the_network_sees_has_no_figure() -> None:
    network = weighed(torch.ones(2, 2))
    found = tried(network, [flat((2, 2))], metrics=["deletion", "localisation"], boxes=[[5, 5, 9, 9]])
    assert not [name for name in found.arrays if name.startswith("mass")]
    with pytest.raises(MethodError, match="2 boxes for 1 images"):
        tried(network, [flat((2, 2))], metrics=["localisation"], boxes=[[0, 0, 1, 1], [0, 0, 1, 1]])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_imputation_is_that_of_pytorch_grad_cam(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 40, 52, generator=generator)
    coarse = torch.nn.functional.interpolate(torch.rand(1, 1, 4, 5, generator=generator), (40, 52), mode="bilinear")
    missing = torch.stack([ranks_of(one) < share * 40 * 52 for one in (coarse[0, 0], torch.rand(40, 52))])
    found = impute(x, missing)
    for own, hole in zip(found, missing, strict=True):
        peer = NoisyLinearImputer(noise=0)(x[0], (~hole).float())
        torch.testing.assert_close(own, torch.as_tensor(peer).float(), atol=3e-3, rtol=0)
        assert torch.equal(own[:, ~hole], x[0][:, ~hole])


def test_one_missing_pixel_by_hand() -> None:
    """A corner has three neighbours, whose weights are shared out: (2·3 + 2·6 + 12)/5."""
    x = torch.tensor([[[[0.0, 3.0], [6.0, 12.0]]]])
    missing = torch.tensor([[[True, False], [False, False]]])
    assert float(impute(x, missing)[0, 0, 0, 0]) == pytest.approx((2 * 3 + 2 * 6 + 12) / 5, rel=1e-4)


def test_road_of_a_true_map_is_above_that_of_a_random_one() -> None:
    weights = torch.zeros(16, 16)
    weights[4:9, 4:9] = 1.0
    pixels = torch.zeros(16, 16, 3, dtype=torch.uint8)
    pixels[4:9, 4:9] = 255
    told = figures(tried(weighed(weights), [pixels], metrics=["road"]))["road"]
    assert told["mean"] > 4 and told["mean"] > told["random"] + 4 and told["beats_random"]


def test_similarities_are_those_of_scipy_and_scikit_image() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randint(0, 9, (14, 11), generator=generator).double() for _ in range(2))
    expected = scipy.stats.spearmanr(one.flatten().numpy(), other.flatten().numpy()).statistic
    assert rank_correlation(one, other) == pytest.approx(float(expected), abs=1e-12)
    scaled = [((each - each.min()) / (each.max() - each.min())).numpy() for each in (one, other)]
    assert ssim(one, other) == pytest.approx(float(structural_similarity(*scaled, data_range=1.0)), abs=1e-9)
    assert rank_correlation(one, one) == pytest.approx(1.0) and ssim(one, one) == pytest.approx(1.0)
    assert math.isnan(rank_correlation(one, torch.zeros_like(one)))


def test_layers_become_random_from_the_last_and_are_put_back() -> None:
    network = tiny()
    assert layers_of(network) == [["0"], ["2"], ["6"]]
    assert depths_of(layers_of(network), 2) == [2, 0] and depths_of(layers_of(network), 9) == [2, 1, 0]
    before = traces(network.module)
    copied = RandomisedCopy(network, 0)
    with copied.alone(1) as module:
        assert not torch.equal(module[2].weight, network.module[2].weight)  # type: ignore[index]
        assert torch.equal(module[6].weight, network.module[6].weight)  # type: ignore[index]
        drawn = module[2].weight.clone()  # type: ignore[index]
    assert torch.equal(copied.module[2].weight, network.module[2].weight)  # type: ignore[index]
    copied.randomise(1)
    assert torch.equal(copied.module[2].weight, drawn)  # type: ignore[index]
    assert traces(network.module) == before


def test_a_map_that_looks_at_weights_changes_with_them_and_one_that_does_not_stays() -> None:
    """Eigen-CAM at the first layer knows nothing of the layers behind it."""
    changes = {"methods": ["gradcam", "eigencam"], "layer": "1", "metrics": ["randomisation"], "depths": 3}
    found = tried(tiny(), PHOTOGRAPHS[:1], **changes)
    told = {one["method"]: one["cascading"] for one in found.facts["methods"]}
    assert [depth["layer"] for depth in told["gradcam"]] == ["6", "2", "0"]
    assert [depth["rank_correlation"] for depth in told["eigencam"][:2]] == pytest.approx([1.0, 1.0])
    assert [depth["ssim"] for depth in told["eigencam"][:2]] == pytest.approx([1.0, 1.0])
    assert told["gradcam"][0]["rank_correlation"] < 0.99
    assert abs(told["gradcam"][0]["random"]) < 0.6
    alone = {one["method"]: one["independent"] for one in found.facts["methods"]}
    assert alone["eigencam"][0]["rank_correlation"] == pytest.approx(1.0)
    assert alone["eigencam"][2]["rank_correlation"] == pytest.approx(told["eigencam"][2]["rank_correlation"])


def test_everything_at_once_and_interrupted_has_the_same_bits() -> None:
    changes = {
        "methods": ["gradient", "gradcam"], "layer": "3", "target": "predicted", "metrics": EVERYTHING,
        "boxes": [[0, 0, 20, 20]] * 3,
    }  # fmt: skip
    whole = tried(tiny(), PHOTOGRAPHS, **changes)
    parts = tried(tiny(), PHOTOGRAPHS, interrupted=True, **changes)
    assert whole.facts == parts.facts
    assert whole.arrays.keys() == parts.arrays.keys()
    for name, array in whole.arrays.items():
        assert torch.equal(array.nan_to_num(-7), parts.arrays[name].nan_to_num(-7)), name
    assert {one["random"] for one in whole.facts["methods"]} == {"random-maps", "random-pixels"}
    alone = tried(tiny(), PHOTOGRAPHS[:1], **{**changes, "boxes": [[0, 0, 20, 20]]})
    for name, array in alone.arrays.items():
        assert torch.equal(array[0], whole.arrays[name][0]), name


def test_equal_images_are_asked_once() -> None:
    """Curves of K steps share the whole image and the fills: K − 1 images of each map's own, and two in common."""
    rows: list[int] = []

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny().module

        def forward(self, x: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                rows.append(len(x))
            out: Tensor = self.inner(x)
            return out

    network = FakeNetwork(Counted(), outputs=tiny().outputs)
    rows.clear()
    tried(network, PHOTOGRAPHS[:1], metrics=["deletion", "insertion"], steps=5)
    target, maps = 1, 2
    assert sum(rows) == target + 2 * maps * 4 + 2


def test_counts_are_exact() -> None:
    assert [count_of(step, 4, 10) for step in range(5)] == [0, 3, 5, 8, 10]
    ranks = ranks_of(torch.tensor([[1.0, 3.0], [3.0, 0.0]]))
    assert ranks.tolist() == [[2, 0], [1, 3]]
    assert np.array_equal(ranks_of(torch.zeros(2, 2)).numpy(), [[0, 1], [2, 3]])
