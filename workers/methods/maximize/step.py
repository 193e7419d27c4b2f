"""One step of many ascents together: one forward and backward for a whole tile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import MethodError, Network
from workers.methods.maximize.ascent import PATIENCE, Ascent
from workers.methods.maximize.diversity import earlier_grams, gram, is_ahead, kept_grams, likeness
from workers.methods.maximize.narrow import narrow_activations
from workers.methods.maximize.objectives import read_channels
from workers.methods.maximize.optimizers import blur, climb, penalty
from workers.methods.maximize.parameterizations import parameterization_of
from workers.methods.maximize.recipes import Recipe, generator_of
from workers.methods.maximize.redirect import RedirectMode
from workers.methods.maximize.transforms import draw_noise, draw_views, sample
from workers.passes.batches import on
from workers.passes.replay import can_replay, replayed_activations
from workers.passes.scores import activations


def advance(network: Network, states: Sequence[Ascent]) -> list[MethodError | None]:
    """One forward and backward of a tile, and an update of every row whose views are complete.

    Where a step takes many views (`crops`), each call looks at the next few of each row and adds their gradients up.
    Rows are changed at the very end, so an exception leaves them as they were; a row whose objective the network cannot
    have gets its error and is not changed. Nor is one whose numbers are not finite: as one of several of its job it has
    `diverged`, and the others go on; alone it gets its error. With `diversity`, a row that is a step ahead of another
    of its job is not changed either: its turn comes again.

    Args:
        network: its layers are those that the rows' objectives read.
        states: rows of one recipe.
    """
    held = [bool(row.recipe.diversity) and is_ahead(row, row.family) for row in states]
    with torch.enable_grad():
        groups = [list(states)] if states[0].fast else [[state] for state in states]
        bundles = [_bundle(group) for group in groups]
        inputs = torch.cat([bundle.inputs.detach() for bundle in bundles]).requires_grad_()
        readings, slopes = _look(network, states, inputs)
        silent = _silent_starts(states, slopes)
        if any(silent):
            _, redirected = _look(network, states, inputs, silent)
            slopes = torch.where(torch.tensor(silent, device=slopes.device).view(-1, 1, 1, 1), redirected, slopes)
        parts = torch.split(slopes, [len(bundle.inputs) for bundle in bundles])
        moved = [_moves(bundle, part.clone()) for bundle, part in zip(bundles, parts, strict=True)]
    # What is to be known of the numbers is fetched from the device at once, when all work has been handed to it.
    checks = torch.cat([checks for _, checks in moved]).tolist()
    values = _fetched([reading.value for reading in readings])
    moves = [move for moves, _ in moved for move in moves]
    rows = zip(held, states, readings, values, moves, checks, strict=True)
    return [None if waits else _commit(state, *found) for waits, state, *found in rows]


@dataclass
class _Bundle:
    """Rows whose pictures are made together: one for `exact`, where only the network sees the whole tile."""

    rows: Sequence[Ascent]
    parameters: Tensor  # B×…
    decoded: Tensor  # B×C×H×W, a function of the parameters
    pictures: Tensor  # the same numbers, cut off from them
    inputs: Tensor  # (B·V)×C×h×w, a function of the pictures


def _bundle(rows: Sequence[Ascent]) -> _Bundle:
    recipe = rows[0].recipe
    parameters = torch.stack([row.parameters for row in rows]).requires_grad_()
    decoded = parameterization_of(recipe).decode(parameters)
    pictures = decoded.detach().requires_grad_()
    maps, noises = [], []
    for row in rows:
        chosen = range(row.view, row.view + recipe.views_per_slice)
        drawn = draw_views(recipe, generator_of(row.seed, row.copy, row.step), row.step)
        maps.append(None if drawn is None else drawn[chosen.start : chosen.stop])
        noises.append(draw_noise(recipe, (generator_of(row.seed, row.copy, row.step, view) for view in chosen)))
    placed = [each for each in maps if each is not None]
    in_order = not rows[0].fast
    views = sample(pictures, torch.stack(placed), recipe.input_size, in_order=in_order) if placed else pictures
    added = [each for each in noises if each is not None]
    if added:
        views = views + on(views, torch.cat(added))
    return _Bundle(rows, parameters, decoded, pictures, recipe.normalization.apply(views))


@dataclass
class _Reading:
    """What was read of one row's views: what is to grow, the objective summed over the views, or an error."""

    gain: Tensor | None = None
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
    gains = [reading.gain for reading in readings if reading.gain is not None]
    if not gains:
        return readings, torch.zeros_like(inputs)
    # Downhill, as rectifications are redirected by the gradient of what is minimized.
    (downhill,) = torch.autograd.grad(-torch.stack(gains).sum(), inputs)
    return readings, -downhill


def _fetched(values: Sequence[Tensor | None]) -> list[float]:
    """Numbers from the device; NaN where there is none."""
    there = [value.detach() for value in values if value is not None]
    numbers = iter(torch.stack(there).tolist() if there else ())
    return [math.nan if value is None else next(numbers) for value in values]


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
    if network.most_images is not None:
        return _seen_apart(network, module, inputs, layers, redirect)
    if fast and can_replay(inputs.device) and not redirect and not network.random:  # a graph holds the plain gradients
        return replayed_activations(module, inputs, layers, network.outputs)
    mode: Any = RedirectMode(redirect, inputs.device) if redirect else nullcontext()
    with mode:
        if fast and not states[0].recipe.diversity:
            found = narrow_activations(module, inputs, layers[0], read_channels([row.objective for row in states]))
            if found is not None:
                return {layers[0]: found}
        return activations(module, inputs, layers, network.outputs)


def _seen_apart(
    network: Network, module: nn.Module, inputs: Tensor, layers: Sequence[str], redirect: Sequence[bool]
) -> dict[str, Tensor]:
    """What `_seen` tells, each view in a forward of its own: the network's answers depend on their company."""
    parts = []
    for number, view in enumerate(torch.split(inputs, 1)):
        with RedirectMode(redirect[number : number + 1], inputs.device) if redirect else nullcontext():
            parts.append(activations(module, view, layers, network.outputs))
    return {name: torch.cat([part[name] for part in parts]) for name in layers}


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
        seen = [state.objective.value(view) for view in views]
    except MethodError as error:
        return _Reading(error=error)
    value = seen[0] if len(seen) == 1 else torch.stack(seen).sum()
    if not state.recipe.diversity:
        return _Reading(value, value)
    layer = state.objective.target.layer
    own = gram(views[0][layer])
    rivals = [row for row in state.family if row is not state and row.objective.target.layer == layer]
    others = earlier_grams(state, rivals)
    gain = value - state.recipe.diversity * likeness(own, others) if others else value
    return _Reading(gain, value, own.detach())


@dataclass
class _Move:
    """Where a row would go: slopes summed over the views so far, and, where they are complete, its new place."""

    slopes: Tensor
    parameters: Tensor | None = None
    moments: tuple[Tensor, Tensor] | None = None


def _moves(bundle: _Bundle, input_slopes: Tensor) -> tuple[list[_Move], Tensor]:
    """Where the rows would go; and of each whether its numbers are finite, and whether it has no slope: B×2."""
    rows = bundle.rows
    (slopes,) = torch.autograd.grad(bundle.inputs, bundle.pictures, input_slopes)
    totals = slopes.contiguous()
    if any(row.slopes is not None for row in rows):
        earlier = [torch.zeros_like(slopes[0]) if row.slopes is None else row.slopes for row in rows]
        totals = torch.stack(earlier) + slopes
    smallest, largest = totals.flatten(1).aminmax(dim=1)
    finite, silent = _are_finite(smallest, largest), (largest == 0) & (smallest == 0)
    moves = [_Move(row) for row in totals.unbind(0)]
    if any(_completes(row) for row in rows):
        settled = _settled(bundle, totals, moves)
        finite = finite & _are_finite(*settled.flatten(1).aminmax(dim=1))
    return moves, torch.stack([finite, silent], 1)


def _are_finite(smallest: Tensor, largest: Tensor) -> Tensor:
    """Whether all between them are: both are NaN where there is any."""
    return smallest.isfinite() & largest.isfinite()


def _settled(bundle: _Bundle, totals: Tensor, moves: Sequence[_Move]) -> Tensor:
    """The parameters of all rows after this call, B×…; they and their moments go to the moves of complete rows."""
    recipe, rows = bundle.rows[0].recipe, bundle.rows
    (uphill,) = torch.autograd.grad(bundle.decoded, bundle.parameters, _pushed(recipe, totals, bundle.pictures))
    before = bundle.parameters.detach()
    moments = torch.stack([row.moments[0] for row in rows]), torch.stack([row.moments[1] for row in rows])
    after, moments = climb(recipe, before, uphill, moments, [row.step for row in rows])
    first, second = (moment.unbind(0) for moment in moments)
    settled = list(before.unbind(0))
    for number, (row, parameters) in enumerate(zip(rows, after.unbind(0), strict=True)):
        if _completes(row):
            # A row that goes on by itself must not keep the others' memory.
            settled[number] = _regularized(recipe, parameters, row.step).clone()
            moves[number].parameters = settled[number]
            moves[number].moments = first[number].clone(), second[number].clone()
    return torch.stack(settled)


def _completes(row: Ascent) -> bool:
    return row.view + row.recipe.views_per_slice == row.recipe.crops


def _pushed(recipe: Recipe, slopes: Tensor, pictures: Tensor) -> Tensor:
    """Slopes of pictures: the objective's mean over the views less what each picture is charged, B×C×H×W."""
    mean = slopes / recipe.crops if recipe.crops > 1 else slopes
    charges = [penalty(recipe, picture) for picture in pictures.unbind(0)]
    charged = [charge for charge in charges if charge is not None]
    return mean - torch.autograd.grad(torch.stack(charged).sum(), pictures)[0] if charged else mean


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


def _commit(
    state: Ascent, reading: _Reading, value: float, move: _Move, checks: tuple[bool, bool]
) -> MethodError | None:
    """Change one row by what was found; its error where it cannot go on."""
    if reading.error is not None:
        return reading.error
    finite, silent = checks
    value = state.value + value
    if not (math.isfinite(value) and finite):
        if len(state.family) > 1:
            state.stopped_by = "diverged"
            return None
        where = f"picture {state.index}, step {state.step}"
        return MethodError("numerical-error", f"The loss or its gradient left the finite numbers ({where}).")
    if move.parameters is None or move.moments is None:
        # Not a part of the tile's: a row that goes on by itself must not keep the others' memory.
        state.slopes = move.slopes.clone()
        state.value, state.view = value, state.view + state.recipe.views_per_slice
        return None
    state.losses.append(value / state.recipe.crops)
    state.silent_run = state.silent_run + 1 if silent else 0
    state.silent_steps += silent
    if state.recipe.parameterization == "maco":
        alpha = move.slopes.abs().sum(0)
        state.alpha = alpha if state.alpha is None else state.alpha + alpha
    if reading.gram is not None:
        state.grams = kept_grams(state, reading.gram)
    if state.stop_at is not None and state.losses[-1] >= state.stop_at:
        state.stopped_by = "stop_at"
    if state.stopped_by is None or state.stop_after_update:
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
