"""Every method on a device that is not the CPU gives what it gives on the CPU.

The device is pretended (`tests.workers.pretended_device`), so that a tensor left on the wrong side fails without a GPU;
`tests/gpu` runs the same cases on a real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.workers.methods.cases import (
    ASCENTS,
    CASES,
    LOADED,
    LOADED_ASCENT,
    RESUMED,
    ascend,
    assert_agree,
    from_catalogue,
    run,
)
from tests.workers.pretended_device import DEVICE, PretendedDevice


@pytest.fixture
def device() -> Iterator[torch.device]:
    with PretendedDevice():
        yield DEVICE


@pytest.mark.parametrize("name", CASES)
def test_a_method_gives_the_same_on_a_device(name: str, device: torch.device) -> None:
    case = CASES[name]
    assert_agree(run(case, device), run(case, "cpu"))


@pytest.mark.parametrize("name", ASCENTS)
def test_an_ascent_makes_the_same_pictures_on_a_device(name: str, device: torch.device) -> None:
    case = ASCENTS[name]
    assert_agree(ascend(case, device), ascend(case, "cpu"))


@pytest.mark.parametrize("name", RESUMED)
def test_an_ascent_goes_on_from_its_checkpoint_on_a_device(name: str, device: torch.device) -> None:
    case = ASCENTS[name]
    assert_agree(ascend(case, device, resumed_after=1), ascend(case, "cpu"))


@pytest.mark.parametrize("name", LOADED)
def test_a_network_of_the_catalogue_answers_the_same_on_a_device(name: str, device: torch.device) -> None:
    case = LOADED[name]
    assert_agree(run(case, device, from_catalogue), run(case, "cpu", from_catalogue))


def test_a_network_of_the_catalogue_is_climbed_on_a_device(device: torch.device) -> None:
    assert_agree(ascend(LOADED_ASCENT, device, from_catalogue), ascend(LOADED_ASCENT, "cpu", from_catalogue))


def test_fast_copies_agree_with_the_network_on_a_device(device: torch.device) -> None:
    case = replace(LOADED["whole"], request={**LOADED["whole"].request, "precision": "fast"})
    logits = [
        run(one, where, from_catalogue).arrays["logits"] for one, where in ((case, device), (LOADED["whole"], "cpu"))
    ]
    assert torch.corrcoef(torch.cat(logits))[0, 1] > 0.999
    climbed = replace(LOADED_ASCENT, changes={**LOADED_ASCENT.changes, "precision": "fast"})
    found, expected = ascend(climbed, device, from_catalogue), ascend(LOADED_ASCENT, "cpu", from_catalogue)
    torch.testing.assert_close(found.arrays["loss"], expected.arrays["loss"], rtol=0.05, atol=0.0)
