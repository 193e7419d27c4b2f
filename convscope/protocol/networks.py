"""A network that a caller brings: what is said of it, and how it is shown."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from convscope.protocol.requests import StrictModel

NETWORK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What an id in the catalogue looks like."""
VERSION_MARK = "@"
"""Between a network's id and its version, in names that only the service and its workers use."""

Visibility = Literal["owner", "all"]

_CODE = {
    "python": "a module",
    "keras": "a .keras file, which may hold code",
    "onnx": "an ONNX file",
    "export": "a .pt2 file, which is its own source: send it without one",
}
_SOURCE = re.compile(r"(torchvision|timm):[A-Za-z0-9_.-]{1,100}|[a-z0-9_]{1,60}")

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
Pixels = Annotated[int, Field(ge=8, le=4096)]
Layer = Annotated[str, Field(max_length=40)]
PlaneValue = Annotated[float, Field(ge=-1e6, le=1e6)]
PlaneValues = PlaneValue | Annotated[list[PlaneValue], Field(min_length=1, max_length=64)]


class NetworkPreprocess(StrictModel):
    """How an upload becomes the network's input, where that differs from the architecture's own."""

    size: Pixels | tuple[Pixels, Pixels] | None = Field(
        None, description="Of the input: one side, or height and width."
    )
    resize: Pixels | tuple[Pixels, Pixels] | None = Field(
        None, description="Shorter side before the crop; height and width squeeze."
    )
    resize_mode: Literal["bilinear", "bicubic", "nearest", "lanczos"] | None = None
    crop: Literal["center", "none"] | None = None
    mean: PlaneValues | None = Field(None, description="Of each plane, in [0, 1] units.")
    std: PlaneValues | None = Field(None, description="Of each plane, in [0, 1] units.")
    channels: int | None = Field(None, ge=1, le=64, description="Planes of the input.")


class NetworkHead(StrictModel):
    """What stands in the place of an architecture's classifier."""

    layers: list[Layer] = Field(min_length=1, max_length=32, description='As ["dropout", "linear"].')
    at: str | None = Field(None, max_length=200, description="The layer that it replaces, if not the last linear one.")


class FileReference(StrictModel):
    """A file of weights or a program that the artifact store has already."""

    sha256: str = Field(pattern=r"^[0-9a-fA-F]{64}$", description="Of its bytes, hex.")


class NetworkRequest(StrictModel):
    """What a network is, beside its file; as an entry of the operator's catalogue."""

    source: str | None = Field(
        None,
        max_length=200,
        description="The architecture that safetensors belong to: `torchvision:NAME`, `timm:NAME`, or one of ours; "
        "a .pt2 has none.",
    )
    file: FileReference | None = Field(None, description="Instead of the part `file`: one that the store has.")
    title: str | None = Field(None, min_length=1, max_length=200)
    classes: list[Name] | None = Field(
        None, min_length=1, max_length=50_000, description="Names, in the order of outputs."
    )
    num_classes: int | None = Field(None, ge=1, le=1_000_000, description="Outputs, where they have no names.")
    preprocess: NetworkPreprocess | None = None
    head: Annotated[list[Layer], Field(min_length=1, max_length=32)] | NetworkHead | None = Field(
        None, description="What stands in the place of the classifier; docs/networks.md."
    )
    output: Annotated[str, Field(max_length=200)] | int | None = Field(
        None, description="Which of several outputs is the answer: a key, a place, or `main.0`."
    )
    outputs: Literal["softmax", "sigmoid", "value"] | None = Field(None, description="What its numbers are.")
    family: Literal["vgg", "alexnet"] | None = Field(None, description="Naming scheme of the layers.")
    visible_to: Visibility = Field("owner", description="Who may use it: its owner alone, or every caller.")

    @field_validator("source")
    @classmethod
    def _no_code(cls, value: str | None) -> str | None:
        if value is None:
            return None
        kind = value.partition(":")[0]
        if ":" in value and kind in _CODE:
            raise ValueError(
                f"{kind}: is {_CODE[kind]}; what can run code is for the operator's catalogue. Send safetensors of "
                "torchvision:NAME or timm:NAME, or a .pt2 of torch.export"
            )
        if not _SOURCE.fullmatch(value):
            raise ValueError("it is torchvision:NAME, timm:NAME, or a network of ours (zfnet, alexnet_2012, digits)")
        return value


class UploadFacts(StrictModel):
    """A network that a caller brought, as callers see it."""

    own: bool = Field(description="Whether the caller who asks brought it.")
    visible_to: Visibility
    sha256: str = Field(description="Of its file, hex.")
    bytes: int = Field(description="Of its file.")
    format: Literal["safetensors", "pt2"]
    created_at: str
    updated_at: str
