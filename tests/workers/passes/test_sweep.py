"""Methods over an image set: the same bits as one request with all images, however the sweep is interrupted."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch

from tests.workers import fakes
from tests.workers.methods.cases import CAM_METHODS, CASES, Case, network, one
from workers.contract import Grant, IterativeMethod, MethodError, OneShotMethod, Outcome, Row, params

IMAGES = 5
SHORT = Grant(slice_s=1e-6)
"""Every slice is a step of its own."""
SWEPT: dict[str, Case] = {
    name: CASES[name]
    for name in (
        "classify", "feature-maps", "feature-maps, indices", "saliency, gradient", "saliency, smoothgrad",
        "saliency, vargrad", "saliency, integrated-gradients", "cam", "cam, several classes",
    )
}  # fmt: skip
SWEPT["cam of what each image shows"] = one(
    "cam", methods=CAM_METHODS[1:3], layer="7", targets=["predicted"], upsampled=True
)


def rows(case: Case, images: int = IMAGES, **changes: Any) -> Row:
    return Row(params({**case.request, **changes}), [fakes.image((30, 26), seed) for seed in range(images)])


def parts_of(case: Case) -> tuple[OneShotMethod, IterativeMethod]:
    method = import_module(f"workers.methods.{case.method}").METHOD
    sweep = method.of_set()
    assert isinstance(sweep, IterativeMethod)
    return method, sweep


def swept(sweep: IterativeMethod, row: Row, interrupted: bool, grant: Grant) -> Outcome:
    own = network()
    (states, _) = fakes.finish(sweep.start(own, row, grant))
    steps, place = 0, 0
    while not sweep.done(states[0]):
        (error,) = sweep.step(own, states, grant)
        if error is not None:
            raise error
        steps += 1
        if interrupted and states[0].place > place:  # a part that was begun is begun again
            place = states[0].place
            states = sweep.load(own, row, sweep.save(states), grant)
    assert steps > 1 or not interrupted
    result, _ = fakes.finish(sweep.finish(own, row, states, grant))
    assert isinstance(result, Outcome)
    return result


def same(found: Outcome, right: Outcome) -> None:
    assert found.facts == right.facts
    assert found.arrays.keys() == right.arrays.keys()
    for name, array in right.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert torch.equal(found.arrays[name], array), name


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("name", SWEPT)
def test_a_sweep_has_the_bits_of_one_request(name: str, interrupted: bool) -> None:
    method, sweep = parts_of(SWEPT[name])
    row = rows(SWEPT[name])
    same(swept(sweep, row, interrupted, SHORT), fakes.outcome(method, network(), row))


def test_fast_parts_do_not_depend_on_where_a_sweep_was_interrupted() -> None:
    _, sweep = parts_of(CASES["classify"])
    row = rows(CASES["classify"], 19, precision="fast")
    # Parts of eight: which images share a pass is the same with and without interruption.
    same(swept(sweep, row, True, SHORT), swept(sweep, row, False, Grant()))


def test_an_image_without_an_answer_is_named() -> None:
    _, sweep = parts_of(CASES["classify"])
    row = rows(CASES["classify"])
    row.images[3][:] = 0  # type: ignore[index]
    broken = torch.full((30, 26, 3), torch.nan)
    row = Row(row.request, [*row.images[:3], broken, *row.images[4:]])
    with pytest.raises(MethodError, match="image 3 of the range") as caught:
        swept(sweep, row, False, SHORT)
    assert caught.value.problem == "numerical-error"


def test_a_checkpoint_of_another_set_is_refused() -> None:
    _, sweep = parts_of(CASES["classify"])
    row = rows(CASES["classify"])
    states, _ = fakes.finish(sweep.start(network(), row, Grant()))
    saved = sweep.save(states)
    with pytest.raises(ValueError, match="5 images, not 4"):
        sweep.load(network(), Row(row.request, row.images[:4]), saved, Grant())
