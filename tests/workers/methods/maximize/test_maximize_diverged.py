"""maximize: a picture whose numbers leave the finite ones is told of, and the others of its job go on."""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from tests.workers.methods.ascents import GRANT, at_once, channel, climb, finished, outcome, request, started, tiny
from workers.contract import MethodError
from workers.methods.maximize import METHOD

RUNAWAY: dict[str, Any] = {"sum": [{"weight": 1e6, "of": {"layer": "0"}}]}
"""DeepDream's square of a convolution's output: its slope grows with the picture, so plain ascent leaves all bounds."""


def test_a_picture_that_diverges_leaves_the_others_of_its_job_alone() -> None:
    network = tiny()
    plain = {"optimizer": "ascent", "learning_rate": 1e4, "steps": 12}
    calm = [channel(1, "0"), channel(2, "0")]
    found = outcome(network, request("pixel", objective=[calm[0], RUNAWAY, calm[1]], **plain), rows=3)
    told = found.facts["pictures"]
    assert [one["stopped_by"] for one in told] == ["steps", "diverged", "steps"]
    assert [(one["withheld"], one["dead"]) for one in told] == [(False, False), (True, False), (False, False)]
    assert 0 < told[1]["steps"] < 12 and told[1]["loss_last"] > 1e6 * told[1]["loss_first"]
    assert bool(found.arrays["loss"][1, told[1]["steps"] :].isnan().all())
    assert not found.arrays["images"][1].any()
    without = outcome(network, request("pixel", objective=calm, **plain), rows=3)
    for name in ("images", "loss", "channel_means"):
        assert torch.equal(found.arrays[name][[0, 2]], without.arrays[name]), name
    json.dumps(found.facts, allow_nan=False)


def test_a_picture_that_diverges_at_once_has_no_loss_to_tell() -> None:
    network = tiny()
    row, states = started(network, request(objective=[channel(0), channel(1)]))
    states[1].parameters[0, 0, 0, 0] = math.nan
    climb(network, states)
    told = finished(network, row, states).facts["pictures"]
    assert [one["stopped_by"] for one in told] == ["steps", "diverged"]
    assert (told[1]["loss_first"], told[1]["loss_last"], told[1]["steps"]) == (None, None, 0)
    saved = METHOD.load(network, row, METHOD.save(states), GRANT)
    assert [state.stopped_by for state in saved] == ["steps", "diverged"]


def test_a_job_of_which_every_picture_diverges_fails() -> None:
    network = tiny()
    plain = {"optimizer": "ascent", "learning_rate": 1e4, "steps": 12}
    row, states = started(network, request("pixel", objective=[RUNAWAY, RUNAWAY], **plain))
    climb(network, states)
    failed = at_once(METHOD.finish(network, row, states, GRANT))
    assert isinstance(failed, MethodError) and failed.problem == "numerical-error"
    assert "all 2 pictures" in failed.detail
