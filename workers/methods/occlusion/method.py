"""occlusion: what a network answers while a square hides one part of the image after another."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workers.contract import Grant, MethodError, Network, Outcome, Progress, Row, SingleMethod, resolved
from workers.methods.occlusion.incremental import Tape
from workers.methods.occlusion.recording import NoTape
from workers.passes.batches import module_for, relative_size, repeated_module_for
from workers.passes.calls import capture
from workers.passes.class_targets import (
    NO_CLASS,
    Chooser,
    ClassTarget,
    class_wish,
    mask_in_input,
    read_region,
    without_mask,
)
from workers.passes.pace import Pace
from workers.passes.scores import answer, raw_answer, read_tensor

if TYPE_CHECKING:
    from convscope.protocol.operations.occlusion import Fill, OcclusionRequest

_WINDOWS_CPU, _WINDOWS_GPU = 8, 64
"""Windows in one forward pass at most."""


@dataclass(frozen=True)
class _Answers:
    """What the network says to each of n inputs: of the class, of the map (its sum or a unit), and the top class.

    Attributes:
        answer: the class's probability, or its value where the network gives none.
    """

    answer: Tensor
    activation: Tensor
    top_class: Tensor


class Occlusion(SingleMethod["OcclusionRequest"]):
    """Three maps over the places of a square that hides part of the image.

    Zeiler & Fergus 2013, section 4.2 and figure 7: the probability of the class that the network gives to the whole
    image (or of another target), the total activation of one map, and the most probable class. The paper names neither
    the square's size nor its step; ours are parameters. Squares lie wholly within the input, at corners 0, stride, …

    Two ways that give the same numbers up to rounding: every hidden image through the whole network; or, with
    `incremental`, only what the square touches computed again (`workers.methods.occlusion.incremental`).
    """

    def compute(self, network: Network, row: Row[OcclusionRequest], grant: Grant) -> Generator[Progress, None, Outcome]:
        """See the class.

        Row: one image; request `window`, `stride`, `fill`, `target`, `unit`, `incremental`.

        Arrays, with p × q places:
            probability: 1×p×q float32, or value where the network's numbers are no logits. activation: 1×p×q float32.
            top_class: 1×p×q int32, −1 where the one class there is is not predicted.
        """
        return (yield from _Occluder(network, row, grant).run())


class _Occluder:
    """One row's image under its squares."""

    def __init__(self, network: Network, row: Row[OcclusionRequest], grant: Grant) -> None:
        row, self._mask = without_mask(row)
        request = row.request
        self._network, self._request, self._grant = network, request, grant
        self._outputs = network.outputs
        self._apart = False
        self._module: nn.Module = module_for(network, request)
        inputs, transforms = network.prepare(row.images[:1], request.preprocess)
        self._x, self._transform = inputs, transforms[0]
        self._layer = network.layers[resolved(request.unit.layer)]
        self._patch = self._fill(request.fill)
        window, self._stride = resolved(request.window), resolved(request.stride)
        height, width = (min(window[i], int(inputs.shape[2 + i])) for i in (0, 1))
        self._window = (height, width)
        self._grid = tuple((int(inputs.shape[2 + i]) - self._window[i]) // self._stride[i] + 1 for i in (0, 1))
        self._corners = [
            (row * self._stride[0], column * self._stride[1])
            for row in range(self._grid[0])
            for column in range(self._grid[1])
        ]

    def _fill(self, fill: Fill) -> Tensor:
        """The square's colour as normalised input, C×1×1."""
        planes = int(self._x.shape[1])
        network, wish = self._network, self._request.preprocess
        if fill == "mean":
            mean = network.normalization().undo(self._x.new_zeros(1, planes, 1, 1))
            return network.normalize(mean, wish)[0]
        named: dict[str, list[float]] = {"black": [0] * 3, "grey": [127.5] * 3, "white": [255] * 3}
        colour = named[fill] if isinstance(fill, str) else [float(value) for value in fill]
        if planes not in (1, 3) and len(set(colour)) > 1:
            raise MethodError(
                "not-applicable", f"fill is a colour, and the network takes {planes} planes: mean, black, grey or white"
            )
        shown = colour if planes in (1, 3) else colour[:1] * planes
        image = torch.tensor(shown, dtype=torch.float32, device=self._x.device).view(1, -1, 1, 1) / 255
        return network.normalize(image, wish)[0]

    def run(self) -> Generator[Progress, None, Outcome]:
        """All places, some at a time."""
        clean, activation = self._first()
        channel = self._channel(activation)
        target = self._target(clean)
        baseline = self._answers(clean, activation[:, channel], target)
        tape = self._tape(channel)
        if tape is None:
            self._module = repeated_module_for(self._network, self._request)
        tile = self._tile(tape is not None)
        found: list[_Answers] = []
        for start in range(0, len(self._corners), tile):
            corners = self._corners[start : start + tile]
            if tape is not None:
                told, maps = tape.run(corners, self._patch.expand(-1, *self._window), channel)
                logits = read_tensor(self._outputs, told, len(corners))
            else:
                logits, stack = self._forward(self._hidden(corners))
                maps = stack[:, channel]
            found.append(self._answers(logits, maps, target))
            done = min(start + tile, len(self._corners))
            yield Progress(done, len(self._corners), f"{done} of {len(self._corners)} places")
        answers = _Answers(*(torch.cat([getattr(one, name) for one in found]) for name in _Answers.__annotations__))
        if not bool(answers.answer.isfinite().all() and answers.activation.isfinite().all()):
            raise MethodError("numerical-error", "the network's answers left the finite numbers")
        return self._outcome(answers, baseline, target, channel, tape is not None)

    def _first(self) -> tuple[Tensor, Tensor]:
        """The same as `_forward` of the whole image."""
        logits, maps = self._forward(self._x)
        if self._outputs.ending is None:
            return logits, maps
        # A layer after the network's last softmax or sigmoid is watched in a pass that keeps that.
        self._apart = True
        own = self._forward(self._x)[1]
        self._apart = not torch.equal(own, maps)
        return logits, own

    @torch.no_grad()
    def _forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits n×classes (n×classes×h×w) and the watched layer's maps n×C×h×w."""
        seen, logits = answer(self._module, inputs, self._outputs, [self._layer.name])
        if self._apart:
            seen, _ = capture(self._module, inputs, [self._layer.name])
        maps = seen[self._layer.name].float()
        return logits, maps if maps.dim() == 4 else maps.flatten(1)[:, :, None, None]

    def _target(self, clean: Tensor) -> ClassTarget:
        """The class whose answer is mapped, fixed on the whole image."""
        region = read_region(getattr(self._request, "region", None))
        white = None if self._mask is None else mask_in_input(self._mask, self._transform)
        self._chooser = Chooser(self._outputs, region, self._transform.input_size, white)
        return self._chooser.targets([class_wish(self._request.target)], clean[0])[0]

    def _channel(self, activation: Tensor) -> int:
        """The map asked for, or the one with the largest total activation on the whole image, as in the paper."""
        asked = self._request.unit.channel
        return int(activation[0].double().sum((1, 2)).argmax()) if asked is None else int(asked)

    def _tape(self, channel: int) -> Tape | None:
        """The shortcut, where it is wanted and the network allows it."""
        if not self._request.incremental or not self._layer.spatial or self._apart:
            return None
        if self._network.random or self._network.most_images is not None:
            return None  # what it answers to a part says nothing of the whole
        try:
            tape = Tape(self._module, self._x, self._layer.name, partial(raw_answer, outputs=self._outputs))
        except NoTape:
            return None
        return tape if tape.watched.dim() == 4 and channel < tape.watched.shape[1] else None

    def _tile(self, incremental: bool) -> int:
        """Places at a time, within the memory granted; more where only a part is computed."""
        wish = (_WINDOWS_CPU if self._network.device.type == "cpu" else _WINDOWS_GPU) * (2 if incremental else 1)
        scale = relative_size(self._network, self._x)
        return Pace.by_memory(self._network, self._grant, wish=wish, bytes_a_number=4, scale=scale).rows()

    def _hidden(self, corners: Sequence[tuple[int, int]]) -> Tensor:
        """The input with the square at each place."""
        hidden = self._x.repeat(len(corners), 1, 1, 1).contiguous(memory_format=torch.channels_last)
        for n, (top, left) in enumerate(corners):
            hidden[n, :, top : top + self._window[0], left : left + self._window[1]] = self._patch
        return hidden

    def _answers(self, logits: Tensor, maps: Tensor, target: ClassTarget) -> _Answers:
        unit = self._request.unit
        if unit.y is None:
            activation = maps.double().sum((1, 2)).float()
        else:
            activation = maps[:, unit.y, unit.x]
        chances = target.probabilities(self._outputs, logits)
        told = target.values(logits) if chances is None else chances
        return _Answers(told.float().cpu(), activation.cpu(), self._top(logits).to(torch.int32).cpu())

    def _top(self, logits: Tensor) -> Tensor:
        """The class predicted for each of n inputs; −1 where there is one by itself and its other side is."""
        if self._outputs.count > 1:
            return torch.stack([self._chooser.ranking(one).argmax() for one in logits])
        own = logits.flatten(1).mean(dim=1)
        return torch.where(own > 0, 0, NO_CLASS) if self._outputs.link == "sigmoid" else torch.zeros_like(own)

    def _outcome(
        self, answers: _Answers, baseline: _Answers, target: ClassTarget, channel: int, shortcut: bool
    ) -> Outcome:
        name = "value" if self._outputs.link == "value" else "probability"
        other = "probability" if name == "value" else "value"
        found = {name: answers.answer, "activation": answers.activation, "top_class": answers.top_class}
        arrays = {key: values.view(1, *self._grid) for key, values in found.items()}
        unit = self._request.unit
        classes = self._network.classes
        facts = {
            "target": target.index,
            "other_side": target.other,
            "target_name": target.name(classes),
            "output": self._outputs.facts(),
            "region": getattr(self._request, "region", None),
            "region_pixels": target.pixels,
            "unit": {"layer": self._layer.name, "channel": channel, "y": unit.y, "x": unit.x},
            "baseline": {
                name: float(baseline.answer[0]),
                other: None,
                "activation": float(baseline.activation[0]),
                "top_class": int(baseline.top_class[0]),
            },
            f"lowest_{name}": self._lowest(answers.answer),
            f"lowest_{other}": None,
            "lowest_activation": self._lowest(answers.activation),
            "top_classes": {str(index): self._name(index) for index in sorted(set(answers.top_class.tolist()))},
            "window": list(self._window),
            "stride": list(self._stride),
            "fill": self._request.fill,
            "grid": list(self._grid),
            "incremental": shortcut,
            "transform": self._transform.facts(),
        }
        return Outcome(arrays, facts)

    def _name(self, index: int) -> str | None:
        classes = self._network.classes
        if index == NO_CLASS:
            return f"not {classes[0]}" if classes else "not class 0"
        return classes[index] if index < len(classes) else None

    def _lowest(self, values: Tensor) -> dict[str, Any]:
        place = int(values.argmin())
        top, left = self._corners[place]
        box = [top, left, top + self._window[0], left + self._window[1]]
        return {
            "value": float(values[place]),
            "row": place // self._grid[1],
            "column": place % self._grid[1],
            "box": box,
            "box_in_upload": self._transform.box_in_upload(box),
        }


METHOD = Occlusion()
