"""classify: against plain PyTorch, by hand, and the same alone as in company."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from skimage import data
from torch import nn

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations import operations
from convscope.protocol.operations.classify import ClassifyFacts
from convscope.protocol.problems import ProblemError
from tests.workers.fakes import FakeNetwork, finish, image, outcome, traces
from workers.contract import Grant, MethodError, Row, params
from workers.methods.classify import METHOD
from workers.networks import LoadedNetwork, Networks, load

OPERATION = operations()["classify"]


def request(**changes: Any) -> Any:
    return params({"top": 5, "precision": "exact", "preprocess": None, **changes})


@pytest.fixture(scope="module")
def lite0() -> LoadedNetwork:
    return load("efficientnet_lite0")


def constant(logits: list[float]) -> FakeNetwork:
    """A network whose logits are these numbers plus nothing of the image."""
    head = nn.Linear(3, len(logits))
    nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor(logits)
    return FakeNetwork(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head), size=(8, 8), classes=["ant", "bee"])


def test_by_hand() -> None:
    found = outcome(
        METHOD, constant([0.0, float(np.log(2.0)), 0.0, float(np.log(4.0))]), Row(request(top=3), [image()])
    )
    best = found.facts["predictions"][0]
    assert [entry["index"] for entry in best] == [3, 1, 0]  # 0 and 2 are equal: the lower index
    assert [entry["name"] for entry in best] == ["3", "bee", "ant"]
    assert [entry["probability"] for entry in best] == pytest.approx([0.5, 0.25, 0.125])
    assert best[1]["logit"] == pytest.approx(np.log(2.0))
    assert found.arrays["logits"].shape == (1, 4)


def test_photographs(lite0: LoadedNetwork) -> None:
    before = traces(lite0.module)
    uploads = [torch.from_numpy(pixels.copy()) for pixels in (data.coffee(), data.chelsea())]
    found = outcome(METHOD, lite0, Row(request(), uploads))
    coffee, cat = found.facts["predictions"]
    assert coffee[0]["name"] == "espresso"
    assert coffee[0]["probability"] > 0.9
    assert "Egyptian cat" in [entry["name"] for entry in cat[:2]]
    inputs, _ = lite0.prepare(uploads)
    with torch.no_grad():
        torch.testing.assert_close(found.arrays["logits"], lite0.module(inputs), rtol=1e-5, atol=1e-5)
    assert traces(lite0.module) == before
    ClassifyFacts(**json.loads(json.dumps(found.facts, allow_nan=False)))


def test_company_changes_nothing(lite0: LoadedNetwork) -> None:
    rows = [Row(request(top=k + 1), [image((40 + k, 60), seed=k), image((50, 50), seed=9)]) for k in range(3)]
    together, _ = finish(METHOD.run(lite0, rows, Grant()))
    for row, found in zip(rows, together, strict=True):
        alone = outcome(METHOD, lite0, row)
        assert not isinstance(found, MethodError)
        torch.testing.assert_close(found.arrays["logits"], alone.arrays["logits"], rtol=1e-5, atol=1e-5)
        assert [len(best) for best in found.facts["predictions"]] == [row.request.top] * 2


def test_little_memory_means_small_slices() -> None:
    network = constant([1.0, 2.0])
    rows = [Row(request(top=1), [image(seed=k) for k in range(6)])]
    results, said = finish(METHOD.run(network, rows, Grant(memory_bytes=1)))
    assert not isinstance(results[0], MethodError)
    assert [progress.done for progress in said] == [1, 2, 3, 4, 5]


def test_logits_that_are_not_finite() -> None:
    network = constant([1.0, 2.0])
    head = network.module[2]
    head.weight.data[0, 0] = float("nan")  # type: ignore[index,union-attr]
    results, _ = finish(METHOD.run(network, [Row(request(), [image()])], Grant()))
    assert isinstance(results[0], MethodError)
    assert results[0].problem == "numerical-error"


def test_a_size_that_is_refused() -> None:
    network = load("squeezenet1_1-random")
    small = request(preprocess={"size": [16, 16], "crop": None, "resize_mode": None})
    assert METHOD.group_key(small) != METHOD.group_key(request())
    results, _ = finish(METHOD.run(network, [Row(small, [image()]), Row(small, [image()])], Grant()))
    assert [isinstance(result, MethodError) and result.problem for result in results] == ["not-applicable"] * 2


def test_networks_that_classify_nothing() -> None:
    network = FakeNetwork(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2)))
    results, _ = finish(METHOD.run(network, [Row(request(), [image()])], Grant()))
    assert isinstance(results[0], MethodError)
    assert results[0].problem == "not-applicable"


def test_fast_is_as_good(lite0: LoadedNetwork) -> None:
    upload = [torch.from_numpy(data.coffee().copy())]
    exact = outcome(METHOD, lite0, Row(request(), upload)).arrays["logits"][0]
    fast = outcome(METHOD, lite0, Row(request(precision="fast"), upload)).arrays["logits"][0]
    assert torch.corrcoef(torch.stack([exact, fast]))[0, 1] > 0.999


def test_the_request(tmp_path: Any) -> None:
    card = ModelCard(**Networks(weights_folder=tmp_path).card("alexnet"))
    resolved = OPERATION.resolve(OPERATION.request(image={"id": "a"}, model="alexnet"), card)
    assert resolved.top == 5
    assert [item.id for item in resolved.images] == ["a"]
    assert OPERATION.resolve(resolved, card) == resolved
    assert OPERATION.cost(resolved, card, 2).result_bytes == 8000
    with pytest.raises(ProblemError, match="at least 64 pixels"):
        OPERATION.resolve(OPERATION.request(image={"id": "a"}, preprocess={"size": [32, 32]}), card)
    vit = ModelCard(**Networks(weights_folder=tmp_path).card("vit_b_16"))
    with pytest.raises(ProblemError, match="224×224 pixels only"):
        OPERATION.resolve(OPERATION.request(image={"id": "a"}, preprocess={"size": [256, 256]}), vit)
