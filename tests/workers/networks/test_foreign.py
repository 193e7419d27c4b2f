"""Networks of Keras and of ONNX, saved by the real libraries and answered as these answer them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

os.environ["KERAS_BACKEND"] = "torch"
keras: Any = pytest.importorskip("keras")
onnx: Any = pytest.importorskip("onnx")
onnxruntime: Any = pytest.importorskip("onnxruntime")

from workers.networks import LoadedNetwork, Networks  # noqa: E402
from workers.networks.sources import Options, SourceError, find_source  # noqa: E402
from workers.passes.calls import capture  # noqa: E402


def loaded(folder: Path, source: str, more: str = "") -> LoadedNetwork:
    (folder / "catalogue.toml").write_text(f'[networks.n]\nsource = "{source}"\n{more}')
    networks = Networks(weights_folder=folder / "weights", catalogue=folder / "catalogue.toml")
    assert networks.catalogue()[0]["problem"] is None
    assert networks.card("n")["weights"] == "inside"
    return networks.get("n")


def tutorial(side: int = 150) -> Any:
    """The small net of Keras's tutorial on image classification, with a softmax at its end, trained for a moment."""
    layers = keras.layers
    keras.utils.clear_session()  # names count on through a process
    keras.utils.set_random_seed(3)
    model = keras.Sequential([
        keras.Input((side, side, 3)), layers.Rescaling(1 / 255),
        layers.Conv2D(8, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
        layers.Conv2D(16, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
        layers.Conv2D(32, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
        layers.Dropout(0.2), layers.Flatten(), layers.Dense(32, activation="relu"),
        layers.Dense(3, activation="softmax"),
    ])  # fmt: skip
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(0, 255, (12, side, side, 3)).astype("float32"), np.arange(12) % 3
    images[labels == 1, :, :, 0] *= 0.3
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=2, batch_size=4, verbose=0)
    return model


def varied() -> Any:
    """A functional model of what else convolutional networks of Keras are made of."""
    layers = keras.layers
    keras.utils.set_random_seed(4)
    inputs = keras.Input((33, 40, 3), name="pixels")
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(6.0, name="relu6")(x)
    short = layers.ZeroPadding2D(((0, 1), (1, 0)), name="pad")(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="valid", depth_multiplier=2, name="depthwise")(short)
    x = layers.SeparableConv2D(12, 5, padding="same", activation="swish", name="separable")(x)
    gate = layers.GlobalAveragePooling2D(name="squeeze")(x)
    gate = layers.Reshape((1, 1, 12), name="one")(gate)
    gate = layers.Conv2D(12, 1, activation="sigmoid", name="excite")(gate)
    x = layers.Multiply(name="scaled")([x, gate])
    again = layers.Conv2D(12, 3, padding="same", dilation_rate=2, name="shared")
    y = again(again(x))
    x = layers.Add(name="sum")([x, y])
    x = layers.Concatenate(name="both")([x, layers.LeakyReLU(name="leaky")(y)])
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool")(x)
    x = layers.UpSampling2D(2, interpolation="bilinear", name="larger")(x)
    x = layers.Flatten(name="flat")(x)
    return keras.Model(inputs, layers.Dense(4, name="answer")(x))


def keras_maps(model: Any, pixels: np.ndarray[Any, Any]) -> dict[str, torch.Tensor]:
    """What every layer of Keras's own gives, N×C×H×W; of one that is called twice, nothing."""
    layers = [one for one in model.layers if type(one).__name__ != "InputLayer" and len(one._inbound_nodes) == 1]
    given = keras.Model(model.inputs, [one.output for one in layers])(pixels, training=False)
    return {
        one.name: maps.permute(0, 3, 1, 2) if maps.dim() == 4 else maps for one, maps in zip(layers, given, strict=True)
    }


@pytest.mark.parametrize("make", [tutorial, varied])
def test_every_layer_is_what_keras_itself_computes(tmp_path: Path, make: Any) -> None:
    model = make()
    model.save(tmp_path / "n.keras")
    network = loaded(tmp_path, "keras:n.keras")
    height, width = model.inputs[0].shape[1:3]
    assert network.input_size == (height, width)
    pixels = np.random.default_rng(1).integers(0, 256, (2, height, width, 3)).astype(np.float32)
    with torch.no_grad():
        own = keras_maps(model, pixels)
        images = [torch.from_numpy(one.astype(np.uint8)) for one in pixels]
        inputs, _ = network.prepare(images)
        maps, answer = capture(network.module, inputs, list(own), to_output=True)
        wanted = model(pixels, training=False)
    assert set(own) <= set(network.layers)
    for name, layer in own.items():
        scale = float(layer.abs().max())
        if name not in ("dropout", "flatten", "flat"):  # Keras's order of numbers is another there by intent, or none
            torch.testing.assert_close(maps[name], layer, atol=1e-5 * scale, rtol=1e-5)
    torch.testing.assert_close(answer, wanted, atol=1e-5, rtol=1e-5)


def test_a_relu_inside_a_convolution_stays_inside(tmp_path: Path) -> None:
    tutorial(32).save(tmp_path / "n.keras")
    network = loaded(tmp_path, "keras:n.keras")
    names = list(network.layers)
    assert {"conv2d", "conv2d.linear", "conv2d.activation"} <= set(names)
    assert network.layers["conv2d.linear"].kernel_shape == (8, 3, 3, 3)
    assert network.layers["conv2d.activation"].activation == "relu"


def test_what_keras_would_have_to_run_is_refused(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Lambda(lambda x: x * 2), keras.layers.Flatten()])
    model.save(tmp_path / "code.keras")
    (tmp_path / "none.keras").write_text("no")
    attention = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2DTranspose(2, 3), keras.layers.Flatten()])
    attention.save(tmp_path / "other.keras")
    for name, reason in {
        "code": "safe mode",
        "none": "is no .keras file",
        "other": "Conv2DTranspose, which is not",
    }.items():
        with pytest.raises(SourceError, match=reason):
            find_source(f"keras:{name}.keras", Options(folders=(tmp_path,))).build()


class Residual(nn.Module):
    """Two blocks with a sum and a ReLU that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6())
        self.blocks = nn.Sequential(Block(), Block())
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.fc(self.blocks(self.stem(x)).mean((2, 3))), 1)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(8, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(x + self.two(self.relu(self.one(x))))


def export(network: nn.Module, path: Path) -> None:
    torch.onnx.export(
        network.eval(), (torch.rand(1, 3, 32, 32),), path, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}
    )


def test_a_network_in_onnx_answers_as_it_is_deployed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Residual()
    export(network, tmp_path / "n.onnx")
    found = loaded(tmp_path, "onnx:n.onnx", "[networks.n.preprocess]\nmean = 0.5\nstd = 0.25\n")
    assert found.input_size == (32, 32)
    assert {"stem.0", "blocks.0.one", "blocks.0.relu", "blocks.1.two", "fc"} <= set(found.layers)
    assert found.layers["blocks.0.one"].kernel_shape == (8, 8, 3, 3)
    inputs = torch.randn(2, 3, 32, 32)
    runtime = onnxruntime.InferenceSession(str(tmp_path / "n.onnx"), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        maps, answer = capture(found.module, inputs, ["blocks.0.relu"], to_output=True)
        torch.testing.assert_close(
            answer, torch.from_numpy(runtime.run(None, {"x": inputs.numpy()})[0]), atol=1e-6, rtol=1e-5
        )
        first = network.blocks[0].relu(network.blocks[0].one(network.stem(inputs)))
    torch.testing.assert_close(maps["blocks.0.relu"], first, atol=1e-5, rtol=1e-5)


def test_newer_operator_sets_and_what_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    export(Residual(), tmp_path / "n.onnx")
    model = onnx.load(tmp_path / "n.onnx")
    onnx.save(onnx.version_converter.convert_version(model, 22), tmp_path / "newer.onnx")
    assert loaded(tmp_path, "onnx:newer.onnx").input_size == (32, 32)
    model.graph.node[0].op_type = "NonMaxSuppression"
    (tmp_path / "other.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "none.onnx").write_bytes(b"no")
    for name in ("other", "none"):
        with pytest.raises(
            SourceError, match=f"{name}.onnx (is no ONNX network|has operators that are not translated)"
        ):
            find_source(f"onnx:{name}.onnx", Options(folders=(tmp_path,)))
