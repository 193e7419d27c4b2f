"""How often answers are right: by hand, by slow loops from the formulas, and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics

from convscope.protocol.operations.classify import Judgement
from tests.workers import fakes
from tests.workers.methods.cases import COMMON, network
from workers.contract import Grant, MethodError, Outputs, Row, params
from workers.methods.classify import METHOD
from workers.methods.classify.judging import BINS, judged

SOFTMAX = Outputs("scores", 3, link="softmax")


def test_three_images_by_hand() -> None:
    """Probabilities 1/2, 1/4, 1/4 of the right, a wrong and the right class."""
    logits = torch.log(torch.tensor([[2.0, 1.0, 1.0], [2.0, 1.0, 1.0], [1.0, 1.0, 2.0]]))
    confusion, told = judged(SOFTMAX, logits, [0, 1, 2], ["cat", "dog"])
    Judgement.model_validate(told)
    assert confusion.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]] and told["confusion_classes"] == [0, 1, 2]
    assert (told["right"], told["accuracy"], told["accuracy_top5"]) == (2, pytest.approx(2 / 3), None)
    assert told["accuracy_balanced"] == pytest.approx(2 / 3)
    assert [(one["name"], one["recall"], one["precision"]) for one in told["classes"]] == [
        ("cat", 1.0, 0.5), ("dog", 0.0, None), ("2", 1.0, 1.0),
    ]  # fmt: skip
    (wrong,) = told["wrong"]
    assert (wrong["image"], wrong["truth_name"], wrong["predicted_name"]) == (1, "dog", "cat")
    assert wrong["probability"] == pytest.approx(0.5)
    found = told["calibration"]
    assert found["expected_error"] == found["largest_error"] == pytest.approx(2 / 3 - 0.5)
    assert found["log_loss"] == pytest.approx((2 * math.log(2) + math.log(4)) / 3)
    assert found["brier"] == pytest.approx((2 * (1 / 4 + 2 / 16) + (1 / 4 + 9 / 16 + 1 / 16)) / 3)
    (inside,) = [one for one in found["bins"] if one["images"]]
    assert inside["low"] < 0.5 <= inside["high"] and inside["images"] == 3


def test_many_images_against_scikit_learn_and_a_loop() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 7, 400)
    logits = torch.tensor(generator.normal(size=(400, 9)), dtype=torch.float32)
    logits[torch.arange(400), torch.tensor(truth)] += 1.5
    confusion, told = judged(Outputs("scores", 9, link="softmax"), logits, truth.tolist(), [])
    chances = logits.double().softmax(dim=1).numpy()
    predicted = chances.argmax(axis=1)
    labels = told["confusion_classes"]
    np.testing.assert_array_equal(confusion.numpy(), metrics.confusion_matrix(truth, predicted, labels=labels))
    assert told["accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert told["accuracy_top5"] == pytest.approx(
        metrics.top_k_accuracy_score(truth, logits.numpy(), k=5, labels=range(9))
    )
    assert told["accuracy_balanced"] == pytest.approx(metrics.balanced_accuracy_score(truth, predicted))
    assert told["calibration"]["log_loss"] == pytest.approx(metrics.log_loss(truth, chances, labels=range(9)))
    brier = sum(((chances[k] - np.eye(9)[truth[k]]) ** 2).sum() for k in range(400)) / 400
    assert told["calibration"]["brier"] == pytest.approx(brier)
    expected, largest, sure = 0.0, 0.0, chances.max(axis=1)
    for k in range(BINS):
        members = [n for n in range(400) if k / BINS < sure[n] <= (k + 1) / BINS]
        if members:
            gap = abs(np.mean([sure[n] for n in members]) - np.mean([predicted[n] == truth[n] for n in members]))
            expected, largest = expected + gap * len(members) / 400, max(largest, gap)
    assert told["calibration"]["expected_error"] == pytest.approx(expected)
    assert told["calibration"]["largest_error"] == pytest.approx(largest)
    sureness = [one["probability"] for one in told["wrong"]]
    assert len(sureness) == 100 and sureness == sorted(sureness, reverse=True)
    assert all(one["truth"] != one["predicted"] for one in told["wrong"])


def test_the_order_of_images_does_not_matter() -> None:
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    truth = [k % 3 for k in range(50)]
    turned = list(reversed(range(50)))
    one, told = judged(SOFTMAX, logits, truth, [])
    other, again = judged(SOFTMAX, logits[turned], [truth[k] for k in turned], [])
    assert torch.equal(one, other) and told["classes"] == again["classes"]
    assert told["calibration"]["expected_error"] == pytest.approx(again["calibration"]["expected_error"])


def test_values_have_no_calibration_and_one_output_has_no_right_class() -> None:
    _, told = judged(Outputs("scores", 3, link="value"), torch.eye(3), [0, 1, 1], [])
    assert told["calibration"] is None and told["right"] == 2 and told["wrong"][0]["probability"] is None
    with pytest.raises(MethodError, match="two classes or more"):
        judged(Outputs("scores", 1, link="sigmoid"), torch.ones(2, 1), [0, 0], [])


def test_a_sweep_is_judged_as_a_whole() -> None:
    """Not part by part: the facts are those of one request with all images."""
    images = [fakes.image((30, 26), seed) for seed in range(5)]
    row = Row(params({**COMMON, "top": 2, "truth": [0, 1, 2, 3, 4]}), images)
    right = fakes.outcome(METHOD, network(), row)
    assert right.facts["judgement"]["images"] == 5
    sweep, own = METHOD.of_set(), network()
    states, _ = fakes.finish(sweep.start(own, row, Grant()))  # type: ignore[union-attr]
    while not sweep.done(states[0]):  # type: ignore[union-attr]
        sweep.step(own, states, Grant(slice_s=1e-6))  # type: ignore[union-attr]
    found, _ = fakes.finish(sweep.finish(own, row, states, Grant()))  # type: ignore[union-attr]
    assert found.facts == right.facts and torch.equal(found.arrays["confusion"], right.arrays["confusion"])
