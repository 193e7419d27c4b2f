"""A class as a target: its logit, the other side of it, or, of a network that answers in maps, that over a region.

A map's logit over a region is the mean of the class's map over the region's pixels, so that it has a logit's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.contract import MethodError, Outputs, Request, Row
from workers.geometry import Transform
from workers.passes.scores import probabilities
from workers.passes.units import how_many

NO_CLASS = -1
"""Among class indices: nothing is predicted, where each class stands by itself."""

OTHER_SIDE = "-"
"""Before a class index: the other side of an output that stands by itself."""


@dataclass(frozen=True)
class Region:
    """Which pixels of a class's map count.

    Attributes:
        kind: all, predicted (those whose prediction is the class), mask, point or box.
        place: of a point (y, x), of a box (top, left, bottom, right), in pixels of the network's input.
    """

    kind: str = "all"
    place: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class ClassTarget:
    """The number that is differentiated or watched.

    Attributes:
        index: of the class.
        other: whether its other side is meant, whose logit is the negative.
        weights: of the pixels of the class's map, h×w, which add up to one; None of a network that answers in numbers.
        pixels: how many of them count.
    """

    index: int
    other: bool = False
    weights: Tensor | None = None
    pixels: int | None = None

    def values(self, logits: Tensor) -> Tensor:
        """Its logit in those of each image, N×classes or N×classes×h×w; N numbers."""
        own = _over(logits[:, self.index], self.weights)
        return -own if self.other else own

    def value(self, logits: Tensor) -> Tensor:
        """Its logit in those of one image, classes or classes×h×w; 0-d."""
        return self.values(logits[None])[0]

    def probabilities(self, outputs: Outputs, logits: Tensor) -> Tensor | None:
        """Its probability for each image, over a region the mean, float64; None where the numbers are values."""
        found = probabilities(outputs, logits)
        if found is None:
            return None
        own = _over(found[:, self.index], self.weights)
        return 1.0 - own if self.other else own

    def probability(self, outputs: Outputs, logits: Tensor) -> float | None:
        """Its probability in the logits of one image, over a region the mean; None where the numbers are values."""
        found = self.probabilities(outputs, logits[None])
        return None if found is None else float(found[0])

    def name(self, classes: Sequence[str]) -> str | None:
        """Its name, where the class has one."""
        if self.index >= len(classes):
            return None
        return f"not {classes[self.index]}" if self.other else classes[self.index]

    @property
    def text(self) -> str:
        """As in a request."""
        return f"{OTHER_SIDE}{self.index}" if self.other else str(self.index)


def _over(own: Tensor, weights: Tensor | None) -> Tensor:
    """A class's numbers, N or N×h×w, as one an image."""
    if own.dim() == 1:
        return own
    return own.mean(dim=(1, 2)) if weights is None else (own * weights.to(own.dtype)).sum(dim=(1, 2))


WishedRegion = str | Sequence[int]
"""As a request names one: a word, `y, x` or `top, left, bottom, right`."""


def read_region(value: WishedRegion | None) -> Region:
    """A resolved request's region."""
    if value is None or isinstance(value, str):
        return Region(value or "all")
    return Region("point" if len(value) == 2 else "box", tuple(int(edge) for edge in value))


def class_wish(target: object) -> int | str:
    """A resolved request's class: an index, or what else names one."""
    return target if isinstance(target, int) else str(target)


def without_mask(row: Row[Request]) -> tuple[Row[Request], Tensor | None]:
    """The row without the mask that its request sends as the last image, and that mask, uint8 H×W×3."""
    if getattr(row.request, "mask", None) is None or not row.images:
        return row, None
    return replace(row, images=list(row.images)[:-1]), row.images[-1]


def mask_in_input(mask: Tensor, transform: Transform) -> Tensor:
    """A mask of an upload (uint8 H×W×3, white counts) at the pixels of the network's input, bool h×w.

    Raises:
        MethodError: `invalid-request`: it is not of the upload's size.
    """
    size, upload = (int(mask.shape[0]), int(mask.shape[1])), tuple(transform.upload_size)
    if size != upload:
        raise MethodError(
            "invalid-request",
            f"The mask has {size[0]}×{size[1]} pixels and the image {upload[0]}×{upload[1]} (/mask): they must agree.",
        )
    white = mask.float().mean(dim=2) > _GREY
    places, inside = [], []
    for side in (0, 1):
        middle = (torch.arange(transform.input_size[side]) + 0.5) * transform.scale[side] + transform.offset[side]
        place = middle.floor().long()
        inside.append((place >= 0) & (place < upload[side]))
        places.append(place.clamp(0, upload[side] - 1))
    return white[places[0]][:, places[1]] & inside[0][:, None] & inside[1][None, :]


_GREY = 127.5
"""Level above which a pixel of a mask counts."""


def claimed(outputs: Outputs, logits: Tensor) -> Tensor:
    """Which pixels are predicted as which class, bool N×classes×h×w: the most probable one, or each above a half."""
    if outputs.link == "sigmoid":
        return logits > 0
    if outputs.link == "value" and outputs.count == 1:
        raise MethodError(
            "not-applicable",
            "The network answers each pixel by one number of unknown meaning, which predicts nothing; "
            'outputs = "sigmoid" in the catalogue says that it is the logit of a class',
        )
    return F.one_hot(logits.argmax(dim=1), logits.shape[1]).permute(0, 3, 1, 2).bool()


class Chooser:
    """Finds the targets that a request means on an image.

    Args:
        outputs: how the network's output is read.
        region: of networks that answer in maps.
        input_size: (height, width) of the network's input, pixels.
        mask: bool, of that size, where the region is one.
    """

    def __init__(
        self, outputs: Outputs, region: Region, input_size: tuple[int, int], mask: Tensor | None = None
    ) -> None:
        self._outputs, self._region, self._size, self._mask = outputs, region, input_size, mask

    def targets(self, wishes: Sequence[int | str], logits: Tensor) -> list[ClassTarget]:
        """The targets meant, each once, in order.

        Args:
            wishes: class indices, `-N` for an other side, `predicted`, `top:K`.
            logits: of one image, classes or classes×h×w; no gradient is kept.

        Raises:
            MethodError: `invalid-request` for a class that there is not, `not-applicable` for an empty region.
        """
        logits = logits.detach()
        found: dict[tuple[int, bool], ClassTarget] = {}
        for wish in wishes:
            for index, other in self._meant(wish, logits):
                if index >= self._outputs.count:
                    raise MethodError(
                        "invalid-request", f"the network has {self._outputs.count} classes; {wish} was asked for"
                    )
                if (index, other) not in found:
                    found[index, other] = self._target(index, other, logits)
        return list(found.values())

    def _meant(self, wish: int | str, logits: Tensor) -> list[tuple[int, bool]]:
        if isinstance(wish, int):
            return [(wish, False)]
        if wish.startswith(OTHER_SIDE):
            return [(int(wish[1:]), True)]
        count = how_many(wish)
        order = self.ranking(logits).sort(descending=True, stable=True).indices
        return [(int(index), False) for index in order[:count].tolist()]

    def ranking(self, logits: Tensor) -> Tensor:
        """By what classes are predicted on one image: their logits, or their shares of the region's pixels."""
        if logits.dim() == 1 or self._outputs.count == 1:
            return logits.flatten(1).mean(dim=1) if logits.dim() > 1 else logits
        pixels = claimed(self._outputs, logits[None])[0].double()
        if self._region.kind == "predicted":
            return pixels.mean(dim=(1, 2))
        weights, _ = self._weights(None, logits)
        return (pixels * weights).sum(dim=(1, 2))

    def _target(self, index: int, other: bool, logits: Tensor) -> ClassTarget:
        if logits.dim() == 1:
            return ClassTarget(index, other)
        weights, pixels = self._weights(index, logits)
        return ClassTarget(index, other, weights, pixels)

    def _weights(self, index: int | None, logits: Tensor) -> tuple[Tensor, int]:
        """Weights of the pixels, h×w, and how many count."""
        inside = inside_region(self._outputs, self._region, logits, index, self._size, self._mask)
        count = int(inside.sum())
        if not count:
            what = "is predicted as that class" if self._region.kind == "predicted" else "lies in the region"
            raise MethodError(
                "not-applicable", f"no pixel of the network's answer {what}; region=all takes all of them"
            )
        return inside.float() / count, count


def inside_region(
    outputs: Outputs,
    region: Region,
    logits: Tensor,
    index: int | None,
    input_size: tuple[int, int],
    mask: Tensor | None = None,
) -> Tensor:
    """Which pixels of a class's map count, bool h×w.

    Args:
        logits: of one image, classes×h×w.
        index: of the class, which `predicted` needs.
        input_size: in whose pixels the region's place is given.
        mask: bool, any size.
    """
    height, width = int(logits.shape[1]), int(logits.shape[2])
    inside = torch.ones(height, width, dtype=torch.bool, device=logits.device)
    if region.kind == "predicted" and index is not None:
        return claimed(outputs, logits[None])[0, index]
    if region.kind == "mask" and mask is not None:
        given = mask.to(logits.device).float()[None, None]
        return F.interpolate(given, (height, width), mode="area")[0, 0] >= _HALF
    if region.kind in ("point", "box"):
        rows = _range(region.place[0::2], height, input_size[0])
        columns = _range(region.place[1::2], width, input_size[1])
        inside[:] = False
        inside[rows, columns] = True
    return inside


_HALF = 0.5


@dataclass(frozen=True)
class RegionOfPictures:
    """Where a class counts in pictures that are being made; `predicted` is found anew for each of them.

    Attributes:
        input_size: (height, width) of the network's input, in whose pixels the region's place is given.
        mask: one byte a pixel of that size, where the region is one.
    """

    region: Region
    outputs: Outputs
    input_size: tuple[int, int]
    mask: bytes | None = None

    def target(self, index: int, other: bool, logits: Tensor) -> ClassTarget:
        """The class as it counts in one picture, classes×h×w; everywhere as long as it is predicted nowhere."""
        mask = None
        if self.mask is not None:
            mask = torch.frombuffer(bytearray(self.mask), dtype=torch.uint8).view(self.input_size).bool()
        inside = inside_region(self.outputs, self.region, logits.detach(), index, self.input_size, mask)
        count = int(inside.sum())
        if not count:
            inside, count = torch.ones_like(inside), inside.numel()
        return ClassTarget(index, other, inside.float() / count, count)


def region_of_pictures(
    outputs: Outputs, region: Region, input_size: tuple[int, int], mask: Tensor | None
) -> RegionOfPictures:
    """The same with a mask of any size (uint8 H×W×3, white counts), stretched to the network's input."""
    white: bytes | None = None
    if mask is not None and region.kind == "mask":
        grey = mask.float().mean(dim=2)[None, None]
        stretched = F.interpolate(grey, input_size, mode="bilinear", antialias=True, align_corners=False)[0, 0]
        white = (stretched > _GREY).to(torch.uint8).numpy().tobytes()
    return RegionOfPictures(region, outputs, input_size, white)


def _range(edges: Sequence[int], count: int, size: int) -> slice:
    """The pixels of a map's side whose middles lie between two edges in the input, one at least; or that of a place."""
    if len(edges) == 1:
        place = min(edges[0] * count // size, count - 1)
        return slice(place, place + 1)
    # Middle (i + ½)·size/count ≥ edge ⇔ i ≥ edge·count/size − ½.
    first, past = (-((size - 2 * edge * count) // (2 * size)) for edge in edges)
    first = max(0, min(first, count - 1))
    return slice(first, max(first + 1, min(past, count)))
