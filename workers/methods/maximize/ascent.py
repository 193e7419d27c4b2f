"""One picture's ascent: where it stands, and what of it is kept in a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.methods.maximize.diversity import load_grams, save_grams
from workers.methods.maximize.objectives import Objective
from workers.methods.maximize.parameterizations import parameterization_of, to_bytes
from workers.methods.maximize.recipes import Recipe
from workers.passes.planes import as_colours

FLASHTORCH_SATURATION, FLASHTORCH_BRIGHTNESS = 0.15, 0.7

PATIENCE = 8
"""Steps in a row without any gradient, beyond the redirected ones, after which a row has nothing left to climb."""

ENDS = ("steps", "stop_at", "dead", "saturated", "diverged")
"""Why a row stopped: its steps, its threshold, no gradient from the start on, no gradient any more, numbers that left
the finite ones while other pictures of its job went on."""


@dataclass(eq=False)
class Ascent:
    """One picture on its way.

    Attributes:
        copy: how many rows of its job have the same objective and come before it.
        from_image: whether it starts from an image.
        stop_after_update: whether a picture that reached its threshold takes the step that found it.
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
    stop_after_update: bool = False
    alpha: Tensor | None = None
    grams: dict[int, Tensor] = field(default_factory=dict)

    @property
    def dead(self) -> bool:
        """Whether the picture shows nothing: there was no gradient, or it was lost without a gain, or none helped.

        An image that it starts from may excite the objective already, as much as can be.
        """
        if self.stopped_by in ("dead", "diverged"):
            return self.stopped_by == "dead"
        if not self.losses or (self.from_image and max(self.losses) > 0):
            return False
        constant = len(self.losses) > 1 and min(self.losses) == max(self.losses)
        # Above zero, a few small steps may come to the same float32 number.
        constant = constant and (self.losses[0] == 0 or len(self.losses) >= PATIENCE)
        return constant or self.silent_steps == len(self.losses)

    @property
    def withheld(self) -> bool:
        """Whether there is no picture to show."""
        return self.dead or self.stopped_by == "diverged"

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
        """Everything that changes, as CPU tensors, which nobody may change: they may be the row's own."""
        numbers = {"index": self.index, "step": self.step, "view": self.view, "taken": len(self.losses)}
        numbers |= {"silent_run": self.silent_run, "silent_steps": self.silent_steps}
        numbers["ended"] = -1 if self.stopped_by is None else ENDS.index(self.stopped_by)
        saved = {name: torch.tensor(number) for name, number in numbers.items()}
        tensors = {"parameters": self.parameters, "first": self.moments[0], "second": self.moments[1]}
        if self.recipe.views_per_slice < self.recipe.crops:
            blank = torch.zeros(self.recipe.planes, *self.recipe.size)
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
        return saved | {name: tensor.detach().cpu() for name, tensor in tensors.items()}

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


def current_planes(state: Ascent) -> Tensor:
    """Where a row stands, rounded to 8 bits: uint8 H×W×C on the CPU."""
    return to_bytes(displayed(state.recipe, current_floats(state))[None])[0].cpu()


def current_floats(state: Ascent) -> Tensor:
    """Where a row stands, as it is: C×H×W, [0, 1] being black to white; what is beyond is not cut off."""
    with torch.no_grad():
        return parameterization_of(state.recipe).decode(state.shown[None])[0]


def displayed(recipe: Recipe, picture: Tensor) -> Tensor:
    """A picture C×H×W as its recipe's source shows it, before it is cut to [0, 1].

    flashtorch: FlashTorch 0.1.3, `utils.standardize_and_clip` with the numbers of `GradientAscent.visualize`, of the
    network's input, all planes together.
    """
    if recipe.display != "flashtorch":
        return picture
    inputs = recipe.normalization.apply(picture[None])[0]
    spread = inputs.std()
    spread = torch.where(spread == 0, spread + 1e-7, spread)
    return (inputs - inputs.mean()) / spread * FLASHTORCH_SATURATION + FLASHTORCH_BRIGHTNESS


def drawn(planes: Tensor) -> Tensor:
    """A row's planes (uint8 H×W×C) as the PNG's pixels: uint8 H×W×3."""
    return as_colours(planes.permute(2, 0, 1)).permute(1, 2, 0).contiguous()


def current_picture(state: Ascent) -> Tensor:
    """Where a row stands, as the PNG's pixels: uint8 H×W×3 on the CPU."""
    return drawn(current_planes(state))
