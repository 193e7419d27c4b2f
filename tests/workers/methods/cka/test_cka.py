"""The cka method on whole networks: against the double loop, over batches, between networks, and refusing nonsense."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from bench.photographs import crops
from tests.workers.fakes import FakeNetwork, finish, image, outcome, traces
from workers.contract import Grant, MethodError, Row, params
from workers.methods.cka import METHOD
from workers.methods.cka.similarity import Comparison, Estimation, Samples
from workers.networks.build import load
from workers.passes.calls import capture

DEFAULTS: dict[str, Any] = {
    "mode": "channels", "layers": [], "channels": "all", "other_model": None, "other_layers": None, "kernel": "linear",
    "bandwidth": 0.5, "estimator": "biased", "samples": "rows", "features": "flatten", "batch_images": None,
    "permutations": 5, "intervals": 0, "precision": "exact", "preprocess": None, "seed": 0,
}  # fmt: skip


def request(**changes: Any) -> Any:
    return params({**DEFAULTS, **changes})


@pytest.fixture(scope="module")
def vgg11() -> FakeNetwork:
    torch.manual_seed(0)
    return FakeNetwork(torchvision.models.vgg11(weights=None), size=(64, 64))


@pytest.fixture(scope="module")
def small() -> FakeNetwork:
    torch.manual_seed(1)
    layers = [
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3, padding=1),
        nn.ReLU(inplace=True),
    ]
    return FakeNetwork(nn.Sequential(*layers), size=(16, 16))


def by_double_loop(maps: np.ndarray) -> np.ndarray:
    """Kornblith 2019, section 3, as the blog code does it: rows of each map are samples, one pair after another."""
    channels, n, _ = maps.shape
    h = np.eye(n) - np.ones((n, n)) / n

    def measure(k: np.ndarray, other: np.ndarray) -> float:
        return float(np.trace(k @ h @ other @ h)) / (n - 1) ** 2

    grams = [m @ m.T for m in maps]
    matrix = np.full((channels, channels), np.nan)
    for i in range(channels):
        for j in range(channels):
            scale = measure(grams[i], grams[i]) * measure(grams[j], grams[j])
            matrix[i, j] = measure(grams[i], grams[j]) / math.sqrt(scale) if scale > 1e-30 else np.nan
    return matrix


CONVOLUTIONS = [
    "features.0",
    "features.3",
    "features.6",
    "features.8",
    "features.11",
    "features.13",
    "features.16",
    "features.18",
]


def test_every_vgg11_convolution_equals_the_double_loop(vgg11: FakeNetwork) -> None:
    """The whole matrix of every convolution; the loop, slow as it is, on 24 channels of each drawn at random."""
    before = traces(vgg11.module)
    upload = image((64, 64), seed=3)
    found = outcome(METHOD, vgg11, Row(request(layers=CONVOLUTIONS), [upload]))
    inputs, _ = vgg11.prepare([upload])
    with torch.no_grad():
        seen, _ = capture(vgg11.module, inputs, CONVOLUTIONS)
    generator = torch.Generator().manual_seed(0)
    for name in CONVOLUTIONS:
        maps = seen[name][0].double()
        drawn = torch.randperm(len(maps), generator=generator)[:24]
        expected = by_double_loop(maps[drawn].numpy())
        matrix = found.arrays[f"matrix/{name}"]
        assert matrix.shape == (len(maps), len(maps))
        np.testing.assert_allclose(matrix[drawn][:, drawn].numpy(), expected, atol=1e-4, equal_nan=True)
        # Of features in float64 all of it is exact.
        comparison = Comparison([str(k) for k in range(24)], None, Estimation("linear", 0.5, "biased", 0, 0, 0, 1))
        comparison.add(Samples.of_channels(maps[drawn]))
        np.testing.assert_allclose(comparison.summary().matrix.numpy(), expected, atol=1e-10, equal_nan=True)
    assert [m["rows"][:2] for m in found.facts["matrices"]] == [["0", "1"]] * len(CONVOLUTIONS)
    assert traces(vgg11.module) == before


def test_corresponding_stages_of_two_trained_networks_are_the_most_similar() -> None:
    """EfficientNet-Lite0 and Lite1 on crops of photographs, small; docs/methods/cka.md shows 200 crops at full size."""
    networks = [load("efficientnet_lite0"), load("efficientnet_lite1")]
    stages = ["bn1", "blocks.1", "blocks.2", "blocks.4", "bn2"]
    small = {"size": [96, 96], "crop": "center", "resize_mode": None}
    asked = request(
        mode="models", samples=None, layers=stages, other_model="b", other_layers=stages, estimator="debiased",
        preprocess=small,
    )  # fmt: skip
    found = outcome(METHOD, networks[0], Row(asked, crops(36)), Grant(networks={"b": networks[1]}))
    matrix = found.arrays["matrix"]
    assert matrix.argmax(dim=0).tolist() == matrix.argmax(dim=1).tolist() == [0, 1, 2, 3, 4]
    assert found.facts["matrices"][0]["baseline"]["permutation_mean"] == 0.0


def test_several_images_stack_their_rows(small: FakeNetwork) -> None:
    uploads = [image((16, 16), seed) for seed in range(3)]
    found = outcome(METHOD, small, Row(request(layers=["1"]), uploads))
    inputs, _ = small.prepare(uploads)
    with torch.no_grad():
        maps = capture(small.module, inputs, ["1"])[0]["1"].double().numpy()
    expected = by_double_loop(maps.transpose(1, 0, 2, 3).reshape(6, 48, 16))
    np.testing.assert_allclose(found.arrays["matrix/1"].numpy(), expected, atol=1e-4, equal_nan=True)
    assert found.facts["matrices"][0]["samples"] == 48
    assert found.facts["matrices"][0]["baseline"]["floor"] == pytest.approx(16 / (3 * 16 + 16))


def test_positions_are_squared_correlations(small: FakeNetwork) -> None:
    uploads = [image((16, 16), seed) for seed in range(2)]
    found = outcome(METHOD, small, Row(request(layers=["0"], samples="positions"), uploads)).arrays["matrix/0"]
    inputs, _ = small.prepare(uploads)
    with torch.no_grad():
        maps = capture(small.module, inputs, ["0"])[0]["0"].double()
    expected = np.corrcoef(maps.transpose(0, 1).reshape(6, -1).numpy()) ** 2
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_layers_over_images_and_their_labels(small: FakeNetwork) -> None:
    uploads = [image((16, 16), seed) for seed in range(12)]
    found = outcome(
        METHOD, small, Row(request(mode="layers", samples=None, layers=["0", "1", "4"], intervals=20), uploads)
    )
    inputs, _ = small.prepare(uploads)
    with torch.no_grad():
        seen, _ = capture(small.module, inputs, ["0", "1", "4"])
    features = [seen[name].flatten(1).double() for name in ("0", "1", "4")]
    for i, x in enumerate(features):
        for j, y in enumerate(features):
            x0, y0 = x - x.mean(0), y - y.mean(0)
            expected = (x0.T @ y0).norm() ** 2 / ((x0.T @ x0).norm() * (y0.T @ y0).norm())
            assert found.arrays["matrix"][i, j].item() == pytest.approx(expected.item(), abs=1e-5)
    facts = found.facts["matrices"][0]
    assert facts["rows"] == facts["columns"] == ["0", "1", "4"]
    assert facts["features"] == [6 * 256, 6 * 256, 5 * 64]
    assert (found.arrays["interval_low"] <= found.arrays["matrix"]).all()
    assert facts["interval_method"] == "delete-half subsampling of the samples"


def test_two_networks_over_the_same_images(small: FakeNetwork) -> None:
    """A network against a copy of itself: the diagonal of corresponding layers is one."""
    uploads = [image((16, 16), seed) for seed in range(8)]
    asked = request(mode="models", samples=None, layers=["0", "3"], other_model="twin", other_layers=["0", "1", "3"])
    found = outcome(METHOD, small, Row(asked, uploads), Grant(networks={"twin": small})).arrays["matrix"]
    assert found.shape == (2, 3)
    assert found[0, 0].item() == pytest.approx(1, abs=1e-6)
    assert found[1, 2].item() == pytest.approx(1, abs=1e-6)
    assert found[0, 2].item() < 0.999


def test_batches_of_images_sum_their_hsic(small: FakeNetwork) -> None:
    uploads = [image((16, 16), seed) for seed in range(12)]
    asked = {"mode": "layers", "samples": None, "layers": ["0", "4"], "estimator": "debiased"}
    whole = outcome(METHOD, small, Row(request(**asked), uploads))
    parts = outcome(METHOD, small, Row(request(**asked, batch_images=4), uploads))
    assert [w.facts["matrices"][0]["batches"] for w in (whole, parts)] == [1, 3]
    thirds = [outcome(METHOD, small, Row(request(**asked), uploads[k : k + 4])).arrays["hsic"] for k in (0, 4, 8)]
    torch.testing.assert_close(parts.arrays["hsic"], torch.stack(thirds).sum(0), rtol=1e-5, atol=0)


def test_dead_channels_are_null_with_a_reason() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    with torch.no_grad():
        module[0].weight[2] = 0
        module[0].bias[2] = -1
    found = outcome(METHOD, FakeNetwork(module, size=(12, 12)), Row(request(layers=["1"]), [image((12, 12))]))
    assert found.arrays["matrix/1"][2].isnan().all()
    assert found.facts["matrices"][0]["undefined"].keys() == {"2"}


def test_too_few_samples_are_refused(small: FakeNetwork) -> None:
    with pytest.raises(MethodError, match="at least 4 samples, 3 were given"):
        outcome(METHOD, small, Row(request(mode="layers", samples=None, layers=["0"]), [image((16, 16))] * 3))


def test_progress_is_said_and_images_are_read_one_chunk_at_a_time(small: FakeNetwork) -> None:
    class Lazy(list):  # type: ignore[type-arg]
        most = 0

        def __getitem__(self, index: Any) -> Any:
            return image((16, 16), index)

        def __len__(self) -> int:
            return 20

    results, said = finish(METHOD.run(small, [Row(request(layers=["1"], batch_images=5), Lazy())], Grant()))
    assert not isinstance(results[0], MethodError)
    assert [p.done for p in said] == sorted(p.done for p in said)
    assert said[0].total == 4
