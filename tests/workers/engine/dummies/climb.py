"""An iterative method: gradient ascent of a few numbers through the network."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.contract import Grant, IterativeMethod, MethodError, Network, Outcome, Progress, Result, Row


@dataclass
class State:
    """One picture: its parameters, the optimizer's moment, the step, and what the request wants of it."""

    value: Tensor
    moment: Tensor
    step: int
    request: Any
    alone: bool


class Climb(IterativeMethod):
    """`act` of the request: none, nan-at:K, raise-at:K, exit-at:K, oom-above:N, refuse-checkpoint."""

    largest_tile = 0

    def group_key(self, network: Network, request: Any) -> Hashable:
        return ("climb", getattr(request, "cut", 0))

    def start(self, network: Network, row: Row, grant: Grant) -> Generator[Progress, None, list[Any]]:
        states = [self._first(row, picture) for picture in range(row.request.pictures)]
        yield from self._slowly(row)
        return states

    def _slowly(self, row: Row) -> Generator[Progress, None, None]:
        if getattr(row.request, "slow_start", False):
            yield Progress(0, 1, "slowly")
            yield Progress(0, 1, "slowly")

    def _first(self, row: Row, picture: int) -> State:
        generator = torch.Generator().manual_seed(row.request.seed + picture)
        value = torch.randn(16, generator=generator)
        return State(value, torch.zeros(16), 0, row.request, row.request.pictures == 1)

    def step(self, network: Network, states: Sequence[Any], grant: Grant) -> list[MethodError | None]:
        Climb.largest_tile = max(Climb.largest_tile, len(states))
        for state in states:
            kind, _, at = getattr(state.request, "act", "").partition(":")
            if kind == "raise-at" and state.step == int(at):
                raise RuntimeError("a bug in the method")
            if kind == "exit-at" and state.step == int(at):
                os._exit(139)
            if kind == "oom-above" and len(states) > int(at):
                raise torch.OutOfMemoryError("no memory for this tile")
        pause_s = max(getattr(state.request, "step_s", 0.0) for state in states)
        if pause_s:  # nothing to wait for where a test has changed the clocks under us
            time.sleep(pause_s)
        inputs = torch.stack([state.value for state in states]).requires_grad_(True)
        (slopes,) = torch.autograd.grad(network.module(inputs).square().sum(), inputs)
        errors: list[MethodError | None] = []
        for state, slope in zip(states, slopes, strict=True):
            kind, _, at = getattr(state.request, "act", "").partition(":")
            if kind == "nan-at" and state.step == int(at):
                errors.append(MethodError("numerical-error", "The loss left the finite numbers."))
                continue
            state.moment = 0.9 * state.moment + 0.1 * slope
            state.value = (state.value + 0.1 * state.moment / (state.moment.norm() + 1e-6)).detach()
            state.step += 1
            errors.append(None)
        return errors

    def done(self, state: Any) -> bool:
        return bool(state.step >= state.request.steps)

    def progress(self, states: Sequence[Any], preview: bool) -> Progress:
        taken = sum(state.step for state in states) / len(states)
        picture = torch.full((4, 4, 3), 7, dtype=torch.uint8) if preview else None
        return Progress(taken, states[0].request.steps, "climbing", picture)

    def finish(
        self, network: Network, row: Row, states: Sequence[Any], grant: Grant
    ) -> Generator[Progress, None, Result]:
        values = torch.stack([state.value for state in states]) if states else torch.zeros(0, 16)
        count = len(states)
        pictures = torch.arange(count * 48, dtype=torch.int64).remainder(256).to(torch.uint8).reshape(count, 4, 4, 3)
        facts = {"steps": [state.step for state in states], "pictures": [{"image_id": None} for _ in states]}
        outcome = Outcome({"values": values, "pictures": pictures}, facts)
        yield from self._slowly(row)
        return outcome

    def save(self, states: Sequence[Any]) -> dict[str, Tensor]:
        return {
            "value": torch.stack([state.value for state in states]),
            "moment": torch.stack([state.moment for state in states]),
            "step": torch.tensor([state.step for state in states]),
        }

    def load(self, network: Network, row: Row, saved: Mapping[str, Tensor], grant: Grant) -> list[Any]:
        if getattr(row.request, "act", "") == "refuse-checkpoint":
            raise ValueError("not this one")
        alone = row.request.pictures == 1
        return [
            State(value.clone(), moment.clone(), int(step), row.request, alone)
            for value, moment, step in zip(saved["value"], saved["moment"], saved["step"], strict=True)
        ]


METHOD = Climb()
