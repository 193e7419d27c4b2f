"""From the numbers of a comparison to its facts: figures for a gate, flips, silent channels, what moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workers.contract import Network, resolved
from workers.methods.compare.alignment import FEWEST_BATCHES, FEWEST_IMAGES, Alignment
from workers.methods.compare.looking import silent

if TYPE_CHECKING:
    from convscope.protocol.operations.compare import CompareRequest

COLUMNS = (
    "prediction/model", "prediction/other", "confidence/model", "confidence/other",
    "logits_difference", "rank_correlation", "mass_moved",
)  # fmt: skip
"""Of an image's row."""
MOST_FLIPS_LISTED = 100

Figures = dict[str, float | None]


def column(rows: Tensor, name: str) -> Tensor:
    """One number of every image."""
    return rows[:, COLUMNS.index(name)]


def flipped(rows: Tensor) -> list[int]:
    """Places of the images whose predicted class differs, those first of which both networks are surest."""
    differs = column(rows, "prediction/model") != column(rows, "prediction/other")
    sure = torch.minimum(column(rows, "confidence/model"), column(rows, "confidence/other"))
    return sorted(differs.nonzero()[:, 0].tolist(), key=lambda place: (-float(sure[place]), place))


def shown_images(rows: Tensor, most: int) -> list[dict[str, Any]]:
    """Which images are shown: those whose evidence moved most, then the surest flips, each once."""
    moved = column(rows, "mass_moved").nan_to_num(0.0)
    order = sorted(range(len(rows)), key=lambda place: (-float(moved[place]), place))
    most_moved = [place for place in order[:most] if float(moved[place]) > 0]
    flips = flipped(rows)
    places = [*most_moved, *(place for place in flips[:most] if place not in most_moved)]
    return [{"image": place, "moved": place in most_moved, "flipped": place in flips} for place in places]


def facts_of(
    networks: Sequence[Network],
    request: CompareRequest,
    rows: Tensor,
    aligned: Alignment | None,
    batches: int,
    ranges: Mapping[tuple[int, str], Tensor],
    shown: Sequence[Mapping[str, Any]],
    targets: Sequence[int | str],
) -> dict[str, Any]:
    """Facts of `compare`."""
    flips = flipped(rows)
    layers = _layers(request, aligned)
    channels = [_channels(layer, ranges[0, layer], ranges[1, layer]) for layer in resolved(request.channel_layers)]
    return {
        "images": len(rows),
        "output": networks[0].outputs.facts(),
        "other_output": networks[1].outputs.facts(),
        "measured": ["value" if one.outputs.link == "value" else "probability" for one in networks],
        "figures": _figures(rows, layers, channels, getattr(request, "truth", None)),
        "layers": layers,
        "cka_batches": batches,
        "flips": [_flip(place, rows, networks) for place in flips[:MOST_FLIPS_LISTED]],
        "channels": channels,
        "shown": [_shown(one, item, rows, networks, targets) for item, one in enumerate(shown)],
        "notes": _notes(len(rows), batches, request, networks),
    }


def _number(value: Tensor | float) -> float | None:
    number = float(value)
    return None if number != number else number


def _layers(request: CompareRequest, aligned: Alignment | None) -> list[dict[str, Any]]:
    found = []
    for place, (layer, other) in enumerate(zip(resolved(request.layers), resolved(request.other_layers), strict=True)):
        cka, low, high = (
            None if aligned is None or one is None else _number(one[place])
            for one in ((aligned.cka, aligned.low, aligned.high) if aligned is not None else (None, None, None))
        )
        found.append({"layer": layer, "other_layer": other, "cka": cka, "low": low, "high": high})
    return found


def _channels(layer: str, ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    before, after = silent(ours), silent(theirs)
    return {
        "layer": layer,
        "channels": len(ours),
        "died": (after & ~before).nonzero()[:, 0].tolist(),
        "woke": (before & ~after).nonzero()[:, 0].tolist(),
        "silent_in_both": int((before & after).sum()),
    }


def _figures(
    rows: Tensor, layers: Sequence[Mapping[str, Any]], channels: Sequence[Mapping[str, Any]], truth: list[int] | None
) -> Figures:
    ours, theirs = column(rows, "prediction/model"), column(rows, "prediction/other")
    figures: Figures = {
        "agreement": float((ours == theirs).double().mean()),
        "flips": float((ours != theirs).sum()),
        "logits.largest_difference": _number(column(rows, "logits_difference").max()),
    }
    if truth is not None:
        right = torch.tensor(truth, dtype=torch.float64)
        figures["accuracy.model"] = float((ours == right).double().mean())
        figures["accuracy.other"] = float((theirs == right).double().mean())
        figures["accuracy.change"] = float((theirs == right).double().mean() - (ours == right).double().mean())
    each = [one["cka"] for one in layers]
    known = [one for one in each if one is not None]
    # A layer without an answer must not pass for one that agrees.
    whole = len(known) == len(each) and bool(known)
    figures["cka.min"] = min(known) if whole else None
    figures["cka.mean"] = sum(known) / len(known) if whole else None
    lows = [one["low"] for one in layers if one["low"] is not None]
    figures["cka.low.min"] = min(lows) if lows and len(lows) == len(each) else None
    figures |= {f"cka.{one['layer']}": one["cka"] for one in layers}
    for name, tail in (("rank_correlation", "p05"), ("mass_moved", "p95")):
        figures |= _spread(f"cam.{name}", column(rows, name), tail)
    figures["channels.died"] = float(sum(len(one["died"]) for one in channels))
    figures["channels.woke"] = float(sum(len(one["woke"]) for one in channels))
    return figures


def _spread(name: str, values: Tensor, tail: str) -> Figures:
    there = values[~values.isnan()]
    if len(there) == 0:
        return {f"{name}.{what}": None for what in ("mean", tail, "worst")}
    share = float(tail[1:]) / 100
    worst = there.min() if share < 0.5 else there.max()
    found = {"mean": there.mean(), tail: torch.quantile(there, share), "worst": worst}
    return {f"{name}.{what}": float(value) for what, value in found.items()}


def _name(network: Network, index: int) -> str | None:
    return network.classes[index] if index < len(network.classes) else None


def _flip(place: int, rows: Tensor, networks: Sequence[Network]) -> dict[str, Any]:
    ours, theirs = (int(column(rows, f"prediction/{side}")[place]) for side in ("model", "other"))
    return {
        "image": place,
        "class": ours,
        "name": _name(networks[0], ours),
        "confidence": float(column(rows, "confidence/model")[place]),
        "other_class": theirs,
        "other_name": _name(networks[1], theirs),
        "other_confidence": float(column(rows, "confidence/other")[place]),
    }


def _shown(
    one: Mapping[str, Any], item: int, rows: Tensor, networks: Sequence[Network], targets: Sequence[int | str]
) -> dict[str, Any]:
    place = one["image"]
    target = str(targets[place])
    name = _name(networks[0], int(target)) if target.isdecimal() else None
    return {
        **_flip(place, rows, networks),
        "item": item,
        "moved": one["moved"],
        "flipped": one["flipped"],
        "target": target,
        "target_name": name,
        "mass_moved": _number(column(rows, "mass_moved")[place]),
        "rank_correlation": _number(column(rows, "rank_correlation")[place]),
        "transforms": one["transforms"],
    }


def _notes(images: int, batches: int, request: CompareRequest, networks: Sequence[Network]) -> list[str]:
    notes = []
    if images < FEWEST_IMAGES:
        notes.append(f"CKA needs at least {FEWEST_IMAGES} images; {images} were given")
    elif batches < FEWEST_BATCHES:
        least = FEWEST_BATCHES * FEWEST_IMAGES
        notes.append(f"CKA has no interval: that is resampled over batches, which takes at least {least} images")
    if request.method == "eigencam":
        notes.append("eigencam knows no class: it shows the strongest component of the layer, whatever the target")
    if networks[0].input_size != networks[1].input_size and request.preprocess is None:
        notes.append("the networks' inputs differ in size; maps are compared where both look at the upload")
    return notes
