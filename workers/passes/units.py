"""Which channels and units of an activation a request means."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Wish = list[int] | str
"""A selection as a request states it: indices, `all`, `first:K`, `top:K`, or `strongest` (= top:1)."""


def how_many(wish: str) -> int:
    """K of `first:K` and `top:K`; 1 of a single word such as `strongest`."""
    _, _, number = wish.partition(":")
    return int(number) if number else 1


def choose(wish: Wish, count: int, score: Callable[[], Tensor]) -> list[int]:
    """The indices that a selection means, in the order asked for; strongest first where it ranks.

    Args:
        wish: the selection; one of more than there are gives all.
        count: how many there are.
        score: called where the selection ranks: count numbers; ties go by lower index.
    """
    if isinstance(wish, list):
        return wish
    if wish == "all":
        return list(range(count))
    if wish.startswith("first:"):
        return list(range(min(how_many(wish), count)))
    order: list[int] = score().sort(descending=True, stable=True).indices.tolist()
    return order[: how_many(wish)]


def choose_channels(activation: Tensor, channels: Wish, by: str) -> list[int]:
    """The channels that a selection means on one image.

    Args:
        activation: C×H×W.
        channels: the selection.
        by: `max` or `mean` of a channel's map, what it ranks by.
    """

    def score() -> Tensor:
        values = activation.flatten(1).float()
        return values.amax(1) if by == "max" else values.mean(1)

    return choose(channels, int(activation.shape[0]), score)


def strongest_units(plane: Tensor, count: int) -> list[tuple[int, int]]:
    """(y, x) of the `count` largest values of an H×W map, strongest first, ties in row-major order."""
    order: list[int] = plane.flatten().float().sort(descending=True, stable=True).indices[:count].tolist()
    return [divmod(place, int(plane.shape[1])) for place in order]
