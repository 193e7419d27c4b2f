"""The figures of docs/peers.md are those that `python -m bench.peers` wrote, and its findings are there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.contract.trees import ROOT

TEXT = " ".join((ROOT / "docs" / "peers.md").read_text(encoding="utf-8").split())
ROWS: list[dict[str, Any]] = json.loads((ROOT / "bench" / "results" / "peers.json").read_text(encoding="utf-8"))["rows"]


def of(start: str) -> list[dict[str, Any]]:
    """The rows of a comparison."""
    return [row for row in ROWS if row["what"].startswith(start)]


def test_every_version_is_the_one_measured() -> None:
    for row in ROWS:
        if row["peer"] != "ours":
            assert f"{row['peer']} {row['version']}" in TEXT


@pytest.mark.parametrize(
    ("start", "wording"),
    [
        ("127/128", "logits move by {0:.3f} (`cat`) and {1:.3f} (`coffee`)"),
        ("Display P3", "logits move by {0:.2f} (`cat`) and {1:.2f} (`coffee`)"),
        ("bicubic in tensors, antialias=True", "logits move by {0:.3f} and {1:.3f}"),
        ("bicubic in tensors, antialias=False", "logits move by {0:.2f} and {1:.2f}"),
    ],
)
def test_how_far_logits_move(start: str, wording: str) -> None:
    cat, coffee = of(start)
    assert wording.format(cat["largest_difference"], coffee["largest_difference"]) in TEXT
    assert f"largest are {of('127/128')[0]['largest_logit']:.2f} and {of('127/128')[1]['largest_logit']:.2f}" in TEXT


def test_the_other_figures() -> None:
    (size,), (occlusion,), (cka,), (flipping,) = map(of, ("accuracy", "occlusion", "debiased", "PixelFlipping"))
    sharp = [row["levels_apart"] for row in of("bicubic in tensors, antialias=False")]
    magnitudes, signed = (row["theirs_to_ours"] for row in of("VarGrad"))
    guided = {row["peer"]: row["correlation_with_gradient"] for row in of("guided")}
    for said in (
        f"{size['count']} of {size['of']} architectures",
        f"{size['levels_apart_with_the_entry']:.0f} levels apart",
        f"up to {sharp[0]:.0f} and {sharp[1]:.0f} levels",
        f"{occlusion['peer_places']} places, {occlusion['peer_clipped']} of them clipped",
        f"clipped, against {occlusion['ours_places']}",
        f"{magnitudes:.2f} of ours on `cat`; {signed:.2f} with `abs=False`",
        f"gradient to {guided['captum']:.2f}, ours to {abs(guided['ours']):.2f}",
        f"mean {cka['peer_mean']:.3f} against {cka['ours_mean']:.3f}, {cka['peer_zero']} of them 0",
        f"{flipping['steps']} steps, not 32; the first touches {flipping['pixels_touched_in_first_step']} pixels",
    ):
        assert said in TEXT, said
    (spectrum,) = of("spectrum")
    assert (spectrum["shape"], spectrum["row"], spectrum["column"]) == ("(3, 512, 257)", 0, 0)
    assert guided["captum"] == guided["zennit"] and cka["apart_above_zero"] < 1e-6
    assert cka["ours_negative"] == cka["peer_zero"]
