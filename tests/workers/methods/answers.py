"""Small networks that answer in every form, over features known by hand, and what is right for each.

Features of a pixel (R, G, B in [0, 1]): A₀ = R + G + B and A₁ = relu(R − G). Logits are linear in them, of their mean
over the image or, of networks that answer in maps, at each pixel.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.workers.fakes import FakeNetwork
from workers.networks.fast import make_fast
from workers.networks.outputs import find_outputs

SIDE = 4
WEIGHTS = np.array([[2.0, 0.0], [-1.0, 4.0], [0.5, -3.0]])
BIAS = np.array([0.0, 1.0, 0.25])
Array = np.ndarray[Any, Any]
Pair = namedtuple("Pair", ["loss", "logits"])


@dataclass
class Answer:
    """A data class, as detection toolboxes return."""

    logits: Tensor
    note: str = ""


class Known(nn.Module):
    """The features, the head and what is returned."""

    def __init__(self, finish: Callable[[Tensor], Any], count: int = 3, dense: bool = False) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 2, 1)
        self.features.weight.data = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0]]).reshape(2, 3, 1, 1)
        self.features.bias.data.zero_()
        self.head = nn.Conv2d(2, count, 1) if dense else nn.Linear(2, count)
        weights = torch.from_numpy(WEIGHTS[-count:]).float()
        self.head.weight.data = weights.reshape(self.head.weight.shape)
        self.head.bias.data = torch.from_numpy(BIAS[-count:]).float()
        self.finish = finish if isinstance(finish, nn.Module) else None
        self._function = finish
        self._dense = dense

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.features(x))
        scores = self.head(x if self._dense else x.mean(dim=(2, 3)))
        return self._function(scores) if self.finish is None else self.finish(scores)


class KnownNetwork(FakeNetwork):
    """One whose `fast` is bfloat16, as networks of the catalogue have it."""

    def fast_module(self) -> nn.Module:
        return make_fast(self.module, torch.bfloat16)


@dataclass(frozen=True)
class Form:
    """One way to answer.

    Attributes:
        finish: from the logits to what the network returns.
        link: what makes probabilities of logits.
        count: classes; dense: whether they are maps.
        output, outputs: what the catalogue says.
        shown: the classes that are returned, of a network that returns a part of them.
    """

    finish: Callable[[Tensor], Any]
    link: str = "softmax"
    count: int = 3
    dense: bool = False
    output: str | int | None = None
    outputs: str | None = None

    def network(self) -> KnownNetwork:
        """Of these weights, with names for its classes."""
        module = Known(self.finish, self.count, self.dense).eval()
        found = find_outputs(
            module, lambda images: torch.rand(images, 3, SIDE, SIDE), output=self.output, meaning=self.outputs
        )
        names = ["sky", "road", "car"][-self.count :]
        return KnownNetwork(module, (SIDE, SIDE), classes=names, chain=False, outputs=found)

    def logits(self, pixels: Array) -> Array:
        """Of an upload (uint8 H×W×3): classes, or classes×H×W."""
        maps = self._maps(pixels)
        return maps if self.dense else maps.mean(axis=(1, 2))

    def _maps(self, pixels: Array) -> Array:
        features = features_of(pixels)
        weights, bias = WEIGHTS[-self.count :], BIAS[-self.count :]
        maps: Array = np.einsum("kc,chw->khw", weights, features) + bias[:, None, None]
        return maps

    def probabilities(self, logits: Array) -> Array | None:
        """By the link, along the first axis."""
        if self.link == "value":
            return None
        if self.link == "sigmoid":
            return np.asarray(1 / (1 + np.exp(-logits)))
        raised = np.exp(logits - logits.max(axis=0))
        return np.asarray(raised / raised.sum(axis=0))


def features_of(pixels: Array) -> Array:
    """A₀ and A₁ of every pixel, 2×H×W."""
    red, green, blue = (pixels[..., k].astype(np.float64) / 255 for k in range(3))
    return np.stack([red + green + blue, np.maximum(red - green, 0)])


NUMBERS: dict[str, Form] = {
    "tensor": Form(lambda z: z),
    "1×1 maps": Form(lambda z: z[:, :, None, None]),
    "tuple": Form(lambda z: (z[:, :, None, None].expand(-1, -1, 4, 4), z, z[:, :1])),
    "list": Form(lambda z: [z, z[:, :1]]),
    "mapping": Form(lambda z: {"features": z[:, :2], "logits": z}),
    "mapping, out": Form(lambda z: {"aux": z[:, :2], "out": z}),
    "mapping of one": Form(lambda z: {"classes": z, "version": 3}),
    "named tuple": Form(lambda z: Pair(z.mean(), z)),
    "data class": Form(Answer),
    "chosen by key": Form(lambda z: {"logits": z[:, :1], "main": [None, z]}, output="main.1"),
    "chosen by place": Form(lambda z: (z[:, :1], z), output=1),
    "squeezed": Form(lambda z: z.squeeze()),
    "softmax": Form(nn.Softmax(dim=1)),
    "functional softmax": Form(lambda z: F.softmax(z, -1)),
    "log softmax": Form(lambda z: F.log_softmax(z, dim=1)),
    "softmax, clamped": Form(lambda z: z.softmax(1).clamp(1e-7, 1)),
    "softmax by hand": Form(lambda z: z.exp() / z.exp().sum(dim=1, keepdim=True)),
    "softmax in a mapping": Form(lambda z: {"out": torch.softmax(z, 1)}),
    "declared softmax": Form(lambda z: z, outputs="softmax"),
    "sigmoid": Form(nn.Sigmoid(), "sigmoid"),
    "sigmoid in place": Form(lambda z: z.sigmoid_(), "sigmoid"),
    "log sigmoid": Form(F.logsigmoid, "sigmoid"),
    "two heads": Form(lambda z: torch.cat([z[:, :1].sigmoid(), z[:, 1:].sigmoid()], 1), "sigmoid"),
    "declared sigmoid": Form(lambda z: z, "sigmoid", outputs="sigmoid"),
    "declared value": Form(lambda z: z, "value", outputs="value"),
    "one": Form(lambda z: z, "value", 1),
    "one a row": Form(lambda z: z[:, 0], "value", 1),
    "one, squeezed": Form(lambda z: z.squeeze(), "value", 1),
    "one, declared sigmoid": Form(lambda z: z.squeeze(1), "sigmoid", 1, outputs="sigmoid"),
    "one, sigmoid": Form(lambda z: torch.sigmoid(z).view(-1), "sigmoid", 1),
}
"""Networks that answer in numbers."""

MAPS: dict[str, Form] = {
    "maps": Form(lambda z: z, dense=True),
    "maps, out": Form(lambda z: {"out": z, "aux": z[:, :1]}, dense=True),
    "maps, several depths": Form(lambda z: [z, F.avg_pool2d(z, 2)], dense=True),
    "maps, softmax": Form(nn.Softmax(dim=1), dense=True),
    "maps, squeezed": Form(lambda z: z.squeeze(), dense=True),
    "maps, sigmoid": Form(nn.Sigmoid(), "sigmoid", dense=True),
    "one map, sigmoid": Form(lambda z: torch.sigmoid(z).squeeze(1), "sigmoid", 1, True),
    "one map, declared": Form(lambda z: z, "sigmoid", 1, True, outputs="sigmoid"),
}
"""Networks that answer in a map a class."""

UNREADABLE: dict[str, Form] = {
    "class indices": Form(lambda z: z.argmax(1)),
    "tokens": Form(lambda z: z[:, None].expand(-1, 7, -1)),
    "mapping of two": Form(lambda z: {"a": z, "b": z}),
    "boxes": Form(lambda z: [{"boxes": z, "scores": z[:, 0]}]),
    "nothing": Form(lambda z: None),
    "key that is not there": Form(lambda z: {"logits": z}, output="main"),
    "declared another": Form(nn.Softmax(dim=1), outputs="sigmoid"),
    "softmax of one": Form(lambda z: z, count=1, outputs="softmax"),
}
"""Networks whose answer nobody can read, or that contradict the catalogue."""
