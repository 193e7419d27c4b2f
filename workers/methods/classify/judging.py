"""How often answers are right, which classes are taken for which, and whether probabilities mean what they say.

Sources: Guo et al. 2017, "On Calibration of Modern Neural Networks", equations 2 to 5 (reliability diagram, expected
and maximum calibration error over bins of equal width); Brier 1950 (mean over images of the squared distance to the
right answer, summed over classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workers.contract import MethodError, Outputs
from workers.passes.scores import probabilities

BINS = 15
"""Of calibration, as in Guo 2017."""
MOST_WRONG = 100
_TOP = 5


def judged(
    outputs: Outputs, logits: Tensor, truth: Sequence[int], names: Sequence[str]
) -> tuple[Tensor, dict[str, Any]]:
    """The confusion of the classes that occur, and the facts about all images.

    Args:
        outputs: what the network's numbers are.
        logits: N×classes, float32; of numbers that are values those.
        truth: the right class of each image.
        names: of classes, by index; may be shorter.

    Returns:
        Images by right class (rows) and predicted class (columns), int64, of the classes in `confusion_classes`; facts
        as `Judgement` of the operation has them.

    Raises:
        MethodError: `not-applicable` where the network has one output or answers in maps.
    """
    if outputs.form != "scores" or logits.shape[1] < 2:
        raise MethodError(
            "not-applicable", "truth is for networks of two classes or more that answer with a number each"
        )
    right = torch.tensor(truth)
    order = logits.sort(dim=1, descending=True, stable=True).indices
    predicted = order[:, 0]
    hit = predicted == right
    within = (order[:, :_TOP] == right[:, None]).any(dim=1)
    classes = torch.unique(torch.cat([right, predicted]))
    place = torch.searchsorted(classes, torch.stack([right, predicted]))
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    confusion.index_put_((place[0], place[1]), torch.ones(len(right), dtype=torch.int64), accumulate=True)
    chances = probabilities(outputs, logits)
    sure = None if chances is None else chances.gather(1, predicted[:, None])[:, 0]
    by_class = _by_class(classes, confusion, names)
    recalls = [one["recall"] for one in by_class if one["recall"] is not None]
    facts = {
        "images": len(right),
        "right": int(hit.sum()),
        "accuracy": float(hit.double().mean()),
        "accuracy_top5": float(within.double().mean()) if logits.shape[1] > _TOP else None,
        "accuracy_balanced": sum(recalls) / len(recalls),
        "classes": by_class,
        "confusion_classes": classes.tolist(),
        "wrong": _wrong(hit, right, predicted, sure, names),
        "calibration": None,
    }
    if outputs.link == "softmax" and chances is not None and sure is not None:
        facts["calibration"] = _calibration(chances, right, sure, hit)
    return confusion, facts


def _by_class(classes: Tensor, confusion: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """Of each class that occurs: its images, and how many of these and of those predicted as it are right."""
    told = []
    for k, index in enumerate(classes.tolist()):
        images, found, right = int(confusion[k].sum()), int(confusion[:, k].sum()), int(confusion[k, k])
        told.append(
            {
                "index": index,
                "name": _name(names, index),
                "images": images,
                "predicted": found,
                "right": right,
                "recall": right / images if images else None,
                "precision": right / found if found else None,
            }
        )
    return told


def _wrong(
    hit: Tensor, right: Tensor, predicted: Tensor, sure: Tensor | None, names: Sequence[str]
) -> list[dict[str, Any]]:
    """The images that are wrong, those first of which the network is surest."""
    places = (~hit).nonzero().flatten()
    if sure is not None:
        places = places[sure[places].sort(descending=True, stable=True).indices]
    return [
        {
            "image": place,
            "truth": int(right[place]),
            "truth_name": _name(names, int(right[place])),
            "predicted": int(predicted[place]),
            "predicted_name": _name(names, int(predicted[place])),
            "probability": None if sure is None else float(sure[place]),
        }
        for place in places[:MOST_WRONG].tolist()
    ]


def _calibration(chances: Tensor, right: Tensor, sure: Tensor, hit: Tensor) -> dict[str, Any]:
    """Guo 2017: bins (k/M, (k + 1)/M] of the predicted class's probability."""
    number = (sure * BINS).ceil().long().clamp(1, BINS) - 1
    bins, expected, largest = [], 0.0, 0.0
    for k in range(BINS):
        inside = number == k
        images = int(inside.sum())
        confidence = float(sure[inside].mean()) if images else None
        accuracy = float(hit[inside].double().mean()) if images else None
        if confidence is not None and accuracy is not None:
            gap = abs(confidence - accuracy)
            expected += gap * images / len(sure)
            largest = max(largest, gap)
        ends = {"low": k / BINS, "high": (k + 1) / BINS}
        bins.append({**ends, "images": images, "confidence": confidence, "accuracy": accuracy})
    given = chances.gather(1, right[:, None])[:, 0]
    distance = (chances**2).sum(dim=1) - 2 * given + 1
    return {
        "expected_error": expected,
        "largest_error": largest,
        # A probability that rounds to nothing is not infinitely wrong.
        "log_loss": float(-given.clamp(min=torch.finfo(torch.float64).tiny).log().mean()),
        "brier": float(distance.mean()),
        "bins": bins,
    }


def _name(names: Sequence[str], index: int) -> str:
    return names[index] if index < len(names) else str(index)
