"""Images with parts taken away, and where in the figures the answers to them go; equal ones are asked once.

Sources: deletion and insertion Petsiuk 2018 (RISE), section 3.2; drop and increase in confidence Chattopadhay 2018,
section 5.1; ROAD Rong 2022; infidelity Yeh 2019, definition 2.1 with squares as in section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.methods.evaluate.imputation import NOISE, impute

ROAD_SHARES = tuple(part / 10 for part in range(1, 10))
_LEAST_SQUARE, _LARGEST_SQUARE = 0.1, 0.4
"""Sides of infidelity's squares, shares of the shorter side."""

Make = Callable[[], Tensor]


@dataclass
class Probe:
    """One image to ask about: how it is made (1×C×H×W), and the figures' names and columns that its answer goes to."""

    make: Make
    places: list[tuple[str, int]] = field(default_factory=list)


class Probes:
    """All probes of one image.

    Args:
        x: the image as the network sees it, 1×C×H×W.
    """

    def __init__(self, x: Tensor) -> None:
        self._x = x
        self._found: dict[Hashable, Probe] = {}
        self.add("whole", lambda: x, "score", 0)

    def all(self) -> list[Probe]:
        """In the order in which they were first wanted."""
        return list(self._found.values())

    def add(self, key: Hashable, make: Make, name: str, column: int) -> None:
        """Want an answer; an image wanted before is asked once for both."""
        self._found.setdefault(key, Probe(make)).places.append((name, column))

    def delete(self, subject: str, ranks: Tensor, fill: Tensor, kind: str, steps: int) -> None:
        """Pixels become the fill, the most important first; step k of K has round(k·P/K) of P pixels deleted.

        Args:
            ranks: H×W, 0 for the most important pixel.
            fill: 1×C×H×W; `kind` tells it from others.
        """
        self._curve("deletion", subject, ranks, (self._x, fill), ("whole", ("fill", kind)), steps)

    def insert(self, subject: str, ranks: Tensor, fill: Tensor, kind: str, steps: int) -> None:
        """Pixels of the image come into the fill, the most important first."""
        self._curve("insertion", subject, ranks, (fill, self._x), (("fill", kind), "whole"), steps)

    def _curve(
        self,
        name: str,
        subject: str,
        ranks: Tensor,
        images: tuple[Tensor, Tensor],
        ends: tuple[Hashable, Hashable],
        steps: int,
    ) -> None:
        before, after = images
        for step in range(steps + 1):
            changed = ranks < count_of(step, steps, ranks.numel())
            key: Hashable = ends[0] if step == 0 else ends[1] if step == steps else (name, subject, step)
            self.add(key, _chosen(changed, after, before), f"{name}/{subject}", step)

    def mute(self, subject: str, importance: Tensor) -> None:
        """The image times the map's positive part, scaled to a largest value of one; a map without any mutes all."""
        positive = importance.clamp_min(0)
        most = positive.max()
        mask = positive / most if most > 0 else positive
        self.add(("muted", subject), lambda: self._x * mask, f"confidence/{subject}", 0)

    def impute(self, subject: str, ranks: Tensor, seed: int) -> Generator[None, None, None]:
        """ROAD: the most important pixels (`morf`), and the least important ones (`lerf`), imputed.

        Yields after each imputation, which takes a while.
        """
        pixels = ranks.numel()
        generator = torch.Generator().manual_seed(seed)
        for place, share in enumerate(ROAD_SHARES):
            count = round(share * pixels)
            for name, missing in (("road-morf", ranks < count), ("road-lerf", ranks >= pixels - count)):
                noise = NOISE * torch.randn(self._x.shape, generator=generator).to(self._x.device)
                imputed = impute(self._x, missing[None]) + noise * missing
                self.add((name, subject, place), _just(imputed), f"{name}/{subject}", place)
                yield

    def hide(self, squares: Tensor, fill: Tensor) -> None:
        """Infidelity's images: a square of each becomes the fill.

        Args:
            squares: S×H×W bool.
        """
        for place, square in enumerate(squares):
            self.add(("hidden", place), _chosen(square, fill, self._x), "hidden", place)


def ranks_of(importance: Tensor) -> Tensor:
    """Each pixel's place among all, 0 for the most important; equal ones row by row. H×W int64."""
    order = importance.flatten().sort(descending=True, stable=True).indices
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device)
    return ranks.view(importance.shape)


def count_of(step: int, steps: int, pixels: int) -> int:
    """Pixels that have changed after a step: round(step·pixels/steps), halves upwards."""
    return (2 * step * pixels + steps) // (2 * steps)


def draw_squares(count: int, size: tuple[int, int], seed: int) -> Tensor:
    """Squares of random sides at random places within an image, S×H×W bool."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    shorter = min(size)
    found = torch.zeros(count, height, width, dtype=torch.bool)
    for square in found:
        share, down, right = torch.rand(3, generator=generator).tolist()
        side = max(1, round(shorter * (_LEAST_SQUARE + share * (_LARGEST_SQUARE - _LEAST_SQUARE))))
        top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
        square[top : top + side, left : left + side] = True
    return found


def _chosen(where: Tensor, inside: Tensor, outside: Tensor) -> Make:
    return lambda: torch.where(where, inside, outside)


def _just(image: Tensor) -> Make:
    return lambda: image
