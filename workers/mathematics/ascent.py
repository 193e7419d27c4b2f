"""One picture's ascent, and one step of many of them together: one forward and backward for a whole tile.

Import rule: torch, workers.contract, workers.mathematics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workers.contract import MethodError, Network
from workers.mathematics.activations import activations
from workers.mathematics.diversity import earlier_grams, gram, is_ahead, kept_grams, likeness, load_grams, save_grams
from workers.mathematics.narrow import narrow_activations
from workers.mathematics.objectives import Objective, read_channels
from workers.mathematics.optimizers import blur, climb, penalty
from workers.mathematics.parameterizations import parameterization_of, to_bytes
from workers.mathematics.recipes import Recipe, generator_of
from workers.mathematics.redirect import RedirectMode
from workers.mathematics.replay import can_replay, replayed_activations
from workers.mathematics.transforms import draw_noise, draw_views, sample

PATIENCE = 8
"""Steps in a row without any gradient, beyond the redirected ones, after which a row has nothing left to climb."""

ENDS = ("steps", "stop_at", "dead", "saturated")
"""Why a row stopped: its steps, its threshold, no gradient from the start on, no gradient any more."""


@dataclass(eq=False)
class Ascent:
    """One picture on its way.

    Attributes:
        copy: how many rows of its job have the same objective and come before it.
        from_image: whether it starts from an image.
        fast: precision `fast`.
        parameters, moments: on the network's device.
        family: all rows of the job, for `diversity`.
        step: done so far; `view` of the present step's crops are done as well.
        slopes, value: sums over those views: d objective / d picture (3×H×W), and the objective.
        losses: the objective's value at each step.
        mean, averaged: of the parameters over the steps that the recipe averages, and how many these are so far.
        silent_run, silent_steps: steps without any gradient, in a row up to now and altogether.
        alpha: sum over steps of |d objective / d picture|, H×W; kept for `maco`.
        grams: by step, the last ones, for `diversity`.
    """

    recipe: Recipe
    objective: Objective
    index: int
    seed: int
    copy: int
    steps: int
    stop_at: float | None
    from_image: bool
    fast: bool
    parameters: Tensor
    moments: tuple[Tensor, Tensor]
    family: list[Ascent] = field(repr=False)
    step: int = 0
    view: int = 0
    slopes: Tensor | None = None
    value: float = 0.0
    losses: list[float] = field(default_factory=list)
    silent_run: int = 0
    silent_steps: int = 0
    stopped_by: str | None = None
    mean: Tensor | None = None
    averaged: int = 0
    alpha: Tensor | None = None
    grams: dict[int, Tensor] = field(default_factory=dict)

    @property
    def dead(self) -> bool:
        """Whether the picture shows nothing: there was no gradient, or it was lost without a gain, or none helped.

        An image that it starts from may excite the objective already, as much as can be.
        """
        if self.stopped_by == "dead":
            return True
        if not self.losses or (self.from_image and max(self.losses) > 0):
            return False
        constant = len(self.losses) > 1 and min(self.losses) == max(self.losses)
        # Above zero, a few small steps may come to the same float32 number.
        constant = constant and (self.losses[0] == 0 or len(self.losses) >= PATIENCE)
        return constant or self.silent_steps == len(self.losses)

    @property
    def shown(self) -> Tensor:
        """The parameters of the picture: their mean over the last steps, but those that reached a threshold."""
        return self.parameters if self.mean is None or self.stopped_by == "stop_at" else self.mean

    def loss_row(self) -> Tensor:
        """The losses, float64, one a step; NaN after the row's end."""
        row = torch.full((self.steps,), math.nan, dtype=torch.float64)
        row[: len(self.losses)] = torch.tensor(self.losses, dtype=torch.float64)
        return row

    def save(self) -> dict[str, Tensor]:
        """Everything that changes, as CPU tensors."""
        numbers = {"index": self.index, "step": self.step, "view": self.view, "taken": len(self.losses)}
        numbers |= {"silent_run": self.silent_run, "silent_steps": self.silent_steps}
        numbers["ended"] = -1 if self.stopped_by is None else ENDS.index(self.stopped_by)
        saved = {name: torch.tensor(number) for name, number in numbers.items()}
        tensors = {"parameters": self.parameters, "first": self.moments[0], "second": self.moments[1]}
        if self.recipe.views_per_slice < self.recipe.crops:
            blank = torch.zeros(3, *self.recipe.size)
            tensors["slopes"] = blank if self.slopes is None else self.slopes
            saved["value"] = torch.tensor(self.value, dtype=torch.float64)
        if self.recipe.average:
            tensors["mean"] = torch.zeros_like(self.parameters) if self.mean is None else self.mean
            saved["averaged"] = torch.tensor(self.averaged)
        if self.alpha is not None:
            tensors["alpha"] = self.alpha
        if self.recipe.diversity:
            saved |= save_grams(self.grams)
        saved["losses"] = self.loss_row()
        return saved | {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Go on from what `save` gave; parameters and moments are the caller's affair."""
        self.step, self.view = int(saved["step"]), int(saved["view"])
        self.silent_run, self.silent_steps = int(saved["silent_run"]), int(saved["silent_steps"])
        ended = int(saved["ended"])
        self.stopped_by = None if ended < 0 else ENDS[ended]
        self.losses = saved["losses"][: int(saved["taken"])].tolist()
        device = self.parameters.device
        if self.view % self.recipe.views_per_slice:
            self.view = 0  # saved by a worker that looks at fewer views in a slice: the step begins anew
        if "slopes" in saved:
            self.slopes = saved["slopes"].to(device) if self.view else None
            self.value = float(saved["value"]) if self.view else 0.0
        if "mean" in saved:
            self.averaged = int(saved["averaged"])
            self.mean = saved["mean"].to(device) if self.averaged else None
        if "alpha" in saved:
            self.alpha = saved["alpha"].to(device)
        if "grams" in saved:
            self.grams = load_grams(saved, device)


def current_picture(state: Ascent) -> Tensor:
    """Where a row stands, as the PNG's pixels: uint8 H×W×3 on the CPU."""
    with torch.no_grad():
        return to_bytes(parameterization_of(state.recipe).decode(state.shown[None]))[0].cpu()


def advance(network: Network, states: Sequence[Ascent]) -> list[MethodError | None]:
    """One forward and backward of a tile, and an update of every row whose views are complete.

    Where a step takes many views (`crops`), each call looks at the next few of each row and adds their gradients up.
    Rows are changed at the very end, so an exception leaves them as they were; a row whose numbers are not finite, or
    whose objective the network cannot have, gets its error and is not changed. With `diversity`, a row that is a step
    ahead of another of its job is not changed either: its turn comes again.

    Args:
        network: its layers are those that the rows' objectives read.
        states: rows of one recipe.
    """
    held = [bool(row.recipe.diversity) and is_ahead(row, row.family) for row in states]
    with torch.enable_grad():
        groups = [list(states)] if states[0].fast else [[state] for state in states]
        bundles = [_bundle(network, group) for group in groups]
        inputs = torch.cat([bundle.inputs.detach() for bundle in bundles]).requires_grad_()
        readings, slopes = _look(network, states, inputs)
        silent = _silent_starts(states, slopes)
        if any(silent):
            _, redirected = _look(network, states, inputs, silent)
            slopes = torch.where(torch.tensor(silent, device=slopes.device).view(-1, 1, 1, 1), redirected, slopes)
        parts = torch.split(slopes, [len(bundle.inputs) for bundle in bundles])
        moves = [move for bundle, part in zip(bundles, parts, strict=True) for move in _moves(bundle, part.clone())]
    rows = zip(held, states, readings, moves, strict=True)
    return [None if waits else _commit(state, reading, move) for waits, state, reading, move in rows]


@dataclass
class _Bundle:
    """Rows whose pictures are made together: one for `exact`, where only the network sees the whole tile."""

    rows: Sequence[Ascent]
    parameters: Tensor  # B×…
    decoded: Tensor  # B×3×H×W, a function of the parameters
    pictures: Tensor  # the same numbers, cut off from them
    inputs: Tensor  # (B·V)×3×h×w, a function of the pictures


def _bundle(network: Network, rows: Sequence[Ascent]) -> _Bundle:
    recipe = rows[0].recipe
    parameters = torch.stack([row.parameters for row in rows]).requires_grad_()
    decoded = parameterization_of(recipe).decode(parameters)
    pictures = decoded.detach().requires_grad_()
    maps, noises = [], []
    for row in rows:
        generator = generator_of(row.seed, row.copy, row.step)
        drawn = draw_views(recipe, generator, row.step)
        noise = draw_noise(recipe, generator, recipe.crops)
        chosen = slice(row.view, row.view + recipe.views_per_slice)
        maps.append(None if drawn is None else drawn[chosen])
        noises.append(None if noise is None else noise[chosen])
    placed = [each for each in maps if each is not None]
    views = sample(pictures, torch.stack(placed), recipe.input_size) if placed else pictures
    added = [each for each in noises if each is not None]
    if added:
        views = views + torch.cat(added).to(views.device)
    return _Bundle(rows, parameters, decoded, pictures, network.normalize(views))


@dataclass
class _Reading:
    """What was read of one row's views: what to minimize, the objective summed over the views, or an error."""

    goal: Tensor | None = None
    value: Tensor | None = None
    gram: Tensor | None = None
    error: MethodError | None = None


def _look(
    network: Network, states: Sequence[Ascent], inputs: Tensor, redirect: Sequence[bool] = ()
) -> tuple[list[_Reading], Tensor]:
    """What is read of each row, and the slopes of what is to grow with regard to the inputs.

    Args:
        redirect: for each view, whether its rectifications may redirect their gradient; empty for none.
    """
    readings = [_read(state, views) for state, views in _forward(network, states, inputs, redirect)]
    goals = [reading.goal for reading in readings if reading.goal is not None]
    if not goals:
        return readings, torch.zeros_like(inputs)
    (downhill,) = torch.autograd.grad(torch.stack(goals).sum(), inputs)
    return readings, -downhill


def _silent_starts(states: Sequence[Ascent], slopes: Tensor) -> list[bool]:
    """For each view, whether it is one of a row's first steps and has no gradient at all."""
    views = len(slopes) // len(states)
    early = [state.step < state.recipe.redirect_steps for state in states for _ in range(views)]
    if not any(early):
        return []
    without = (slopes.flatten(1) == 0).all(1).tolist()
    return [first and zero for first, zero in zip(early, without, strict=True)]


def _seen(network: Network, states: Sequence[Ascent], inputs: Tensor, redirect: Sequence[bool]) -> dict[str, Tensor]:
    """What the rows' objectives read, by layer. Only `fast` may depend on what else is in the tile, or was recorded."""
    layers = sorted({layer for state in states for layer in state.objective.layers})
    fast = states[0].fast
    module = network.lean_module(fast=fast)
    if fast and can_replay(inputs.device) and not redirect:  # a graph holds the plain gradients
        return replayed_activations(module, inputs, layers)
    mode: Any = RedirectMode(redirect, inputs.device) if redirect else nullcontext()
    with mode:
        if fast and not states[0].recipe.diversity:
            found = narrow_activations(module, inputs, layers[0], read_channels([row.objective for row in states]))
            if found is not None:
                return {layers[0]: found}
        return activations(module, inputs, layers)


def _forward(
    network: Network, states: Sequence[Ascent], inputs: Tensor, redirect: Sequence[bool]
) -> list[tuple[Ascent, list[dict[str, Tensor]]]]:
    """Each row with the activations of each of its views by layer."""
    views = len(inputs) // len(states)
    seen = _seen(network, states, inputs, redirect)
    apart = {name: tensor.unbind(0) for name, tensor in seen.items()}
    rows = []
    for number, state in enumerate(states):
        places = range(number * views, (number + 1) * views)
        rows.append((state, [{name: apart[name][place] for name in state.objective.layers} for place in places]))
    return rows


def _read(state: Ascent, views: Sequence[Mapping[str, Tensor]]) -> _Reading:
    try:
        value = torch.stack([state.objective.value(view) for view in views]).sum()
    except MethodError as error:
        return _Reading(error=error)
    if not state.recipe.diversity:
        return _Reading(-value, value.detach())
    layer = state.objective.target.layer
    own = gram(views[0][layer])
    rivals = [row for row in state.family if row is not state and row.objective.target.layer == layer]
    others = earlier_grams(state, rivals)
    goal = -value + state.recipe.diversity * likeness(own, others) if others else -value
    return _Reading(goal, value.detach(), own.detach())


@dataclass
class _Move:
    """Where a row would go: slopes summed over the views so far, and, where they are complete, its new place."""

    slopes: Tensor
    finite: bool
    silent: bool
    parameters: Tensor | None = None
    moments: tuple[Tensor, Tensor] | None = None


def _moves(bundle: _Bundle, input_slopes: Tensor) -> list[_Move]:
    recipe, rows = bundle.rows[0].recipe, bundle.rows
    (slopes,) = torch.autograd.grad(bundle.inputs, bundle.pictures, input_slopes)
    earlier = [torch.zeros_like(slopes[0]) if row.slopes is None else row.slopes for row in rows]
    totals = slopes if all(row.slopes is None for row in rows) else torch.stack(earlier) + slopes
    largest, smallest = totals.flatten(1).amax(1), totals.flatten(1).amin(1)  # NaN where there is any
    finite = (largest.isfinite() & smallest.isfinite()).tolist()
    silent = ((largest == 0) & (smallest == 0)).tolist()
    moves = [_Move(*row) for row in zip(totals, finite, silent, strict=True)]
    if not any(_completes(row) for row in rows):
        return moves
    pushed = torch.stack([_pushed(recipe, *pair) for pair in zip(totals, bundle.pictures.unbind(0), strict=True)])
    (uphill,) = torch.autograd.grad(bundle.decoded, bundle.parameters, pushed)
    parameters = bundle.parameters.detach()
    first = torch.stack([row.moments[0] for row in rows])
    second = torch.stack([row.moments[1] for row in rows])
    moved, (first, second) = climb(recipe, parameters, uphill, (first, second), [row.step for row in rows])
    for number, (row, move) in enumerate(zip(rows, moves, strict=True)):
        if _completes(row):
            move.parameters = _regularized(recipe, moved[number], row.step).clone()
            move.moments = (first[number].clone(), second[number].clone())
            move.finite = move.finite and all(math.isfinite(bound) for bound in move.parameters.aminmax())
    return moves


def _completes(row: Ascent) -> bool:
    return row.view + row.recipe.views_per_slice == row.recipe.crops


def _pushed(recipe: Recipe, slopes: Tensor, picture: Tensor) -> Tensor:
    """Slopes of a picture: the objective's mean over the views less what the picture is charged."""
    mean = slopes / recipe.crops if recipe.crops > 1 else slopes
    charge = penalty(recipe, picture)
    return mean if charge is None else mean - torch.autograd.grad(charge, picture)[0]


def _regularized(recipe: Recipe, parameters: Tensor, step: int) -> Tensor:
    """Decay, blur and clip after a step, in the order of Yosinski's toolbox."""
    parameterization = parameterization_of(recipe)
    if recipe.decay:
        rest = parameterization.rest(parameters)
        parameters = rest + (parameters - rest) * (1.0 - recipe.decay)
    blurs = recipe.blur > 0 and recipe.blur_every > 0 and step % recipe.blur_every == 0
    if not (blurs or recipe.clip_each_step):
        return parameters
    picture = parameterization.decode(parameters[None])[0]
    picture = blur(picture, recipe.blur) if blurs else picture
    return parameterization.of_image(picture.clamp(0.0, 1.0) if recipe.clip_each_step else picture)


def _commit(state: Ascent, reading: _Reading, move: _Move) -> MethodError | None:
    """Change one row by what was found; its error where it cannot go on."""
    if reading.error is not None:
        return reading.error
    assert reading.value is not None
    value = state.value + float(reading.value)
    if not (math.isfinite(value) and move.finite):
        where = f"picture {state.index}, step {state.step}"
        return MethodError("numerical-error", f"The loss or its gradient left the finite numbers ({where}).")
    if move.parameters is None or move.moments is None:
        state.value, state.slopes, state.view = value, move.slopes, state.view + state.recipe.views_per_slice
        return None
    state.losses.append(value / state.recipe.crops)
    state.silent_run = state.silent_run + 1 if move.silent else 0
    state.silent_steps += move.silent
    if state.recipe.parameterization == "maco":
        alpha = move.slopes.abs().sum(0)
        state.alpha = alpha if state.alpha is None else state.alpha + alpha
    if reading.gram is not None:
        state.grams = kept_grams(state, reading.gram)
    if state.stop_at is not None and state.losses[-1] >= state.stop_at:
        state.stopped_by = "stop_at"
    else:
        state.parameters, state.moments = move.parameters, move.moments
    state.step, state.view, state.value, state.slopes = state.step + 1, 0, 0.0, None
    if state.step > state.steps - round(state.recipe.average * state.steps):
        state.averaged += 1
        before = state.parameters if state.mean is None else state.mean
        state.mean = torch.lerp(before, state.parameters, 1 / state.averaged)
    if state.stopped_by is None:
        state.stopped_by = _end(state)
    return None


def _end(state: Ascent) -> str | None:
    """Why a row that has just made a step goes no further; None where it does."""
    if state.silent_run >= PATIENCE and state.step > state.recipe.redirect_steps:
        excited = state.from_image and state.losses[-1] > 0
        return "saturated" if excited or state.losses[-1] > state.losses[0] else "dead"
    return "steps" if state.step >= state.steps else None
