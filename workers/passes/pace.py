"""How many rows one forward pass takes, and when a slice has lasted long enough.

The order of additions within a convolution or a matrix product depends on the rows of a pass, and with it the last
bits. A pace by cost or by memory never looks at a clock: its rows, and the bits of `exact`, do not depend on load. A
pace by time learns from the pass before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from typing import TypeVar

import torch

from workers.contract import Grant, Network

T = TypeVar("T")

_PASS_S = 0.2
_MULTIPLICATIONS_A_SECOND = 1.2e11
_NUMBERS_A_SECOND = 6e8
"""Of two cores, fitted to EfficientNet-Lite0 (15 ms an image) and VGG16 (150 ms)."""
_LEAST_SECONDS = 1e-6
"""A row that seems to take less was not measured."""


class Pace:
    """Rows of the next forward pass. Made by `by_cost`, `by_memory` or `by_time`.

    Args:
        first: rows of the first pass.
        most: rows of any pass.
        slice_s: how long a pass should take, seconds; None where no clock is looked at.
    """

    def __init__(self, first: int, most: int, slice_s: float | None) -> None:
        self._rows, self._most, self._slice_s = max(1, min(first, most)), most, slice_s
        self._seconds_a_row = 0.0
        self._began = 0.0

    @classmethod
    def by_cost(cls, network: Network, *, scale: float, most: int) -> Pace:
        """As many rows as take about a fifth of a second by the network's table, always the same number.

        Args:
            scale: pixels of an input, in times of the network's own input size.
            most: rows at most.
        """
        called = [layer for layer in network.layers.values() if not layer.container]
        numbers = sum(math.prod(layer.shape) for layer in called)
        multiplications = sum(
            math.prod(layer.shape) * math.prod((layer.kernel_shape or (0, 0))[1:]) for layer in called
        )
        seconds = scale * (multiplications / _MULTIPLICATIONS_A_SECOND + numbers / _NUMBERS_A_SECOND)
        rows = most_together(network, max(1, min(most, int(_PASS_S / max(seconds, _LEAST_SECONDS)))))
        return cls(rows, rows, None)

    @classmethod
    def by_memory(cls, network: Network, grant: Grant, *, wish: float, bytes_a_number: int, scale: float) -> Pace:
        """As many rows as are wished for and as fit into the memory granted, always the same number.

        Args:
            wish: rows of the network's own input size.
            bytes_a_number: bytes that each number of all the network's layers takes while a pass runs.
            scale: pixels of an input, in times of the network's own input size.
        """
        numbers = scale * sum(torch.Size(layer.shape).numel() for layer in network.layers.values())
        rows = max(1, int(min(wish / scale, grant.memory_bytes / max(bytes_a_number * numbers, 1))))
        rows = most_together(network, rows)
        return cls(rows, rows, None)

    @classmethod
    def by_time(cls, network: Network, grant: Grant, *, first: int, most: int) -> Pace:
        """As many rows as take about a slice's time, by what a row of the last pass took."""
        return cls(first, most_together(network, most), grant.slice_s)

    def rows(self, most: int | None = None, least: int = 1) -> int:
        """Rows of the pass that begins now.

        Args:
            most, least: bounds of this pass; the lower one wins.
        """
        if self._slice_s is not None:
            if self._seconds_a_row:
                self._rows = max(1, int(self._slice_s / max(self._seconds_a_row, _LEAST_SECONDS)))
            self._rows = max(min(self._rows, self._most if most is None else most), least)
            self._began = time.perf_counter()
        return self._rows

    def ran(self, rows: int | None = None) -> None:
        """The pass has run; `rows` where it had fewer than it might."""
        if self._slice_s is not None:
            self._seconds_a_row = (time.perf_counter() - self._began) / (rows or self._rows)

    def timed(self, work: Generator[float, None, T]) -> Generator[float, None, T]:
        """The same generator, each of whose passes teaches how long a row takes."""
        while True:
            try:
                share = next(work)
            except StopIteration as stop:
                value: T = stop.value
                return value
            self.ran()
            yield share


def most_together(network: Network, wish: int) -> int:
    """Images of one forward: as many as wished, fewer where they may not share one."""
    return wish if network.most_images is None else max(1, min(wish, network.most_images))


class SliceClock:
    """Tells when a slice has lasted long enough.

    Args:
        grant: how long it may last.
    """

    def __init__(self, grant: Grant) -> None:
        self._slice_s = grant.slice_s
        self._began = time.monotonic()

    def over(self) -> bool:
        """Whether it has; then the next one begins."""
        now = time.monotonic()
        if now - self._began < self._slice_s:
            return False
        self._began = now
        return True
