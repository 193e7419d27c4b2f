"""A request resolved, or refused, as the service does it, with what every operation must keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations import operations
from convscope.protocol.problems import ProblemError


def resolved(operation: str, card: ModelCard, body: Mapping[str, Any]) -> dict[str, Any]:
    """The request with its defaults filled in, as JSON; resolving it again changes nothing."""
    known = operations()[operation]
    plain = known.resolve(known.request.model_validate(body), card).model_dump(mode="json")
    again = known.resolve(known.request.model_validate(plain), card)
    assert again.model_dump(mode="json") == plain, "a resolved request resolves to itself"
    return plain


def refused(operation: str, card: ModelCard, body: Mapping[str, Any]) -> ProblemError:
    """The problem that the request is refused with."""
    with pytest.raises(ProblemError) as found:
        resolved(operation, card, body)
    return found.value
