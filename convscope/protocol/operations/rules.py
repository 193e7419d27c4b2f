"""Rules of the way back through a rectification, and where they are not defined."""

from __future__ import annotations

from typing import Literal

from convscope.protocol.cards import LayerCard, ModelCard
from convscope.protocol.operations.base import check_applicable
from convscope.protocol.problems import ProblemError

Rule = Literal["deconvnet", "guided", "gradient"]


BENT_GATES = frozenset({"silu", "gelu", "hardswish", "mish", "elu", "selu", "celu", "softplus"})
"""Activations without a flat negative side: deconvnet and guided rules are not defined for them."""


def check_rule(operation: str, layer: LayerCard, card: ModelCard, rule: str, nonstandard_gate: bool) -> None:
    """Refuse a rule where the gates before the layer have none, and layers at which the operation has no meaning.

    Raises:
        ProblemError: `not-applicable`, with what would be possible.
    """
    shape = layer.methods.get("feature-maps")
    if shape is not None:
        possible = [other.name for other in card.layers if other.methods.get(operation, "") is None][-5:]
        raise ProblemError(
            "not-applicable",
            f"{operation} cannot be used at {layer.name} of {card.id}: {shape}. "
            f"Possible for instance: {', '.join(possible) or 'no layer of this network'}.",
            possible=possible,
        )
    before = {one.activation for one in card.layers if one.order <= layer.order and not one.container}
    bent = sorted(kind for kind in before if kind in BENT_GATES)
    if rule == "gradient" or (bent and nonstandard_gate):
        return
    if bent:
        raise ProblemError(
            "not-applicable",
            f"The {rule} rule is not defined for {', '.join(bent)}, which {card.id} has before {layer.name}. "
            "Possible: rule=gradient, or nonstandard_gate=true, which treats them as ReLUs on the way back.",
            possible=["rule=gradient", "nonstandard_gate=true"],
        )
    if before != {None}:  # before the first rectification the way back is linear, and every rule is exact there
        check_applicable(operation, layer, card)
