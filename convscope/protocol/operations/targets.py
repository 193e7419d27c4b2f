"""Targets of a request made canonical: a class as its index, `predicted`, or a unit of a layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from convscope.protocol.cards import ModelCard
from convscope.protocol.problems import ProblemError, invalid_field
from convscope.protocol.requests import ImageRef, Region, UnitTarget

PREDICTED = "predicted"


def resolve_target(target: int | str | UnitTarget, card: ModelCard, pointer: str = "/target") -> int | str | UnitTarget:
    """A class by index or name as its index, `predicted` as it is, a unit with its layer's canonical name.

    A text that is a class's name is that class, be it digits; else a name matches without regard to case, digits are an
    index, and `-N` is the other side of output N.

    Raises:
        ProblemError: invalid-request for a class that the network does not have, with near names, and for a name that
            several have, with their indices; unknown-layer, channel-out-of-range and not-applicable for a unit.
    """
    if isinstance(target, UnitTarget):
        return resolve_unit(target, card, pointer)
    check_answer(card)
    count = card.class_count
    if isinstance(target, int) and target < 0:
        target = str(target)
    if isinstance(target, str) and target != PREDICTED:
        if (side := _OTHER_SIDE.fullmatch(target)) is not None and target not in card.classes:
            _check_other_side(card, int(side[1]), pointer)
            return f"-{int(side[1])}"
        target = _class_index(target, card, pointer)
    if isinstance(target, int) and not 0 <= target < count:
        several = "" if count == 1 else "es"
        raise invalid_field(
            pointer, f"{card.id} has {count} class{several}, 0 to {count - 1}; {pointer} asks for {target}."
        )
    return target


def check_answer(card: ModelCard) -> None:
    """Refuse what needs the answer of a network whose answer cannot be read.

    Raises:
        ProblemError: `not-applicable`, with what was found.
    """
    if card.outputs is not None and card.outputs.problem is not None:
        raise ProblemError("not-applicable", f"{card.id} has no answer that can be read: {card.outputs.problem}.")


def resolve_region(
    region: Region | None, mask: ImageRef | None, card: ModelCard, pointer: str = "/region"
) -> str | list[int] | None:
    """The region with its default filled in; None for networks that answer in numbers.

    Raises:
        ProblemError: invalid-request.
    """

    def refuse(detail: str) -> ProblemError:
        return invalid_field(pointer, f"{pointer}: {detail}.")

    if not card.dense:
        if region not in (None, "all") or mask is not None:
            raise refuse(f"{card.id} answers by one number a class, which has no regions")
        return None
    if mask is not None and region not in (None, "mask"):
        raise refuse("a mask goes with region=mask")
    if region == "mask" and mask is None:
        raise refuse("region=mask needs an image of the upload's size as `mask`")
    if mask is not None:
        return "mask"
    if isinstance(region, list):
        height, width = card.preprocess.size
        past = 0 if len(region) == 4 else 1
        if region[-2] + past > height or region[-1] + past > width:
            raise refuse(f"{region} lies outside the input of {height}×{width} pixels")
    return region or "all"


def refuse_region(region: Region | None, mask: ImageRef | None) -> None:
    """Refuse a region beside a target that is no class.

    Raises:
        ProblemError: invalid-request.
    """
    if region is not None or mask is not None:
        pointer = "/mask" if region is None else "/region"
        detail = f"{pointer}: a region is of a class; the target is a unit."
        raise invalid_field(pointer, detail)


_OTHER_SIDE = re.compile(r"-([0-9]{1,9})")


def _check_other_side(card: ModelCard, index: int, pointer: str) -> None:
    if index >= card.class_count:
        detail = f"{card.id} has {card.class_count} classes; {pointer} asks for the other side of number {index}."
    elif card.outputs is None or card.outputs.outputs == "softmax":
        count = card.class_count
        detail = (
            f"{card.id} has {count} classes, 0 to {count - 1}; {pointer} asks for -{index}. The other side of a class "
            "is there where each output stands by itself (outputs = sigmoid or value); these share one softmax."
        )
    else:
        return
    raise invalid_field(pointer, detail)


def resolve_unit(unit: UnitTarget, card: ModelCard, pointer: str = "/target") -> UnitTarget:
    """The unit with its layer's canonical name, its channel and position checked.

    Raises:
        ProblemError: unknown-layer, channel-out-of-range, invalid-request.
    """
    layer = card.layer(unit.layer, f"{pointer}/layer")
    if unit.channel >= layer.channels:
        raise ProblemError(
            "channel-out-of-range",
            f"{layer.name} has {layer.channels} channels, 0 to {layer.channels - 1}; "
            f"{pointer}/channel asks for {unit.channel}.",
            layer=layer.name,
            channels=layer.channels,
        )
    if (unit.y is None) != (unit.x is None):
        detail = f"{pointer} needs both y and x, or neither for the mean of the map."
        raise invalid_field(pointer, detail)
    if unit.y is not None and unit.x is not None:
        height, width = layer.shape[1:] if layer.spatial else (1, 1)
        if unit.y >= height or unit.x >= width:
            detail = f"The map of {layer.name} is {height}×{width}; {pointer} asks for position ({unit.y}, {unit.x})."
            raise invalid_field(pointer, detail)
    return unit.model_copy(update={"layer": layer.name})


def target_text(target: object, name: str | None = None) -> str:
    """A canonical target (as JSON) in a few words, for headings.

    Args:
        target: a unit, a class index, or `-N` for the other side of one.
        name: of the class.
    """
    if isinstance(target, dict):
        place = "" if target.get("y") is None else f" ({target['y']}, {target['x']})"
        return f"{target['layer']} channel {target['channel']}{place}"
    text = f"class {target}" if isinstance(target, int) or _OTHER_SIDE.fullmatch(str(target)) else str(target)
    return f"{text} ({name.partition(',')[0]})" if name else text


def _class_index(text: str, card: ModelCard, pointer: str) -> int:
    """The one class that a text names, or whose index it is."""
    folded = [name.casefold() for name in card.classes]
    named = [index for index, name in enumerate(card.classes) if name == text]
    named = named or [index for index, name in enumerate(folded) if name == text.casefold()]
    if len(named) == 1:
        return named[0]
    if named:
        listed = ", ".join(map(str, named[:20])) + (" …" if len(named) > 20 else "")
        detail = f"{card.id} has {len(named)} classes of the name {text!r}, {listed}; ask for one by its index."
        raise invalid_field(pointer, detail, indices=named[:20])
    if re.fullmatch(r"-?[0-9]{1,9}", text):
        return int(text)
    near = _near(text.casefold(), dict.fromkeys(folded))
    hint = f" Near names: {', '.join(card.classes[folded.index(one)] for one in near)}." if near else ""
    detail = f"{card.id} has no class {text!r}.{hint} GET /v1/models/{card.id} lists the classes."
    raise invalid_field(pointer, detail)


def image_target_text(facts: Mapping[str, Any]) -> str:
    """The target of one image's facts (`target`, `target_name`, `other_side`) in a few words, for headings."""
    target = facts["target"]
    return target_text(f"-{target}" if facts.get("other_side") else target, facts["target_name"])


def probability_text(probability: float) -> str:
    """A probability in a heading; one that would be written as zero is said to be less."""
    return "< 0.01" if probability < 0.01 else f"{probability:.2f}"


def region_text(region: object) -> str:
    """A region in a few words, with a space before; empty for all pixels, and where there is none."""
    if region in (None, "all"):
        return ""
    if isinstance(region, str):
        return " in the mask" if region == "mask" else " where it is predicted"
    edges = [int(edge) for edge in region] if isinstance(region, Sequence) else []
    return f" at ({edges[0]}, {edges[1]})" if len(edges) == 2 else f" in {edges[0]},{edges[1]}–{edges[2]},{edges[3]}"


def _near(name: str, names: Iterable[str]) -> list[str]:
    """Five near names at most: those that have the name as a word, shortest first, then those that read alike."""
    names = list(names)
    word = re.compile(rf"\b{re.escape(name)}\b")
    found = sorted((one for one in names if word.search(one)), key=len)
    return list(dict.fromkeys([*found, *get_close_matches(name, names, n=5, cutoff=0.5)]))[:5]
