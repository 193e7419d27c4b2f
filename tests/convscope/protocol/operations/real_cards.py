"""Cards of real networks of the catalogue, as a worker makes them (without weights)."""

from __future__ import annotations

import functools
import json

from convscope.protocol.cards import ModelCard
from workers.networks.card import make_card
from workers.networks.catalogue import find_entry


@functools.cache
def card_of(model: str) -> ModelCard:
    """The card, through JSON as it travels."""
    return ModelCard.model_validate_json(json.dumps(make_card(find_entry(model), "0" * 64)))
