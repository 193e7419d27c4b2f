"""Requests of `cka`: what each mode defaults to, the samples it needs, two networks, and the matrices declared."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations import operations
from convscope.protocol.operations.cka import CkaFacts, CkaRequest
from convscope.protocol.problems import ProblemError
from convscope.render import RenderOptions, render
from convscope.render.matrix import label_step, pixels_per_cell
from convscope.render.sheet import SMALL, line_height
from service.intake.forms import read_fields
from tests.convscope.protocol.operations.real_cards import card_of
from tests.convscope.protocol.operations.resolving import refused, resolved
from tests.workers.fakes import image, outcome
from workers.contract import Row, params
from workers.methods.cka import METHOD
from workers.networks.build import load

OPERATION = operations()["cka"]
ONE = {"image": {"id": "a"}}
FOUR = {"images": [{"id": name} for name in "abcd"]}
STAGES = ["bn1", "blocks.1", "blocks.2", "blocks.4", "bn2"]


@pytest.fixture(scope="module")
def lite0() -> ModelCard:
    return card_of("efficientnet_lite0")


def resolve(card: ModelCard, **body: Any) -> dict[str, Any]:
    return resolved("cka", card, body)


def refusal(card: ModelCard, **body: Any) -> ProblemError:
    return refused("cka", card, body)


def test_an_image_and_nothing_else_must_do(lite0: ModelCard) -> None:
    found = resolve(lite0, **ONE)
    assert (found["mode"], found["layers"], found["channels"]) == ("channels", ["blocks.2"], "all")
    assert (found["samples"], found["intervals"], found["kernel"], found["estimator"]) == (
        "rows",
        0,
        "linear",
        "biased",
    )


def test_layers_defaults_to_every_stage_and_images(lite0: ModelCard) -> None:
    found = resolve(lite0, mode="layers", **FOUR)
    assert found["layers"] == STAGES == list(lite0.stages)
    assert found["samples"] is None and found["intervals"] == 100


def test_forms_name_layers_and_channels_with_commas(lite0: ModelCard) -> None:
    fields = [("mode", "channels"), ("layers", "bn1,blocks.1"), ("channels", "3,5"), ("channels", "8")]
    found = resolve(lite0, **ONE, **read_fields(OPERATION, fields))
    assert found["layers"] == ["bn1", "blocks.1"] and found["channels"] == [3, 5, 8]


def test_two_networks_are_both_checked(lite0: ModelCard) -> None:
    body = FOUR | {"mode": "models", "other_model": "efficientnet_lite1", "layers": ["bn1", "bn2"]}
    request = CkaRequest.model_validate(body)
    assert OPERATION.models(request) == ["efficientnet_lite1"]
    cards = {"efficientnet_lite1": card_of("efficientnet_lite1")}
    found = OPERATION.resolve_others(OPERATION.resolve(request, lite0), cards)
    assert found.layers == ["bn1", "bn2"] and found.other_layers == STAGES
    unknown = CkaRequest.model_validate(body | {"other_layers": ["no.such"]})
    with pytest.raises(ProblemError, match="no layer") as refused:
        OPERATION.resolve_others(OPERATION.resolve(unknown, lite0), cards)
    assert refused.value.name == "unknown-layer" and "/other_layers" in refused.value.detail


@pytest.mark.parametrize(
    "body",
    [
        {"layer": "bn1", "layers": ["bn2"]},
        {"mode": "models"},
        {"other_model": "efficientnet_lite1"},
        {"mode": "layers", "other_layers": ["bn1"]},
        {"mode": "layers", "samples": "rows"},
        {"bandwidth": 0},
        {"estimator": "unbiased"},
        {"image_set": "set-1"},
    ],
)
def test_contradictions(lite0: ModelCard, body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        resolve(lite0, **ONE, **body)


def test_too_few_samples_are_said_before_anything_runs(lite0: ModelCard) -> None:
    found = refusal(lite0, mode="layers", **ONE)
    assert found.name == "not-applicable" and "at least 4 samples" in found.detail and "image_set" in found.detail
    assert refusal(lite0, samples="images", **ONE).name == "not-applicable"
    assert resolve(lite0, mode="layers", image_set="set-1")["images"] == []


def test_units_without_a_map_have_no_rows(lite0: ModelCard) -> None:
    assert refusal(lite0, layer="global_pool.flatten", **FOUR).name == "not-applicable"
    found = resolve(lite0, layer="global_pool.flatten", samples="images", channels="first:9", **FOUR)
    assert found["layers"] == ["global_pool.flatten"]


def test_channels_are_checked(lite0: ModelCard) -> None:
    assert refusal(lite0, layer="bn1", channels=[32], **ONE).name == "channel-out-of-range"
    assert resolve(lite0, layer="bn2", **ONE)["layers"] == ["bn2"]


def test_a_matrix_with_its_labels_and_baseline() -> None:
    card = card_of("efficientnet_lite0")
    request = resolve(card, mode="layers", estimator="debiased", preprocess={"size": [64, 64]}, **FOUR)
    uploads = [image((64, 64), seed) for seed in range(4)]
    found = outcome(METHOD, load("efficientnet_lite0"), Row(params(request), uploads))
    facts = CkaFacts.model_validate(found.facts)
    (picture,) = OPERATION.pictures(request, found.facts, {})
    assert picture.views == ("matrix",)
    assert list(picture.row_labels) == list(picture.column_labels) == STAGES == facts.matrices[0].rows
    assert picture.heading == "efficientnet_lite0  layers"
    assert picture.value_name == "CKA, linear, debiased, n = 4; baseline of unrelated layers: 0.00"
    assert found.arrays["matrix"].shape == (5, 5)
    assert any("only 4 samples" in warning for warning in facts.matrices[0].warnings)


@pytest.mark.parametrize(("rows", "labelled"), [(8, 8), (40, 40), (64, 32), (512, 20)])
def test_the_heat_map_is_legible_from_8_to_512_rows(rows: int, labelled: int) -> None:
    """At least one pixel a cell, labels that do not touch, and a picture that fits a screen."""
    request = {"mode": "channels", "model": "vgg16", "other_model": None}
    baseline = {"permutation_mean": 0.5}
    names = [str(k) for k in range(rows)]
    matrix = {"array": "matrix/conv", "rows": names, "columns": names, "samples": 28, "baseline": baseline}
    facts = {"kernel": "linear", "estimator": "biased", "matrices": [matrix]}
    (picture,) = OPERATION.pictures(request, facts, {})
    values = np.random.default_rng(0).random((rows, rows), dtype=np.float32)
    drawn = Image.open(io.BytesIO(render(picture, lambda _: values, None, RenderOptions())))
    assert 400 <= max(drawn.size) <= 1100
    cell = pixels_per_cell(rows, rows, None)
    assert cell >= 1 and cell * rows <= min(drawn.size)
    step = label_step(rows, cell)
    assert step * cell >= line_height(SMALL) - 1 and rows // step >= labelled
