"""Networks that torch cannot differentiate are told so, by what torch itself raises; all else is a fault of ours."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from workers.engine.failures import internal
from workers.engine.runs import Run

RUN = cast(Run, SimpleNamespace(id="r", operation="saliency", needs=("tea",)))
LINEAR = nn.Linear(3, 2)


def without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        return LINEAR(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (without_gradient, "torch.no_grad()"),
        (lambda x: LINEAR(x).detach(), "detaches"),
        (lambda x: LINEAR(x.mul(255).byte().float()).detach(), "rounds"),
        (lambda _: LINEAR(torch.ones(1, 3)).requires_grad_(), "no gradient comes through"),
        (lambda x: checkpoint(LINEAR, x, use_reentrant=True), "gradient checkpointing"),
    ],
)
def test_a_network_that_stands_in_the_way_of_its_gradient(forward: Callable[[Tensor], Any], words: str) -> None:
    LINEAR.requires_grad_(False)
    x = torch.rand(1, 3, requires_grad=True)
    with pytest.raises(RuntimeError) as raised:
        torch.autograd.grad(forward(x).sum(), x)
    told = internal(RUN, raised.value)
    assert told.problem == "not-applicable" and words in told.detail and "tea" in told.detail


def test_other_errors_stay_ours() -> None:
    for error in (
        ValueError("does not require grad and does not have a grad_fn"),
        RuntimeError("shape '[2]' is invalid"),
    ):
        assert internal(RUN, error).problem == "internal-error"
