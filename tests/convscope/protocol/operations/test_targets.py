"""Classes by name, by index, by near names."""

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


@pytest.mark.parametrize(("wish", "index"), [("10", 1), ("1", 0), ("2", 2), (1, 1), (2, 2), ("0", 0)])
def test_a_text_that_is_a_name_is_that_class(wish: int | str, index: int) -> None:
    card = toy_card().model_copy(update={"classes": ("1", "10", "2")})
    assert resolve_target(wish, card) == index


@pytest.mark.parametrize("wish", ["10", 10, "-1", -1])
def test_digits_that_are_no_name_are_an_index(wish: int | str) -> None:
    card = toy_card().model_copy(update={"classes": ("a", "b", "c")})
    assert resolve_target("2", card) == 2
    with pytest.raises(ProblemError, match="has 3 classes, 0 to 2; /target asks for"):
        resolve_target(wish, card)


def test_a_doubled_name_is_refused_with_its_indices() -> None:
    card = toy_card().model_copy(update={"classes": ("crane", "bee", "crane", "Maillot", "maillot")})
    with pytest.raises(ProblemError, match="2 classes of the name 'crane', 0, 2; ask for one by its index") as caught:
        resolve_target("crane", card)
    assert caught.value.status == 422
    assert caught.value.extra["indices"] == [0, 2]
    assert resolve_target("maillot", card) == 4
    with pytest.raises(ProblemError, match="2 classes of the name 'MAILLOT', 3, 4"):
        resolve_target("MAILLOT", card)
    assert resolve_target(2, card) == 2
