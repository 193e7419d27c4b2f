"""Requests of `maximize`: presets against their sources, numbers within bounds, names made canonical."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from convscope.protocol.cards import LayerCard, ModelCard, PreprocessCard
from convscope.protocol.operations import operations
from convscope.protocol.operations.maximize import MaximizeRequest
from convscope.protocol.operations.presets import FIELDS, PRESETS
from convscope.protocol.problems import ProblemError
from service.intake.forms import read_fields
from tests.convscope.protocol.operations.resolving import refused, resolved

OPERATION = operations()["maximize"]
CARD = ModelCard(
    id="tea",
    title="Tea",
    source="a test",
    weights="random",
    entry_digest="0" * 64,
    parameters=1,
    preprocess=PreprocessCard(size=(32, 32), resize=32, mean=(0.5,) * 3, std=(0.5,) * 3, resizable=True),
    classes=("assam", "darjeeling"),
    layers=(
        LayerCard(name="conv", aliases=("c",), kind="Conv2d", order=0, shape=(6, 8, 8)),
        LayerCard(name="windows", kind="Attention", order=1, shape=(2, 4, 4, 8), methods={"maximize": "it is folded"}),
        LayerCard(name="head", kind="Linear", order=2, shape=(2,)),
    ),
    default_layers={"maximize": ("conv",)},
)


def resolve(card: ModelCard = CARD, **body: Any) -> dict[str, Any]:
    return resolved("maximize", card, body)


def refusal(**body: Any) -> ProblemError:
    return refused("maximize", CARD, body)


def test_a_level_of_null_is_the_mean_colour_and_no_level_is_the_presets() -> None:
    assert resolve(preset="flashtorch")["start_level"] == 150.0
    assert resolve(preset="flashtorch", start_level=None)["start_level"] is None
    assert resolve(preset="flashtorch", start_level=90)["start_level"] == 90.0


def test_nothing_but_a_network_must_do() -> None:
    found = resolve()
    assert found["objective"] == [{"layer": "conv", "channel": c, "reduce": "mean"} for c in range(4)]
    assert (found["preset"], found["size"], found["steps"], found["start"]) == ("smooth", [32, 32], 256, "noise")
    assert (found["jitter"], found["jitter_after"]) == (5, 2), "a seventh and a fourteenth of the side"
    assert resolve(jitter=8)["jitter"] == 8 and resolve(preset="lucid", size=64)["jitter"] == 8
    assert [resolve(size=size)["jitter"] for size in (64, 224, 1024)] == [9, 32, 64]
    assert (OPERATION.lane, OPERATION.quick, OPERATION.image_array) == ("batch", False, "images")


@pytest.mark.parametrize(
    ("preset", "constants"),
    [
        (
            "pixel",
            {"pixel_space": "byte", "start_level": 128, "start_spread": 20, "optimizer": "keras-adam",
             "learning_rate": 2.5, "steps": 30, "clip_each_step": False},
        ),
        (
            "flashtorch",
            {"pixel_space": "normalized", "start_level": 150, "start_spread": 30, "optimizer": "rms",
             "learning_rate": 1.0, "steps": 30, "clip_each_step": False},
        ),
        (
            "yosinski",
            {"decay": 1e-4, "blur": 1.0, "blur_every": 4, "learning_rate": 100, "steps": 1000, "start_spread": 10,
             "start_distribution": "normal", "clip_each_step": True, "optimizer": "ascent"},
        ),
        (
            "lucid",
            {"start_spread": 0.01, "decay_power": 1, "decorrelate": True, "optimizer": "adam", "learning_rate": 0.05,
             "steps": 512, "jitter": 8, "scale": 0.1, "rotate": 10, "jitter_after": 4, "redirect_steps": 16,
             "average": 0.5},
        ),
        (
            "maco",
            {"optimizer": "nadam", "learning_rate": 1.0, "steps": 256, "size": [512, 512], "crops": 32,
             "crop_from": 0.5, "crop_to": 0.05, "crop_size_sd": 0.05, "crop_center_sd": 0.15, "noise": 0.04,
             "noise_uniform": 0.02},
        ),
    ],
)  # fmt: skip
def test_constants_of_the_presets_are_their_sources(preset: str, constants: dict[str, Any]) -> None:
    found = resolve(preset=preset)
    assert {name: found[name] for name in constants} == constants


def test_constants_go_by_the_optimizer_unless_they_are_asked_for() -> None:
    def constants(**body: Any) -> list[float | None]:
        found = resolve(**body)
        return [found[name] for name in ("epsilon", "beta1", "beta2")]

    assert constants(preset="pixel") == [1e-7, 0.9, 0.999]
    assert constants(preset="pixel", optimizer="adam") == [1e-8, 0.9, 0.999]
    assert constants(preset="lucid", optimizer="rms") == [1e-5, None, None]
    assert constants(preset="yosinski") == [None, None, None]
    assert constants(preset="lucid", beta1=0.5, epsilon=1e-4) == [1e-4, 0.5, 0.999]
    said = refusal(preset="flashtorch", beta1=0.5)
    assert said.errors[0].pointer == "/beta1"
    assert "adam, keras-adam, nadam" in said.errors[0].detail


def test_what_a_source_shows() -> None:
    assert [resolve(preset=name)["display"] for name in ("pixel", "flashtorch", "lucid")] == [
        "clip", "flashtorch", "clip",
    ]  # fmt: skip
    assert [resolve(preset=name)["float_pictures"] for name in ("pixel", "flashtorch", "lucid")] == [True, True, False]
    assert resolve(preset="pixel", float_pictures=False)["float_pictures"] is False


def test_every_number_of_a_preset_is_a_property_with_a_default() -> None:
    for preset in PRESETS.values():
        assert set(FIELDS) | {"size"} >= set(preset)
        assert set(FIELDS) <= set(preset)
    assert set(FIELDS) <= set(MaximizeRequest.model_fields)
    found = resolve(steps=7, learning_rate=0.1, jitter=3, scale=0, rotate=0, tv=2, diversity=1.5, decorrelate=False)
    assert (found["steps"], found["learning_rate"], found["jitter"], found["scale"]) == (7, 0.1, 3, 0.0)
    assert (found["tv"], found["diversity"], found["decorrelate"]) == (2.0, 1.5, False)


@pytest.mark.parametrize(
    "body",
    [
        {"steps": 0}, {"steps": 1_000_000}, {"learning_rate": 0}, {"size": 8}, {"size": 5000}, {"jitter": -1},
        {"scale": 0.9}, {"crops": 65}, {"decay": 1}, {"rotate": 181}, {"tv": -1}, {"average": 1.1}, {"preset": "best"},
        {"nonsense": 1},
        {"objective": []}, {"objective": {}}, {"objective": {"class": 1, "layer": "conv"}},
        {"objective": {"layer": "conv", "channel": -1}}, {"objective": {"layer": "conv", "reduce": "sum"}},
        {"objective": {"layer": "conv", "direction": []}}, {"objective": {"sum": []}},
        {"objective": {"class": 1}, "layer": "conv"}, {"start": "image"},
        {"image": {"id": "a"}, "image_set": "b"}, {"stop_at": "high"},
    ],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MaximizeRequest.model_validate(body)


@pytest.mark.parametrize("how", [{}, {"size": 96, "crop_to": 0.5}], ids=["as it is", "boxes"])
def test_a_position_outside_of_the_map_is_refused_at_once_where_its_size_is_known(how: dict[str, Any]) -> None:
    beyond = {"unit": {"layer": "c", "channel": 0, "y": 8, "x": 0}}
    for objective in (beyond, {"sum": [{"of": beyond}]}):
        with pytest.raises(ProblemError, match=r"The map of conv is 8×8; /objective\S* asks for position \(8, 0\)"):
            resolve(objective=objective, jitter=0, scale=0, rotate=0, jitter_after=0, **how)
    assert resolve(objective=beyond, size=96)["objective"][0]["unit"]["y"] == 8, "the worker knows larger maps"


def test_names_become_canonical() -> None:
    found = resolve(
        objective=[
            {"class": "Darjeeling"},
            {"layer": "c", "channel": 5, "reduce": "max"},
            {"unit": {"layer": "c", "channel": 0, "y": 7, "x": 0}},
            {"layer": "c"},
            {"layer": "c", "direction": [1, 0, 0, 0, 0, -1]},
            {"sum": [{"weight": -2, "of": {"class": "assam"}}, {"of": {"layer": "c", "channel": 1}}]},
        ]
    )
    assert found["objective"] == [
        {"class": 1},
        {"layer": "conv", "channel": 5, "reduce": "max"},
        {"unit": {"layer": "conv", "channel": 0, "y": 7, "x": 0}},
        {"layer": "conv"},
        {"layer": "conv", "direction": [1.0, 0.0, 0.0, 0.0, 0.0, -1.0], "cosine_power": 1.0},
        {"sum": [{"weight": -2.0, "of": {"class": 0}}, {"weight": 1.0, "of": {"layer": "conv", "channel": 1,
                                                                              "reduce": "mean"}}]},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "name", "pointer"),
    [
        ({"layer": "conf"}, "unknown-layer", ""),
        ({"layer": "conv", "channels": [6]}, "channel-out-of-range", ""),
        ({"objective": {"layer": "conv", "channel": 6}}, "channel-out-of-range", ""),
        ({"objective": {"unit": {"layer": "conv", "channel": 6}}}, "channel-out-of-range", ""),
        ({"objective": {"layer": "windows"}}, "not-applicable", ""),
        ({"layer": "windows"}, "not-applicable", ""),
        ({"objective": {"class": "oolong"}}, "invalid-request", "/objective/class"),
        ({"objective": {"class": "predicted"}}, "invalid-request", "/objective/class"),
        ({"objective": [{"layer": "conv", "direction": [1]}]}, "invalid-request", "/objective/0/direction"),
        ({"objective": {"unit": {"layer": "conv", "channel": 0, "y": 1}}}, "invalid-request", "/objective/unit"),
        ({"channels": "top:2"}, "invalid-request", "/channels"),
        ({"size": 20}, "not-applicable", ""),
        ({"preprocess": {"size": [32, 32]}}, "invalid-request", "/preprocess/size"),
        ({"preprocess": {"crop": "none"}}, "invalid-request", "/preprocess"),
        ({"preprocess": {"resize_mode": "nearest"}, "image": {"id": "a"}}, "invalid-request", "/preprocess"),
        ({"blur": 1}, "invalid-request", "/blur"),
        ({"crop_from": 0.5}, "invalid-request", "/crop_from"),
        ({"crop_center_sd": 0.1}, "invalid-request", "/crop_size_sd"),
        ({"channels": [1], "diversity": 1}, "invalid-request", "/diversity"),
        ({"objective": [{"class": 0}, {"class": 0}], "diversity": 1}, "invalid-request", "/diversity"),
        ({"parameterization": "pixel"}, "invalid-request", "/pixel_space"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_its_place(body: dict[str, Any], name: str, pointer: str) -> None:
    error = refusal(**body)
    assert error.name == name
    assert [one.pointer for one in error.errors] == ([pointer] if pointer else [])


def test_a_network_of_one_size_keeps_it() -> None:
    fixed = CARD.model_copy(update={"preprocess": CARD.preprocess.model_copy(update={"resizable": False})})
    assert resolve(fixed)["size"] == [32, 32]
    assert resolve(fixed, preset="maco")["size"] == [512, 512], "boxes of the picture are resized to the input"
    with pytest.raises(ProblemError, match="32×32"):
        resolve(fixed, size=64)


def test_an_image_is_where_it_starts_and_images_are_compared_with() -> None:
    found = resolve(image={"id": "a"}, layer="conv", channels="strongest")
    assert (found["start"], [one["id"] for one in found["images"]]) == ("image", ["a"])
    assert (found["objective"], found["layer"], found["channels"]) == (None, "conv", "strongest")
    assert resolve(images=[{"id": "a"}, {"id": "b"}])["start"] == "noise"
    assert resolve(images=[{"id": "a"}, {"id": "b"}], start="image")["start"] == "image"


@pytest.mark.parametrize(
    "body",
    [
        {"images": [{"id": "a"}]},
        {"images": [{"id": "a"}, {"id": "b"}], "start": "image"},
        {"image_set": "set-1"},
        {"image": {"id": "a"}, "layer": "conv", "channels": "top:2"},
    ],
)
def test_photographs_are_prepared_as_asked(body: dict[str, Any]) -> None:
    assert resolve(**body, preprocess={"crop": "none"})["preprocess"]["crop"] == "none"


def test_objectives_come_through_a_form() -> None:
    fields = [("objective", '[{"class": 1}, {"layer": "conv"}]'), ("size", "48"), ("stop_at", "2.5")]
    found = resolve(**read_fields(OPERATION, fields))
    assert (len(found["objective"]), found["size"], found["stop_at"]) == (2, [48, 48], 2.5)
    assert resolve(**read_fields(OPERATION, [("objective", '{"class": 1}')]))["objective"] == [{"class": 1}]
    assert len(resolve(**read_fields(OPERATION, [("channels", "3,5")]))["objective"]) == 2


def test_cost_counts_forwards_and_bytes() -> None:
    resolved = OPERATION.resolve(MaximizeRequest(channels=[0, 1], steps=10, size=64), CARD)
    cost = OPERATION.cost(resolved, CARD, images=0)
    assert cost.forwards == 4 * (3 * 2 * 10 + 2)
    assert cost.result_bytes == 2 * (3 * 64 * 64 + 40 + 24)


def test_tiles_are_titled_with_channel_and_loss() -> None:
    told = {"kind": "channel", "layer": "conv", "channel": 3, "loss_last": 1.25, "value": 1.5, "dead": False}
    lost = {**told, "channel": 4, "stopped_by": "diverged", "withheld": True, "loss_last": None, "value": None}
    facts = {"pictures": [told, {**told, "channel": 5, "dead": True, "withheld": True}, lost]}
    (picture,) = OPERATION.pictures(resolve(channels=[3, 5, 4]), facts, {})
    assert [tile.titles["loss"] for tile in picture.tiles] == ["3: objective 1.5", "5: dead", "4: diverged"]
    assert picture.title == "loss", "the objective of the picture that is shown, and not of the last step's view"
    assert [tile.parts[0].index for tile in picture.tiles] == [(0,), (1,), (2,)]
    several = resolve(objective=[{"class": 1}, {"sum": [{"weight": -1, "of": {"layer": "conv", "channel": 0}}]}])
    drawn = [{**told, "kind": "class"}, {**told, "kind": "sum"}]
    (picture,) = OPERATION.pictures(several, {"pictures": drawn}, {})
    assert [tile.titles["index"] for tile in picture.tiles] == ["class 1", "− 1·conv channel 0"]
