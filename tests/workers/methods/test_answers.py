"""Every form of a network's answer in every operation and precision, against values computed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from tests.workers.fakes import finish, traces
from tests.workers.methods import ascents
from tests.workers.methods.answers import MAPS, NUMBERS, SIDE, UNREADABLE, WEIGHTS, Array, Form, features_of
from workers.contract import Grant, MethodError, Outcome, Row, params
from workers.methods import cam, classify, occlusion, saliency

PIXELS = np.random.default_rng(4).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
OTHER = np.random.default_rng(5).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
COMMON = {"preprocess": None, "seed": 0, "nonstandard_gate": False, "region": None, "mask": None}
EXACT, FAST = 1e-5, 0.05
"""Share of the largest value by which numbers may miss what is right; bfloat16 has eight bits."""

FORMS = NUMBERS | MAPS
everywhere = pytest.mark.parametrize("precision", ["exact", "fast"])
every_form = pytest.mark.parametrize("name", list(FORMS))


def ask(form: Form, method: Any, images: Any = (PIXELS,), /, **wish: Any) -> Outcome:
    """The outcome of one request; its error is raised."""
    network = form.network()
    before = traces(network.module)
    row = Row(params({**COMMON, **wish}), [torch.from_numpy(one.copy()) for one in images])
    results, _ = finish(method.run(network, [row], Grant()))
    assert traces(network.module) == before
    if isinstance(results[0], MethodError):
        raise results[0]
    return results[0]


def near(found: Any, right: Any, precision: str) -> None:
    """Equal up to the precision's rounding."""
    right = np.asarray(right, np.float64)
    scale = max(float(np.abs(right).max(initial=0.0)), 0.1)
    np.testing.assert_allclose(np.asarray(found, np.float64), right, rtol=0, atol=scale * tolerance(precision))


def tolerance(precision: str) -> float:
    return FAST if precision == "fast" else EXACT


def mean_over(form: Form, values: Array) -> Array:
    """Of each class one number."""
    return values.mean(axis=(1, 2)) if form.dense else values


@everywhere
@every_form
def test_classify(name: str, precision: str) -> None:
    form = FORMS[name]
    found = ask(form, classify.METHOD, top=form.count, precision=precision)
    logits = form.logits(PIXELS)
    chances = form.probabilities(logits)
    told = {one["index"]: one for one in found.facts["predictions"][0]}
    right = mean_over(form, logits)
    log_softmax = "log" in name and form.link == "softmax"
    for index in range(form.count):
        one = told[index]
        if form.link == "value":
            near(one["value"], right[index], precision)
            assert one["probability"] is None
            assert one["logit"] == (None if form.outputs == "value" else one["value"])
            continue
        assert chances is not None and one["value"] is None
        near(one["probability"], mean_over(form, chances)[index], precision)
        if name not in ("softmax, clamped", "softmax by hand") and not log_softmax:
            near(one["logit"], right[index], precision)  # else known up to a constant
    assert found.facts["output"]["outputs"] == form.link
    if form.dense and form.link == "softmax":
        winners = logits.argmax(axis=0)
        if precision == "exact":
            assert found.arrays["class_map"][0].tolist() == winners.tolist()
            near([told[k]["share"] for k in range(3)], [(winners == k).mean() for k in range(3)], precision)
            shares = [one["share"] for one in found.facts["predictions"][0]]
            assert shares == sorted(shares, reverse=True)
    elif form.dense and precision == "exact":
        shown = np.where(logits.max(axis=0) > 0, logits.argmax(axis=0), -1)
        assert found.arrays["class_map"][0].tolist() == shown.tolist()
        near([told[k]["share"] for k in range(form.count)], (logits > 0).mean(axis=(1, 2)), precision)
    if not form.dense and form.link != "value":
        order = [one["index"] for one in found.facts["predictions"][0]]
        assert order == sorted(order, key=lambda k: -told[k]["probability"])


@every_form
def test_images_do_not_see_each_other(name: str) -> None:
    form = FORMS[name]
    if "squeezed" in name:
        pass  # two images keep their dimension, one loses it
    both = ask(form, classify.METHOD, (PIXELS, OTHER), top=1, precision="exact")
    key = next(key for key in ("logits", "values") if key in both.arrays)
    for place, pixels in enumerate((PIXELS, OTHER)):
        alone = ask(form, classify.METHOD, (pixels,), top=1, precision="exact")
        torch.testing.assert_close(both.arrays[key][place], alone.arrays[key][0], rtol=0, atol=1e-6)


@everywhere
@every_form
def test_cam(name: str, precision: str) -> None:
    """Grad-CAM of the logit: the mean slope of each feature times its map."""
    form, target = FORMS[name], 0
    found = ask(
        form, cam.METHOD, layer="@relu", methods=["gradcam"], targets=[target], upsampled=False, precision=precision
    )
    one = found.facts["maps"][0]
    logits = form.logits(PIXELS)
    chances = form.probabilities(logits)
    if chances is None:
        assert one["probability"] is None
    else:
        near(one["probability"], mean_over(form, chances)[target], precision)
    if name in ("softmax, clamped", "softmax by hand", "log softmax") and not form.dense:
        weights = log_slopes(form, logits, target) if name != "log softmax" else WEIGHTS[-form.count :][target]
    else:
        weights = WEIGHTS[-form.count :][target]
    right = np.einsum("c,chw->hw", weights, features_of(PIXELS)) / SIDE**2
    near(found.arrays[f"cam/gradcam/{target}"][0], right, precision)


def log_slopes(form: Form, logits: Array, target: int) -> Array:
    """∂ log p / ∂ features: where only probabilities are to be had, their logarithm stands for the logit."""
    chances = form.probabilities(logits)
    assert chances is not None
    weights = WEIGHTS[-form.count :]
    return np.asarray(weights[target] - chances @ weights)


@everywhere
@every_form
def test_saliency(name: str, precision: str) -> None:
    """The gradient of the last class's logit with regard to every colour of every pixel."""
    form = FORMS[name]
    target = form.count - 1
    wish = {"method": "gradient", "target": target, "samples": 1, "noise": 0.0, "baseline": "black", "steps": 1}
    found = ask(form, saliency.METHOD, precision=precision, max_steps=1, tolerance=0.1, **wish)
    one = found.facts["images"][0]
    logits = form.logits(PIXELS)
    slope = WEIGHTS[-1]
    if name in ("softmax, clamped", "softmax by hand"):
        slope = log_slopes(form, logits, target)
    red, green = PIXELS[..., 0].astype(int), PIXELS[..., 1].astype(int)
    gate = (red > green).astype(float)
    right = np.stack([slope[0] + slope[1] * gate, slope[0] - slope[1] * gate, np.full_like(gate, slope[0])]) / SIDE**2
    near(found.arrays["attribution"][0], right, precision)
    assert one["target"] == target and one["target_name"] == "car"
    chances = form.probabilities(logits)
    if chances is None:
        assert one["probability"] is None
    else:
        near(one["probability"], mean_over(form, chances)[target], precision)


@everywhere
@every_form
def test_occlusion(name: str, precision: str) -> None:
    """A black square over the lower half: the class's answer to the image with that half black."""
    form = FORMS[name]
    wish = {"window": [2, 4], "stride": [2, 4], "fill": "black", "incremental": True, "target": 0}
    unit = {"layer": "@relu", "channel": 0, "y": None, "x": None}
    found = ask(form, occlusion.METHOD, precision=precision, unit=unit, **wish)
    key = "value" if form.link == "value" else "probability"
    told = found.arrays[key][0, :, 0]
    for place in (0, 1):
        hidden = PIXELS.copy()
        hidden[2 * place : 2 * place + 2] = 0
        logits = form.logits(hidden)
        chances = form.probabilities(logits)
        near(told[place], mean_over(form, logits if chances is None else chances)[0], precision)
        near(found.arrays["activation"][0, place, 0], features_of(hidden)[0].sum(), precision)
    assert set(found.arrays) == {key, "activation", "top_class"}
    if not form.dense and form.count > 1 and precision == "exact":
        assert int(found.facts["baseline"]["top_class"]) == int(form.logits(PIXELS).argmax())


@everywhere
@every_form
def test_maximize(name: str, precision: str) -> None:
    """The finished picture's value is its logit, by hand; the first loss that of the start."""
    form = FORMS[name]
    asked = ascents.request(
        "pixel", objective=[{"class": 0, "region": None}], steps=2, size=[SIDE, SIDE], precision=precision
    )
    network = form.network()
    made = ascents.outcome(network, asked)
    picture = made.facts["pictures"][0]
    logits = form.logits(made.arrays["images"][0].numpy())
    chances = form.probabilities(logits)
    right = mean_over(form, logits)[0]
    if name in ("softmax, clamped", "softmax by hand"):
        assert chances is not None
        right = float(np.log(chances[0]))
    elif name == "log softmax":
        right = float(np.log(np.exp(logits)[0]))
    near(picture["value"], right, "exact")  # the check is in float32 whatever made the picture
    if chances is None:
        assert picture["probability"] is None
    else:
        near(picture["probability"], mean_over(form, chances)[0], "exact")
    assert picture["class_name"] == (["sky", "road", "car"][-form.count :])[0]
    assert made.facts["class_names"] == {"0": picture["class_name"]}
    assert picture["loss_last"] >= picture["loss_first"]


CLASS_REQUESTS: Mapping[str, tuple[Any, dict[str, Any]]] = {
    "classify": (classify.METHOD, {"top": 1}),
    "cam": (cam.METHOD, {"layer": "@relu", "methods": ["gradcam"], "targets": [0], "upsampled": True}),
    "saliency": (
        saliency.METHOD,
        {"method": "gradient", "target": 0, "samples": 1, "noise": 0.0, "steps": 1, "max_steps": 1},
    ),
    "occlusion": (
        occlusion.METHOD,
        {
            "window": [2, 2], "stride": [2, 2], "fill": "black", "incremental": True, "target": 0,
            "unit": {"layer": "@relu", "channel": 0, "y": None, "x": None},
        },
    ),
}  # fmt: skip


@everywhere
@pytest.mark.parametrize("name", list(UNREADABLE))
def test_what_nobody_can_read_is_refused_alike(name: str, precision: str) -> None:
    said = set()
    for method, wish in CLASS_REQUESTS.values():
        try:
            ask(UNREADABLE[name], method, precision=precision, **wish)
        except MethodError as error:
            assert error.problem == "not-applicable"
            said.add(error.detail)
    assert len(said) == 1, said
    asked = ascents.request("pixel", objective=[{"class": 0}], size=[SIDE, SIDE], precision=precision)
    network = UNREADABLE[name].network()
    _, states = ascents.started(network, asked)
    with pytest.raises(MethodError) as caught:
        ascents.step(network, states)
    assert caught.value.problem == "not-applicable" and {caught.value.detail} == said


def test_a_scalar_for_the_whole_batch_is_no_answer_to_two_images() -> None:
    """`fast` runs both in one pass; `exact` runs each alone, and its scalar is its own."""
    form = Form(lambda z: z.mean(), "value", 1)
    with pytest.raises(MethodError, match="for 2 images"):
        ask(form, classify.METHOD, (PIXELS, OTHER), top=1, precision="fast")
    both = ask(form, classify.METHOD, (PIXELS, OTHER), top=1, precision="exact")
    for name in both.arrays:
        alone = [ask(form, classify.METHOD, (one,), top=1, precision="exact").arrays[name] for one in (PIXELS, OTHER)]
        assert torch.equal(both.arrays[name], torch.cat(alone))
    assert both.arrays


@pytest.mark.parametrize("name", ["one, sigmoid", "one, declared sigmoid", "one", "sigmoid", "one map, sigmoid"])
def test_the_other_side(name: str) -> None:
    """The negative logit, one less the probability, and the map of what speaks against it."""
    form = FORMS[name]
    both = ask(
        form, cam.METHOD, layer="@relu", methods=["gradcam"], targets=[0, "-0"], upsampled=False, precision="exact"
    )
    one, other = both.facts["maps"]
    assert other["logit"] == -one["logit"] and other["other_side"] and other["name"] == f"not {one['name']}"
    if form.link == "sigmoid":
        assert other["probability"] == pytest.approx(1 - one["probability"])
    torch.testing.assert_close(both.arrays["cam/gradcam/-0"], -both.arrays["cam/gradcam/0"])
    made = ascents.outcome(
        form.network(), ascents.request("pixel", objective=[{"class": "-0"}], steps=2, size=[SIDE, SIDE])
    )
    logits = mean_over(form, form.logits(made.arrays["images"][0].numpy()))
    near(made.facts["pictures"][0]["value"], -logits[0], "exact")


REGIONS: dict[str, tuple[Any, Array]] = {
    "all": ("all", np.ones((4, 4), bool)),
    "a place": ([1, 2], np.eye(16)[6].reshape(4, 4).astype(bool)),
    "a box": ([0, 1, 2, 4], np.pad(np.ones((2, 3), bool), ((0, 2), (1, 0)))),
}


@pytest.mark.parametrize("region", [*REGIONS, "predicted", "mask"])
def test_regions_of_a_class(region: str) -> None:
    """The gradient of the mean logit over the region is zero outside and 1/pixels of each pixel's own inside."""
    form = MAPS["maps, softmax"]
    logits = form.logits(PIXELS)
    target = int(np.bincount(logits.argmax(axis=0).ravel()).argmax())
    images: list[Array] = [PIXELS]
    wish: dict[str, Any] = {"region": region}
    if region == "predicted":
        inside = logits.argmax(axis=0) == target
    elif region == "mask":
        inside = np.random.default_rng(1).random((4, 4)) > 0.5
        images.append(np.repeat(inside[:, :, None], 3, axis=2).astype(np.uint8) * 255)
        wish["mask"] = {"id": "img-1"}
    else:
        wish["region"], inside = REGIONS[region]
    request = CLASS_REQUESTS["saliency"][1] | {"target": target, "precision": "exact"} | wish
    found = ask(form, saliency.METHOD, images, **request)
    slope, gate = WEIGHTS[target], (PIXELS[..., 0] > PIXELS[..., 1]).astype(float)
    right = np.stack([slope[0] + slope[1] * gate, slope[0] - slope[1] * gate, np.full_like(gate, slope[0])])
    near(found.arrays["attribution"][0], right * inside / inside.sum(), "exact")
    chances = form.probabilities(logits)
    assert chances is not None
    facts = found.facts["images"][0]
    assert facts["region_pixels"] == inside.sum()
    near(facts["probability"], chances[target][inside].mean(), "exact")
    near(facts["logit"], logits[target][inside].mean(), "exact")

    hidden = ask(
        form,
        occlusion.METHOD,
        images,
        **CLASS_REQUESTS["occlusion"][1] | {"target": target, "precision": "exact"} | wish,
    )
    black = PIXELS.copy()
    black[:2, :2] = 0
    again = form.probabilities(form.logits(black))
    assert again is not None
    near(hidden.arrays["probability"][0, 0, 0], again[target][inside].mean(), "exact")

    maps = ask(
        form, cam.METHOD, images, **CLASS_REQUESTS["cam"][1] | {"targets": [target], "precision": "exact"} | wish
    )
    weights = slope / SIDE**2  # the mean over all positions of a slope that is 1/pixels inside
    near(maps.arrays[f"cam/gradcam/{target}"][0], np.einsum("c,chw->hw", weights, features_of(PIXELS)), "exact")

    objective = {"class": target, "region": wish["region"]}
    asked = ascents.request("pixel", objective=[objective], steps=1, size=[4, 4], mask=wish.get("mask"))
    network, uploads = form.network(), [torch.from_numpy(one) for one in images[1:]]
    row, states = ascents.started(network, asked, uploads)
    assert ascents.step(network, states) == [None]
    made = ascents.at_once(ascents.METHOD.finish(network, row, states, Grant()))
    own = form.logits(made.arrays["images"][0].numpy())
    if region == "predicted":
        inside = own.argmax(axis=0) == target
    near(made.facts["pictures"][0]["value"], own[target][inside if inside.any() else inside | True].mean(), "exact")
    assert made.facts["references"] == 0


def test_predicted_of_maps_is_the_class_of_most_pixels() -> None:
    form = MAPS["maps"]
    most = np.bincount(form.logits(PIXELS).argmax(axis=0).ravel()).argmax()
    found = ask(form, saliency.METHOD, precision="exact", **CLASS_REQUESTS["saliency"][1] | {"target": "predicted"})
    assert found.facts["images"][0]["target"] == most


def test_a_region_where_nothing_is_predicted_is_refused() -> None:
    form = MAPS["one map, sigmoid"]
    dark = np.zeros_like(PIXELS)
    dark[..., 0] = 255  # 0.5·1 − 3·1 + 0.25 < 0 everywhere
    with pytest.raises(MethodError, match="no pixel of the network's answer is predicted"):
        wish = CLASS_REQUESTS["saliency"][1] | {"region": "predicted", "precision": "exact"}
        ask(form, saliency.METHOD, (dark,), **wish)


def test_a_mask_has_the_size_of_its_image() -> None:
    wish = CLASS_REQUESTS["saliency"][1] | {"region": "mask", "mask": {"id": "img-1"}, "precision": "exact"}
    with pytest.raises(MethodError, match="5×5 pixels and the image 4×4"):
        ask(MAPS["maps"], saliency.METHOD, (PIXELS, np.zeros((5, 5, 3), np.uint8)), **wish)
