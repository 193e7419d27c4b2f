"""Near names of classes."""

from __future__ import annotations

import pytest

from convscope.protocol.operations.targets import resolve_target
from convscope.protocol.problems import ProblemError
from tests.service.support import toy_card


def test_names_that_have_the_word_come_before_those_that_read_alike() -> None:
    classes = ("castle", "crate", "oxcart", "Egyptian cat", "tiger cat", "catamaran")
    card = toy_card().model_copy(update={"classes": classes})
    with pytest.raises(ProblemError) as caught:
        resolve_target("Cat", card)
    assert "Near names: tiger cat, Egyptian cat, crate" in caught.value.detail
    assert resolve_target("tiger CAT", card) == 4
    with pytest.raises(ProblemError, match="Near names: crate"):
        resolve_target("crat(", card)
