"""maximize: pictures that make a channel, unit, layer, direction or class as strong as possible, by gradient ascent.

Sources: Erhan et al. 2009; Simonyan et al. 2013, section 2; Olah et al. 2017 (Lucid); Fel et al. 2023 (MACO). The
engine steps the rows of many jobs together; a row is one picture, and nothing of it depends on its company.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.contract import Grant, IterativeMethod, MethodError, Network, Outcome, Progress, Result, Row, resolved
from workers.methods.maximize.ascent import Ascent, current_floats, current_picture, current_planes, drawn
from workers.methods.maximize.diversity import KEPT_STEPS
from workers.methods.maximize.objectives import Objective, Term, read_objective
from workers.methods.maximize.parameterizations import parameterization_of
from workers.methods.maximize.picture_check import check_pictures, covered
from workers.methods.maximize.recipes import Recipe, generator_of, read_recipe
from workers.methods.maximize.step import advance
from workers.passes.calls import capture
from workers.passes.class_targets import (
    ClassTarget,
    RegionOfPictures,
    read_region,
    region_of_pictures,
    without_mask,
)
from workers.passes.pace import SliceClock
from workers.passes.planes import as_grey
from workers.passes.scores import OUTPUT
from workers.passes.units import choose_channels, how_many

if TYPE_CHECKING:
    from convscope.protocol.operations.maximize import MaximizeRequest
    from convscope.protocol.operations.objectives import AnyObjective
    from workers.passes.class_targets import WishedRegion

PREVIEW_SIDE = 512
"""Longer side of a preview, pixels."""
PREVIEWED = 16
"""Pictures of a job that a preview shows, and whose losses are told with its progress."""

SMALL = 4096
"""Numbers of a tensor that is saved together with those of the other rows."""


class Maximize(IterativeMethod["MaximizeRequest", Ascent]):
    """The `maximize` operation.

    Row: request `objective` (a list, one picture each) or `layer` + `channels` that rank by an image; the numbers of
    `workers.methods.maximize.recipes.Recipe`; `steps`, `stop_at`, `start`, `seed`. Images: the start image first where
    `start` is `image`; the others are photographs that the pictures are compared with.

    Arrays: images, K×H×W×3 uint8; loss, K×steps, the objective's value at each step (larger is better), NaN after
    a picture's end; pictures, K×C×H×W float32, as they were made, where `float_pictures` asks; planes, K×C×H×W uint8,
    where the network takes other than colours or grey; channel_means, K×C, of the target's layer on the final 8-bit
    picture; with `maco` also alpha, K×H×W.
    """

    def group_key(self, network: Network, request: MaximizeRequest) -> Hashable:
        return read_recipe(request, network), _layers(request)

    def room(self, network: Network, request: MaximizeRequest) -> tuple[int, int]:
        recipe = read_recipe(request, network)
        # Of a picture's size: parameters, two moments, their mean, and sums over views (slopes and maco's alpha).
        tensors = 3 + (recipe.average > 0) + (recipe.crops > 1) + (recipe.parameterization == "maco")
        numbers = tensors * recipe.planes * math.prod(recipe.size)
        if recipe.diversity:
            numbers += KEPT_STEPS * max(network.layers[layer].shape[0] for layer in _layers(request)) ** 2
        return _pictures(request), 2 * 4 * numbers  # once more in a checkpoint

    def start(
        self, network: Network, row: Row[MaximizeRequest], grant: Grant
    ) -> Generator[Progress, None, list[Ascent]]:
        return _start(network, row, grant)

    def step(self, network: Network, states: Sequence[Ascent], grant: Grant) -> list[MethodError | None]:
        return advance(network, states)

    def done(self, state: Ascent) -> bool:
        return state.stopped_by is not None

    def progress(self, states: Sequence[Ascent], preview: bool) -> Progress:
        total = float(states[0].steps)
        done = sum(total if state.stopped_by else state.step for state in states) / len(states)
        values = [state.losses[-1] for state in states if state.losses]
        running = sum(state.stopped_by is None for state in states)
        message = f"{running} of {len(states)} pictures moving" if running else f"all {len(states)} pictures done"
        if values:
            message += f", mean objective {sum(values) / len(values):.4g}"
        shown = states[:PREVIEWED]
        losses = [state.losses[-1] if state.losses else None for state in shown]
        picture = montage([current_picture(state) for state in shown], PREVIEW_SIDE) if preview else None
        return Progress(done, total, message, picture, losses)

    def finish(
        self, network: Network, row: Row[MaximizeRequest], states: Sequence[Ascent], grant: Grant
    ) -> Generator[Progress, None, Result]:
        return _finish(network, row, states, grant)

    def save(self, states: Sequence[Ascent]) -> dict[str, Tensor]:
        return _stacked([state.save() for state in states])

    def load(
        self, network: Network, row: Row[MaximizeRequest], saved: Mapping[str, Tensor], grant: Grant
    ) -> list[Ascent]:
        recipe, request = read_recipe(row.request, network), row.request
        objectives = _objectives(network, row)
        copies = _copies(objectives)
        family: list[Ascent] = []
        for place, index in enumerate(saved["index"].tolist()):
            own = _of_place(saved, place)
            parameters = own["parameters"].to(network.device)
            moments = (own["first"].to(network.device), own["second"].to(network.device))
            state = _ascent(recipe, objectives[index], request, index, copies[index], parameters, moments, family)
            state.restore(own)
            family.append(state)
        return list(family)


def _stacked(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What rows save: what is small and agrees in shape once for all, else `name/row` for each row that has it.

    What is large is not copied together, as a job of many pictures would take its memory once more.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    found: dict[str, Tensor] = {}
    for name in names:
        tensors = {place: row[name] for place, row in enumerate(rows) if name in row}
        small = all(tensor.numel() <= SMALL for tensor in tensors.values())
        if small and len(tensors) == len(rows) and len({tensor.shape for tensor in tensors.values()}) == 1:
            found[name] = torch.stack(list(tensors.values()))
        else:
            found |= {f"{name}/{place}": tensor for place, tensor in tensors.items()}
    return found


def _of_place(saved: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    """What one row saved."""
    own = {name: tensor[place] for name, tensor in saved.items() if "/" not in name}
    apart = {name.partition("/")[0]: name for name in saved if name.endswith(f"/{place}")}
    return own | {name: saved[full] for name, full in apart.items()}


def _ascent(
    recipe: Recipe,
    objective: Objective,
    request: MaximizeRequest,
    index: int,
    copy: int,
    parameters: Tensor,
    moments: tuple[Tensor, Tensor],
    family: list[Ascent],
) -> Ascent:
    return Ascent(
        recipe=recipe,
        objective=objective,
        index=index,
        seed=int(request.seed),
        copy=copy,
        steps=int(resolved(request.steps)),
        stop_at=request.stop_at,
        stop_after_update=bool(getattr(request, "stop_after_update", False)),
        from_image=request.start == "image",
        fast=request.precision == "fast",
        parameters=parameters,
        moments=moments,
        family=family,
    )


def _layers(request: MaximizeRequest) -> tuple[str, ...]:
    """Every layer that a job's objectives read, OUTPUT for classes."""
    asked = _asked(request)
    if not asked:
        return (resolved(request.layer),)
    return tuple(sorted({layer for one in asked for layer in read_objective(one).layers}))


def _asked(request: MaximizeRequest) -> Sequence[AnyObjective]:
    """A resolved request's objectives, one a picture; none where channels are ranked."""
    objective = request.objective
    return objective if isinstance(objective, list) else [] if objective is None else [objective]


def _objectives(network: Network, row: Row[MaximizeRequest]) -> list[Objective]:
    """One objective for each picture; channels that are ranked are ranked on the first image."""
    request = row.request
    asked = _asked(request)
    if asked:
        size, (_, mask) = read_recipe(request, network).input_size, without_mask(row)

        def region(value: WishedRegion | None) -> RegionOfPictures | None:
            if network.outputs.form != "planes":
                return None
            return region_of_pictures(network.outputs, read_region(value), size, mask)

        return [read_objective(one, region) for one in asked]
    layer = resolved(request.layer)
    inputs, _ = network.prepare(row.images[:1], request.preprocess)
    with torch.no_grad():
        seen, _ = capture(network.module, inputs, [layer])
    assert request.channels is not None
    channels = choose_channels(seen[layer][0], request.channels, "mean")
    return [Objective(((1.0, Term("channel", layer, channel)),)) for channel in channels]


def _pictures(request: MaximizeRequest) -> int:
    """How many pictures a request makes, at most."""
    asked = _asked(request)
    return len(asked) if asked else how_many(str(resolved(request.channels)))


def _copies(objectives: Sequence[Objective]) -> list[int]:
    """How many equal objectives come before each: equal ones start differently; no other place in a list matters."""
    seen: Counter[Objective] = Counter()
    copies = []
    for objective in objectives:
        copies.append(seen[objective])
        seen[objective] += 1
    return copies


def _start(network: Network, row: Row[MaximizeRequest], grant: Grant) -> Generator[Progress, None, list[Ascent]]:
    recipe, request, clock = read_recipe(row.request, network), row.request, SliceClock(grant)
    parameterization = parameterization_of(recipe)
    image = _start_image(network, row, recipe.size) if request.start == "image" else None
    objectives = _objectives(network, row)
    copies = _copies(objectives)
    family: list[Ascent] = []
    for index, objective in enumerate(objectives):
        if clock.over():
            yield Progress(0.0, float(resolved(request.steps)), f"{index} of {len(objectives)} pictures begun")
        if image is None:
            parameters = parameterization.start(generator_of(request.seed, copies[index], -1))
        else:
            parameters = parameterization.of_image(image)
        parameters = parameters.to(network.device)
        moments = (torch.zeros_like(parameters), torch.zeros_like(parameters))
        family.append(_ascent(recipe, objective, request, index, copies[index], parameters, moments, family))
    return list(family)


def _finish(
    network: Network, row: Row[MaximizeRequest], states: Sequence[Ascent], grant: Grant
) -> Generator[Progress, None, Result]:
    row, _ = without_mask(row)
    recipe, request, clock = states[0].recipe, row.request, SliceClock(grant)
    if all(state.stopped_by == "diverged" for state in states):
        steps = sorted(len(state.losses) for state in states)
        return MethodError(
            "numerical-error",
            f"The losses or gradients of all {len(states)} pictures left the finite numbers, after {steps[0]} to "
            f"{steps[-1]} steps.",
        )
    pictures: list[Tensor] = []
    for state in states:
        if clock.over():
            yield Progress(state.steps, state.steps, f"{len(pictures)} of {len(states)} pictures drawn")
        pictures.append(current_planes(state))
    yield Progress(states[0].steps, states[0].steps, "all pictures drawn")
    first = 1 if request.start == "image" else 0  # the photographs come after the image of the start
    checks = yield from check_pictures(network, states, pictures, row, grant, first)
    pairs = zip(states, pictures, strict=True)
    kept = [torch.zeros_like(pixels) if state.withheld else pixels for state, pixels in pairs]
    arrays = {
        "images": torch.stack([drawn(pixels) for pixels in kept]),
        "loss": torch.stack([state.loss_row() for state in states]).float(),
        "channel_means": _padded([check.means for check in checks]),
    }
    if recipe.planes not in (1, 3):
        arrays["planes"] = torch.stack(kept).permute(0, 3, 1, 2).contiguous()
    if getattr(request, "float_pictures", False):
        floats = [current_floats(state).cpu() for state in states]
        pairs = zip(states, floats, strict=True)
        arrays["pictures"] = torch.stack([torch.zeros_like(one) if state.withheld else one for state, one in pairs])
    if recipe.parameterization == "maco":
        blank = torch.zeros(recipe.size)  # of a picture that diverged at once
        arrays["alpha"] = torch.stack([blank if state.alpha is None else state.alpha.cpu() for state in states])
    facts = {
        "parameterization": recipe.parameterization,
        "size": list(recipe.size),
        "references": len(row.images) - first,
        "pictures": [
            {**_told(state, network), **check.facts(), "image_id": None}
            for state, check in zip(states, checks, strict=True)
        ],
        **_answered(network, states),
    }
    return Outcome(arrays, facts)


def _told(state: Ascent, network: Network) -> dict[str, Any]:
    """Facts of one ascent."""
    target = state.objective.target
    return {
        "kind": "sum" if len(state.objective.terms) > 1 else target.kind,
        "layer": None if target.layer == OUTPUT else target.layer,
        "channel": target.channel,
        "class_name": _class_name(network, target) if target.layer == OUTPUT else None,
        "loss_first": state.losses[0] if state.losses else None,
        "loss_last": state.losses[-1] if state.losses else None,
        "steps": len(state.losses),
        "stopped_by": state.stopped_by,
        "dead": state.dead,
        "withheld": state.withheld,
        "steps_without_gradient": state.silent_steps,
    }


def _answered(network: Network, states: Sequence[Ascent]) -> dict[str, Any]:
    """Of the classes that are maximized: how the network's answer is read, and their names."""
    terms = [term for state in states for _, term in state.objective.terms if term.layer == OUTPUT]
    names = {("-" if term.other else "") + str(term.channel): _class_name(network, term) for term in terms}
    return {
        "output": network.outputs.facts() if terms else None,
        "class_names": {index: name for index, name in names.items() if name is not None},
    }


def _class_name(network: Network, term: Term) -> str | None:
    return ClassTarget(term.channel or 0, term.other).name(network.classes)


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """Rows of unequal length as one matrix, NaN at the end of shorter ones."""
    most = max(len(row) for row in rows)
    matrix = torch.full((len(rows), most), torch.nan)
    for number, row in enumerate(rows):
        matrix[number, : len(row)] = row
    return matrix


def montage(pictures: Sequence[Tensor], side: int) -> Tensor:
    """Pictures of one size (uint8 H×W×3) in a nearly square grid, scaled down to fit into `side` pixels."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    height, width = pictures[0].shape[:2]
    shrink = min(1.0, side / (rows * height), side / (columns * width))
    stack = torch.stack(list(pictures)).permute(0, 3, 1, 2).float()
    if shrink < 1.0:
        height, width = max(1, int(height * shrink)), max(1, int(width * shrink))
        stack = F.interpolate(stack, (height, width), mode="bilinear", antialias=True, align_corners=False)
    grid = torch.zeros(rows * columns, 3, height, width)
    grid[: len(stack)] = stack
    whole = grid.view(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2).reshape(rows * height, -1, 3)
    return whole.clamp(0, 255).round().to(torch.uint8)


def _start_image(network: Network, row: Row[MaximizeRequest], size: tuple[int, int]) -> Tensor:
    """The picture to start from, C×H×W in [0, 1]."""
    planes = covered(row.images[0], size)
    given = len(planes)
    if (given, network.planes) == (3, 1):
        return as_grey(planes)
    if (given, network.planes) == (1, 3):
        return planes.expand(3, -1, -1).contiguous()
    if given != network.planes:
        raise MethodError(
            "not-applicable", f"{network.id} takes {network.planes} planes and the start image has {given}"
        )
    return planes


METHOD = Maximize()
