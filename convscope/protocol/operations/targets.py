"""Targets of a request made canonical: a class as its index, `predicted`, or a unit of a layer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from convscope.protocol.cards import ModelCard
from convscope.protocol.problems import ProblemError, invalid_field
from convscope.protocol.requests import UnitTarget

PREDICTED = "predicted"


def class_count(card: ModelCard) -> int:
    """Outputs of the network."""
    return len(card.classes) or (card.layers[-1].channels if card.layers else 0)


def resolve_target(target: int | str | UnitTarget, card: ModelCard, pointer: str = "/target") -> int | str | UnitTarget:
    """A class by index or name as its index, `predicted` as it is, a unit with its layer's canonical name.

    A text that is a class's name is that class, be it digits; else a name matches without regard to case, and digits
    are an index.

    Raises:
        ProblemError: invalid-request for a class that the network does not have, with near names, and for a name that
            several have, with their indices; unknown-layer, channel-out-of-range and not-applicable for a unit.
    """
    if isinstance(target, UnitTarget):
        return resolve_unit(target, card, pointer)
    if isinstance(target, str) and target != PREDICTED:
        target = _class_index(target, card, pointer)
    count = class_count(card)
    if isinstance(target, int) and not 0 <= target < count:
        detail = f"{card.id} has {count} classes, 0 to {count - 1}; {pointer} asks for {target}."
        raise invalid_field(pointer, detail)
    return target


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
    """A canonical target (as JSON) in a few words, for headings."""
    if isinstance(target, dict):
        place = "" if target.get("y") is None else f" ({target['y']}, {target['x']})"
        return f"{target['layer']} channel {target['channel']}{place}"
    text = f"class {target}" if isinstance(target, int) else str(target)
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


def _near(name: str, names: Iterable[str]) -> list[str]:
    """Five near names at most: those that have the name as a word, shortest first, then those that read alike."""
    names = list(names)
    word = re.compile(rf"\b{re.escape(name)}\b")
    found = sorted((one for one in names if word.search(one)), key=len)
    return list(dict.fromkeys([*found, *get_close_matches(name, names, n=5, cutoff=0.5)]))[:5]
