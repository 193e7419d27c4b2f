"""The recipes of public tutorials written out, Keras's with Keras itself, against one request each."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convscope.protocol.operations import operations
from convscope.protocol.pictures import ArrayInfo
from tests.workers.fakes import FakeNetwork
from tests.workers.methods.ascents import channel, climb, finished, outcome, request, started, tiny
from tests.workers.methods.maximize.recipes_at_hand import recipe
from workers.methods.maximize.optimizers import climb as one_step

SIDE = 24
RAW = {
    "size": None, "crop": None, "resize_mode": None, "antialias": None, "range": "byte", "mean": None, "std": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def keras() -> Any:
    """Keras 3 on its torch backend."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    keras.utils.set_random_seed(42)
    return keras


@pytest.fixture(scope="module")
def vgg_in_keras(keras: Any) -> Any:
    """The first blocks of VGG16 as Keras writes them, narrow."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            layers.Conv2D(5, 3, padding="same", activation="relu", name="block1_conv1"),
            layers.Conv2D(6, 3, padding="same", activation="relu", name="block1_conv2"),
            layers.MaxPooling2D(2, name="block1_pool"),
            layers.Conv2D(7, 3, padding="same", activation="relu", name="block2_conv1"),
        ]
    )


def same_network(model: Any) -> FakeNetwork:
    """The same weights in torch, with another normalisation than the recipe's."""
    convolutions = [layer for layer in model.layers if layer.name.endswith(("conv1", "conv2"))]
    modules = []
    for layer in convolutions:
        kernel, bias = layer.get_weights()
        module = nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1)
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(kernel).permute(3, 2, 0, 1))
            module.bias.copy_(torch.from_numpy(bias))  # type: ignore[union-attr]
        modules += [module, nn.ReLU()]
    modules.insert(4, nn.MaxPool2d(2))
    return FakeNetwork(nn.Sequential(*modules), (SIDE, SIDE), mean=(0.5,) * 3, std=(0.25,) * 3)


def keras_ascent(keras: Any, model: Any, start: np.ndarray[Any, Any], index: int, steps: int) -> tuple[Any, Any]:
    """The VGG16 tutorial: Keras's Adam of rate 5.1 on minus the mean activation; its losses and the last picture."""
    picture = keras.Variable(start[None].astype("float32"))
    optimizer = keras.optimizers.Adam(learning_rate=5.1)
    losses = []
    for _ in range(steps):
        loss = -model(picture.value)[..., index].mean()
        (gradient,) = torch.autograd.grad(loss, picture.value)
        with torch.no_grad():
            optimizer.apply([gradient], [picture])
        losses.append(-loss.item())
    return losses, keras.ops.convert_to_numpy(picture)[0]


def test_the_loss_curve_of_the_vgg16_recipe(keras: Any, vgg_in_keras: Any) -> None:
    start = 128 + np.random.RandomState(42).uniform(0, 20, (SIDE, SIDE, 3))
    with torch.no_grad():
        means = vgg_in_keras(torch.tensor(start[None], dtype=torch.float32)).mean((0, 1, 2))
    index = int(means.argmax())
    losses, last = keras_ascent(keras, vgg_in_keras, start, index, 30)
    asked = request(
        "pixel", size=[SIDE, SIDE], steps=30, learning_rate=5.1, start="image", objective=[channel(index, "6")],
        preprocess=RAW,
    )  # fmt: skip
    found = outcome(same_network(vgg_in_keras), asked, [torch.from_numpy(start / 255).float()])
    curve = found.arrays["loss"][0].double()
    theirs = torch.tensor(losses, dtype=torch.float64)
    assert float(((curve - theirs) / theirs).abs().max()) < 1e-5
    assert losses[-1] > 2 * losses[0]
    picture = found.arrays["pictures"][0].permute(1, 2, 0) * 255
    torch.testing.assert_close(picture, torch.from_numpy(last), atol=0.01, rtol=0)
    assert float((picture < 0).float().mean() + (picture > 255).float().mean()) > 0.001  # as it was made, not cut


def test_small_gradients_move_half_as_far_with_keras_adam(keras: Any) -> None:
    slopes = torch.full((1, 3, 4), 3e-6)
    still = (torch.zeros(1, 3, 4), torch.zeros(1, 3, 4))
    variable, optimizer = keras.Variable(np.zeros((1, 3, 4), "float32")), keras.optimizers.Adam(learning_rate=1.0)
    parameters, moments = torch.zeros(1, 3, 4), still
    first: list[Tensor] = []
    for step in range(12):
        gradient = slopes * (1 + step % 3)
        optimizer.apply([-gradient], [variable])
        parameters, moments = one_step(recipe("pixel", learning_rate=1.0), parameters, gradient, moments, [step])
        first.append(parameters)
        torch.testing.assert_close(parameters, variable.value.detach(), rtol=2e-6, atol=0)
    torchs, _ = one_step(recipe("pixel", learning_rate=1.0, optimizer="adam"), torch.zeros(1, 3, 4), slopes, still, [0])
    assert float(first[0].mean() / torchs.mean()) == pytest.approx(0.488, abs=0.002)


@pytest.mark.parametrize("name", ["adam", "keras-adam", "nadam", "rms"])
def test_constants_of_optimizers_are_the_requests(name: str, keras: Any) -> None:
    constants = {"epsilon": 1e-3} | ({} if name == "rms" else {"beta1": 0.8, "beta2": 0.9})
    how = recipe("pixel", learning_rate=0.3, optimizer=name, **constants)
    gradients = [torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(k)) for k in range(6)]
    parameters, moments = torch.zeros(1, 2, 3), (torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))
    for step, gradient in enumerate(gradients):
        parameters, moments = one_step(how, parameters, gradient, moments, [step])
    if name == "keras-adam":
        variable = keras.Variable(np.zeros((1, 2, 3), "float32"))
        optimizer = keras.optimizers.Adam(0.3, beta_1=0.8, beta_2=0.9, epsilon=1e-3)
        for gradient in gradients:
            optimizer.apply([-gradient], [variable])
        expected = variable.value.detach()
    elif name == "rms":
        expected = torch.zeros(1, 2, 3)
        for gradient in gradients:
            expected = expected + 0.3 * gradient / (gradient.square().mean().sqrt() + 1e-3)
    else:
        expected = torch.zeros(1, 2, 3, requires_grad=True)
        kind = torch.optim.Adam if name == "adam" else torch.optim.NAdam
        peer = kind([expected], lr=0.3, betas=(0.8, 0.9), eps=1e-3)
        for gradient in gradients:
            expected.grad = -gradient
            peer.step()
    torch.testing.assert_close(parameters, expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("after", [False, True])
def test_a_threshold_keeps_the_picture_before_or_after_its_step(after: bool) -> None:
    network, asked = tiny(), request("pixel", steps=12, learning_rate=4.0)
    row, (state,) = started(network, asked)
    pictures, losses = [state.parameters.clone()], []
    climb(network, [state])
    losses = state.losses
    assert max(losses[:5]) < losses[5]  # the sixth step is the first to see that value
    for steps in range(1, 7):
        _, (again,) = started(network, {**asked, "steps": steps})
        climb(network, [again])
        pictures.append(again.parameters)
    row, (stopped,) = started(network, {**asked, "stop_at": losses[5], "stop_after_update": after})
    climb(network, [stopped])
    assert (stopped.stopped_by, len(stopped.losses)) == ("stop_at", 6)
    assert stopped.parameters.equal(pictures[6 if after else 5])
    assert finished(network, row, [stopped]).facts["pictures"][0]["steps"] == 6


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def flashtorch(network: FakeNetwork, start: Tensor, index: int, steps: int) -> tuple[list[float], Tensor, Tensor]:
    """FlashTorch 0.1.3 written out: its losses, its last tensor, and the picture that it shows."""
    x = start.clone()
    losses = []
    for _ in range(steps):
        x = x.detach().requires_grad_(True)
        loss = network.module[:3](x)[:, index].mean()  # type: ignore[index]
        (gradient,) = torch.autograd.grad(loss, x)
        x = x + gradient / (gradient.square().mean().sqrt() + 1e-5)
        losses.append(loss.item())
    x = x.detach()[0]
    return losses, x, ((x - x.mean()) / x.std() * 0.15 + 0.7).clamp(0, 1)


def test_flashtorch_shows_its_own_picture() -> None:
    network = FakeNetwork(tiny().module, (32, 32), mean=MEAN, std=STD)
    start = torch.from_numpy(np.uint8(np.random.RandomState(1).uniform(150, 180, (32, 32, 3))))
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    losses, x, shown = flashtorch(network, (start.permute(2, 0, 1)[None].float() / 255 - mean) / std, 0, 30)
    asked = request("flashtorch", steps=30, start="image", objective=[channel(0, "2")])
    found = outcome(network, asked, [start])
    torch.testing.assert_close(found.arrays["loss"][0], torch.tensor(losses), rtol=1e-4, atol=1e-5)
    made = found.arrays["pictures"][0]
    torch.testing.assert_close(made, x * std[0] + mean[0], rtol=1e-3, atol=1e-3)
    outside = float(((made < 0) | (made > 1)).float().mean())
    assert outside > 0.3  # why it is not cut
    difference = found.arrays["images"][0].permute(2, 0, 1).float() - shown * 255
    assert float(difference.abs().max()) <= 1.0
    cut = outcome(network, {**asked, "display": "clip"}, [start]).arrays["images"][0]
    assert cut.equal((made.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0))


def test_titles_say_the_last_step_or_the_picture_that_is_shown() -> None:
    asked = request("pixel", steps=4)
    facts = outcome(tiny(), asked).facts
    told = facts["pictures"][0]
    assert told["loss_last"] != pytest.approx(told["value"])
    shape = {"images": ArrayInfo((1, 32, 32, 3), "uint8")}
    (picture,) = operations()["maximize"].pictures({**asked, "model": "fake", "preset": "pixel"}, facts, shape)
    assert picture.tiles[0].titles["loss"] == f"0: objective {told['value']:.4g}"
    assert picture.tiles[0].titles["loss_last"] == f"0: last step {told['loss_last']:.4g}"
