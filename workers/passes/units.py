"""Which channels and units of an activation a request means."""

from __future__ import annotations

from torch import Tensor


def choose_channels(activation: Tensor, channels: list[int] | str, by: str) -> list[int]:
    """Channel indices that a selection gives on one image.

    Args:
        activation: C×H×W.
        channels: indices, `all`, `first:K`, `top:K` or `strongest`; more than there are gives all.
        by: `max` or `mean`, what the last two rank by; ties by lower index.

    Returns:
        Indices in the order asked for; strongest first where ranked.
    """
    if isinstance(channels, list):
        return channels
    count = int(activation.shape[0])
    word, _, number = channels.partition(":")
    if word == "all":
        return list(range(count))
    if word == "first":
        return list(range(min(int(number), count)))
    values = activation.flatten(1).float()
    score = values.amax(1) if by == "max" else values.mean(1)
    order: list[int] = score.sort(descending=True, stable=True).indices.tolist()
    return order[: int(number) if number else 1]


def strongest_units(plane: Tensor, count: int) -> list[tuple[int, int]]:
    """(y, x) of the `count` largest values of an H×W map, strongest first, ties in row-major order."""
    order: list[int] = plane.flatten().float().sort(descending=True, stable=True).indices[:count].tolist()
    return [divmod(place, int(plane.shape[1])) for place in order]
