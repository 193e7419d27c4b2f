"""Which network a name means for a caller: the operator's catalogue goes first, then what callers brought."""

from __future__ import annotations

from dataclasses import dataclass

from convscope.protocol.cards import ModelCard
from convscope.protocol.networks import NETWORK_ID, VERSION_MARK
from convscope.protocol.problems import ProblemError
from convscope.store.uploaded_networks import NetworkRecord
from service.call import Call


@dataclass(frozen=True)
class FoundNetwork:
    """The card of a network that a caller may use, and its head where a caller brought it."""

    card: ModelCard
    head: NetworkRecord | None = None


async def find_network(call: Call, model: str, wait_s: float) -> FoundNetwork:
    """The network of that id; workers are asked to describe it where none has, for up to `wait_s` seconds.

    Raises:
        ProblemError: `unknown-model`, also for another caller's that is not to be seen; why it cannot be used;
            `queue-unavailable`.
    """
    cards = call.context.cards
    if VERSION_MARK in model:
        raise ProblemError("unknown-model", f"There is no network {model[:200]!r} in the catalogue.")
    card = await cards.peek(model)
    head = None if card is not None else await visible_head(call, model)
    if head is None:
        return FoundNetwork(card if card is not None else await cards.get(model, wait_s))
    return FoundNetwork(await cards.get(head.name, wait_s), head)


async def visible_head(call: Call, model_id: str) -> NetworkRecord | None:
    """The head of a network that some caller brought and this one may use, unless the catalogue has one of that id.

    Raises:
        ProblemError: `queue-unavailable`.
    """
    if not NETWORK_ID.fullmatch(model_id):
        return None
    head = await call.context.networks.find(model_id)
    if head is None or not head.is_visible(call.caller) or await call.context.cards.is_listed(model_id):
        return None
    return head
