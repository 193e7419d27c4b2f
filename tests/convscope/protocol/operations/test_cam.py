"""Requests of `cam`: classes by name, lists with commas, the default layer, what cannot be, the pictures declared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations import operations
from convscope.protocol.operations.cam import CamFacts, CamRequest
from convscope.protocol.pictures import ArrayInfo
from convscope.protocol.problems import ProblemError
from convscope.render import RenderOptions, render
from service.intake.forms import read_fields
from tests.convscope.protocol.operations.real_cards import card_of
from tests.convscope.protocol.operations.resolving import refused, resolved
from tests.convscope.render.helpers import Png
from tests.workers.fakes import image, outcome
from workers.contract import Row, params
from workers.methods.cam import METHOD
from workers.networks.build import load

OPERATION = operations()["cam"]
IMAGE = {"image": {"id": "img-1"}}


@pytest.fixture(scope="module")
def lite0() -> ModelCard:
    return card_of("efficientnet_lite0")


def resolve(card: ModelCard, **body: Any) -> dict[str, Any]:
    return resolved("cam", card, IMAGE | body)


def refusal(card: ModelCard, **body: Any) -> ProblemError:
    return refused("cam", card, IMAGE | body)


def test_an_image_and_nothing_else_must_do(lite0: ModelCard) -> None:
    found = resolve(lite0)
    assert found["layer"] == "bn2", "the last spatial map before global pooling, not the last convolution"
    assert found["methods"] == ["gradcam"] and found["targets"] == ["predicted"]
    assert found["model"] == "efficientnet_lite0"
    assert found["images"] == [{"id": "img-1", "base64": None}] and found["image"] is None


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        ("resnet50-random", "layer4"),
        ("vgg16-random", "features"),
        ("densenet121-random", "@relu"),
        ("googlenet-random", "inception5b"),
    ],
)
def test_the_default_layer_is_the_last_map_before_global_pooling(model: str, layer: str) -> None:
    card = card_of(model)
    found = card.layer(resolve(card)["layer"])
    assert found.name == layer
    later = [one for one in card.layers if one.spatial and one.order > found.order and min(one.shape[1:]) > 1]
    assert all(one.shape == found.shape for one in later), "no other map stands between it and the pooling"


def test_a_network_of_tokens_has_no_default_layer_and_says_what_is_possible() -> None:
    card = card_of("vit_b_16-random")
    problem = refusal(card)
    assert problem.name == "not-applicable"
    assert "tokens after conv_proj" in problem.detail and "occlusion" in problem.detail
    assert resolve(card, layer="conv_proj")["layer"] == "conv_proj", "who means it names it"


def test_thirteen_methods_are_panels_with_headers() -> None:
    common = {"item": 0, "target": 281, "logit": 1.0, "region_pixels": None, "completeness_gap": None, "forwards": 0}
    maps = [
        {"method": method, "array": f"cam/{method}/281", "image": image, "name": "tabby, tabby cat", "minimum": -2.0,
         "maximum": -1.0 if negative else 3.0, "all_negative": negative, "probability": probability, **common}
        for method, image, negative, probability in (
            ("gradcam", 0, False, 0.731), ("gradcam", 1, True, 0.004), ("eigencam", 0, False, 0.731),
            ("fullgrad", 0, False, 0.731),
        )
    ]  # fmt: skip
    facts = {"layer": "bn2", "region": None, "transforms": [{}, {}], "maps": maps}
    drawn = OPERATION.pictures({"model": "net"}, facts, {})
    assert [one.name for one in drawn] == ["gradcam/281/0", "gradcam/281/1", "eigencam/281/0", "fullgrad/281/0"]
    cells = [one.cell for one in drawn]
    assert [(cell.row, cell.column) for cell in cells[:2]] == [
        ("gradcam", "image 0  tabby, tabby cat  0.73"), ("gradcam", "image 1  tabby, tabby cat  < 0.01"),
    ]  # fmt: skip
    assert [cell.caption for cell in cells] == ["", "all negative", "of no class", "of all layers"]
    assert "no class" in drawn[2].heading and "0.73" not in drawn[2].heading and "all layers" in drawn[3].heading
    assert "image 1" in drawn[1].heading and "all evidence is negative" in drawn[1].heading
    assert [one.normalize for one in drawn] == ["layer", "symmetric", "layer", "layer"], "nothing is drawn flat"


def test_classes_by_index_by_name_and_by_rank(lite0: ModelCard) -> None:
    found = resolve(lite0, targets=[281, "Tabby", "281", "tiger cat", "predicted", "top:3"])
    assert found["targets"] == [281, 282, "predicted", "top:3"], "each once, names as indices"


def test_forms_may_use_commas_or_repeat_fields(lite0: ModelCard) -> None:
    fields = [("methods", "gradcam,hirescam"), ("methods", "fullgrad"), ("targets", "281,tiger cat,top:2")]
    body = read_fields(OPERATION, fields)
    found = resolve(lite0, **body)
    assert found["methods"] == ["gradcam", "hirescam", "fullgrad"]
    assert found["targets"] == [281, 282, "top:2"]
    assert resolve(lite0, **read_fields(OPERATION, [("targets", "7")]))["targets"] == [7]
    assert resolve(lite0, targets="7, 8")["targets"] == [7, 8]
    assert resolve(lite0, targets=7)["targets"] == [7]
    assert resolve(lite0, methods=["gradcam", "gradcam"])["methods"] == ["gradcam"]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"targets": [1000]}, "1000 classes, 0 to 999"),
        ({"targets": ["tigre cat"]}, "Near names: .*tiger cat"),
    ],
)
def test_classes_that_there_are_not(lite0: ModelCard, body: dict[str, Any], detail: str) -> None:
    with pytest.raises(ProblemError, match=detail) as refused:
        resolve(lite0, **body)
    assert refused.value.name == "invalid-request"


@pytest.mark.parametrize(
    "body",
    [
        {"targets": ["top:0"]},
        {"targets": ["top:33"]},
        {"targets": ["top:many"]},
        {"targets": []},
        {"methods": []},
        {"methods": ["smoothcam"]},
        {"layers": ["bn2"]},
    ],
)
def test_malformed_requests(lite0: ModelCard, body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        resolve(lite0, **body)


def test_layers_that_cannot_be(lite0: ModelCard) -> None:
    assert refusal(lite0, layer="bn3").name == "unknown-layer"
    flat = refusal(lite0, layer="classifier")
    assert flat.name == "not-applicable"
    assert "bn2" in flat.extra["possible"]


def test_guided_gradcam_of_smooth_gates_needs_a_word(lite0: ModelCard) -> None:
    smooth = card_of("efficientnet_b0-random")
    found = refusal(smooth, methods=["guided-gradcam"])
    assert found.name == "not-applicable" and "silu" in found.detail
    assert found.extra["possible"] == ["nonstandard_gate=true"]
    assert resolve(smooth, methods=["guided-gradcam"], nonstandard_gate=True)["nonstandard_gate"]
    assert resolve(smooth, methods=["gradcam"])
    assert resolve(lite0, methods=["guided-gradcam"]), "ReLU6 has the rule"


def test_the_cost_counts_forwards_and_bytes(lite0: ModelCard) -> None:
    def cost(**body: Any) -> Any:
        return OPERATION.cost(CamRequest.model_validate(IMAGE | body), lite0, 2)

    assert cost().forwards == 2 * (1 + 2)
    assert cost(upsampled=False).result_bytes == 2 * 4 * 49
    assert cost().result_bytes == 2 * 4 * (49 + 224 * 224)
    assert cost(methods=["scorecam"]).forwards == 2 * (1 + 2 + 1280)
    assert cost(targets=["top:5"], upsampled=False).result_bytes == 5 * 2 * 4 * 49


def test_pictures_of_a_real_result() -> None:
    network = load("efficientnet_lite0")
    card = card_of("efficientnet_lite0")
    body = {
        "methods": ["gradcam", "guided-gradcam"], "targets": ["top:2"], "preprocess": {"size": [64, 64]},
        "image": None, "images": [{"id": "a"}, {"id": "b"}],
    }  # fmt: skip
    request = resolve(card, **body)
    found = outcome(METHOD, network, Row(params(request), [image((80, 60), 1), image((64, 64), 2)]))
    facts = CamFacts.model_validate(found.facts)
    infos = {name: ArrayInfo(tuple(array.shape), "float32") for name, array in found.arrays.items()}
    drawn = OPERATION.pictures(request, found.facts, infos)
    assert len(drawn) == len(facts.maps) == 8
    assert len({picture.name for picture in drawn}) == 8, "pick finds each"
    for picture, fact in zip(drawn, facts.maps, strict=True):
        assert picture.image == fact.image
        assert picture.transform == found.facts["transforms"][fact.image]
        assert picture.views[0] == ("picture" if fact.method == "guided-gradcam" else "overlay")
        (part,) = picture.tiles[0].parts
        shape = infos[part.array].shape[1:]
        assert shape == ((3, 64, 64) if fact.method == "guided-gradcam" else (2, 2))
        assert found.arrays[part.array][part.index].max().item() == pytest.approx(fact.maximum)
        assert str(fact.name) in picture.heading
        assert ("all evidence is negative" in picture.heading) == fact.all_negative


def test_guided_gradcam_is_clipped_as_guided_is() -> None:
    """A few large values do not leave the rest of the picture blank: the scale ends where guided's own does."""
    values = np.random.RandomState(0).randn(1, 3, 40, 40)
    values[0, 1, 3, 5], values[0, 2, 30, 8] = 400.0, -900.0
    one = {
        "method": "guided-gradcam", "array": "a", "item": 0, "image": 0, "target": 3, "name": "tabby", "logit": 1.0,
        "probability": 0.5, "minimum": -900.0, "maximum": 400.0, "all_negative": False,
    }  # fmt: skip
    facts = {"layer": "4", "maps": [one], "transforms": [{}]}
    (ours,) = OPERATION.pictures({"model": "m"}, facts, {})
    image = {"target": 3, "target_name": "tabby", "maximum": 1.0, "transform": {}}
    (guided,) = operations()["saliency"].pictures({"model": "m", "method": "guided"}, {"images": [image]}, {})
    options = RenderOptions(view="picture", scale=4)
    drawn = Png.of(render(ours, {"a": values}.__getitem__, None, options))
    its = Png.of(render(guided, {"attribution": values}.__getitem__, None, options))
    assert drawn.scale["vmax"] == its.scale["vmax"]
    assert drawn.scale["vmax"] < 0.1 * 400, "400 and -900 are drawn as the ends, and the rest can be seen"
    np.testing.assert_array_equal(drawn.body(160, 160), its.body(160, 160))
