"""How networks that callers brought are shown among those of the catalogue."""

from __future__ import annotations

from convscope.protocol.cards import ModelSummary
from convscope.protocol.networks import UploadFacts
from convscope.protocol.problems import ProblemError
from convscope.store.uploaded_networks import NetworkRecord
from service.answers.views import iso
from service.call import Call
from service.intake.networks import FoundNetwork, find_network


async def network_at(call: Call, model_id: str) -> FoundNetwork:
    """The network of an address.

    Raises:
        ProblemError: `not-found`; why it cannot be used; `queue-unavailable`.
    """
    try:
        return await find_network(call, model_id, call.context.settings.card_wait_s)
    except ProblemError as error:
        if error.name == "unknown-model":  # here the name is an address
            raise ProblemError("not-found", error.detail, **error.extra) from error
        raise


def upload_facts(call: Call, head: NetworkRecord) -> UploadFacts:
    """What a caller is told of a network that somebody brought."""
    return UploadFacts(
        own=head.owner == call.caller,
        visible_to=head.visible_to,
        sha256=head.sha256,
        bytes=head.bytes,
        format=head.format,
        created_at=iso(head.created_ms) or "",
        updated_at=iso(head.updated_ms) or "",
    )


async def summaries(call: Call) -> list[ModelSummary]:
    """The catalogue, and what callers brought and this one may use, in the order of ids.

    Raises:
        ProblemError: `queue-unavailable`.
    """
    listed = await call.context.cards.summaries()
    taken = {summary.id for summary in listed}
    heads = [head for head in await call.context.networks.visible(call.caller) if head.id not in taken]
    return sorted([*listed, *await summaries_of(call, heads)], key=lambda summary: summary.id)


async def summaries_of(call: Call, heads: list[NetworkRecord]) -> list[ModelSummary]:
    """Lines of the catalogue for networks that callers brought.

    Raises:
        ProblemError: `queue-unavailable`.
    """
    problems = await call.context.cards.problems([head.name for head in heads]) if heads else []
    lines = []
    for head, problem in zip(heads, problems, strict=True):
        trouble = {} if problem is None else {"problem_type": problem[0], "problem": problem[1]}
        lines.append(
            ModelSummary(
                id=head.id,
                title=head.title,
                source=head.source,
                weights=f"uploaded ({head.format})",
                available=problem is None,
                upload=upload_facts(call, head),
                **trouble,
            )
        )
    return lines
