"""Figures of a method over all images, from the rows of numbers, each beside that of a random map."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workers.contract import Network, resolved
from workers.methods.evaluate.randomising import depths_of, layers_of

if TYPE_CHECKING:
    from convscope.protocol.operations.evaluate import EvaluateRequest

Rows = Mapping[str, Tensor]
"""By name, `deletion/gradcam`: N×K, NaN where an image has no such number."""
_FEWEST = 2


def area(curves: Tensor) -> Tensor:
    """The area under each curve of N×(K + 1), by trapezoids over shares from 0 to 1; N."""
    return (curves[:, 1:] + curves[:, :-1]).mean(dim=1) / 2


def drop(muted: Tensor, score: Tensor) -> Tensor:
    """The share of the answer that is lost on the muted image, 0 where nothing is lost; N."""
    return torch.where(score > 0, ((score - muted) / score).clamp_min(0), math.nan)


def _figures(subject: str, rows: Rows) -> dict[str, tuple[Tensor, bool]]:
    """Each figure's numbers, N, and whether higher is better."""

    def of(kind: str) -> Tensor | None:
        return rows.get(f"{kind}/{subject}")

    found: dict[str, tuple[Tensor, bool]] = {}
    whole = rows["score"][:, 0]
    whole_curves: tuple[tuple[str, Callable[[Tensor], Tensor], bool], ...] = (
        ("deletion", area, False),
        ("insertion", area, True),
    )
    for kind, figure, higher in whole_curves:
        curves = of(kind)
        if curves is not None:
            found[kind] = (figure(curves), higher)
    muted = of("confidence")
    if muted is not None:
        found["average_drop"] = (drop(muted[:, 0], whole), False)
        found["average_increase"] = (torch.where(muted[:, 0].isnan(), math.nan, (muted[:, 0] > whole).float()), True)
    morf, lerf = of("road-morf"), of("road-lerf")
    if morf is not None and lerf is not None:
        found["road"] = (((lerf - morf) / 2).mean(dim=1), True)
    singles = {"infidelity": False, "infidelity-scaled": False, "sensitivity-max": False, "sensitivity-mean": False,
               "pointing": True, "mass": True}  # fmt: skip
    for kind, higher in singles.items():
        numbers = of(kind)
        if numbers is not None:
            found[kind.replace("-", "_")] = (numbers[:, 0], higher)
    return found


def judged(method: str, random: str, rows: Rows, request: EvaluateRequest, network: Network) -> dict[str, Any]:
    """One method's facts."""
    baseline = _figures(random, rows)
    figures = []
    for name, (numbers, higher) in _figures(method, rows).items():
        mean, beside = _mean(numbers), _mean(baseline[name][0])
        there = numbers[~numbers.isnan()]
        beats = None if mean is None or beside is None else (mean > beside if higher else mean < beside)
        figures.append(
            {
                "figure": name,
                "mean": mean,
                "deviation": float(there.std()) if len(there) >= _FEWEST else None,
                "random": beside,
                "better": "higher" if higher else "lower",
                "beats_random": beats,
                "images": len(there),
            }
        )
    tests: dict[str, list[dict[str, Any]]] = {"cascading": [], "independent": []}
    if "randomisation" in resolved(request.metrics):
        layers = layers_of(network)
        for place, depth in enumerate(depths_of(layers, request.depths)):
            for test, told in tests.items():
                told.append(
                    {
                        "layer": layers[depth][0],
                        "rank_correlation": _mean(rows[f"{test}/{method}"][:, place]),
                        "rank_correlation_absolute": _mean(rows[f"{test}-absolute/{method}"][:, place]),
                        "ssim": _mean(rows[f"{test}-ssim/{method}"][:, place]),
                        "random": _mean(rows[f"{test}/{random}"][:, place]),
                    }
                )
    return {"method": method, "random": random, "figures": figures, **tests}


def notes_of(request: EvaluateRequest, rows: Rows) -> list[str]:
    """How not to read the figures."""
    notes, metrics = [], set(resolved(request.metrics))
    if {"deletion", "insertion"} & metrics:
        notes.append(
            "deletion and insertion ask about images that no training set has: read them beside the random map and road"
        )
    if "infidelity" in metrics:
        notes.append(
            "infidelity depends on a map's unit, which a CAM and a random map do not have; infidelity_scaled does not"
        )
    if "randomisation" in metrics and {"guided", "guided-gradcam"} & set(request.methods):
        notes.append(
            "guided rules recover the image whatever the weights are (Nie 2018): high correlations are expected"
        )
    if "object-area" in rows and bool(rows["object-area"].isnan().any()):
        notes.append("some boxes lie outside what the network sees of their image; these images have no localisation")
    return notes


def _mean(numbers: Tensor) -> float | None:
    there = numbers[~numbers.isnan()]
    return float(there.double().mean()) if len(there) else None
