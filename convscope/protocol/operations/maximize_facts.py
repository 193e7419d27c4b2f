"""What a result of maximize tells beside its arrays."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from convscope.protocol.cards import OutputFacts
from convscope.protocol.operations.base import NamedLayersFacts


class PictureFacts(BaseModel):
    """Facts of one picture."""

    kind: str = Field(description="class, channel, unit, layer, direction or sum.")
    layer: str | None = Field(description="Of the target; null for a class.")
    channel: int | None = Field(description="The target channel or class.")
    class_name: str | None = Field(None, description="Of a class that has a name.")
    probability: float | None = Field(None, description="Of that class on the final picture; null for values.")
    loss_first: float | None = Field(
        description="The objective's value at the first step; larger is better. Null where that was no finite number."
    )
    loss_last: float | None = Field(description="The same at the last step.")
    steps: int = Field(description="Steps run.")
    stopped_by: Literal["steps", "stop_at", "dead", "saturated", "diverged"]
    dead: bool = Field(description="Nothing was found that excites it.")
    withheld: bool = Field(False, description="It is dead or has diverged: its picture is black and no image.")
    steps_without_gradient: int
    value: float | None = Field(description="The objective on the final 8-bit picture.")
    rank: int | None = Field(description="Of the target channel's mean on that picture; 1 is the strongest.")
    channels: int
    percentile: float | None = Field(description="Share of the photographs, percent, whose value is lower.")
    reference_max: float | None = Field(description="Largest value among the photographs.")
    image_id: str | None = Field(description="The picture as an image, for other operations.")


class MaximizeFacts(NamedLayersFacts):
    """Facts of maximize."""

    parameterization: str
    size: list[int]
    output: OutputFacts | None = Field(None, description="The network's answer, where a class is maximized.")
    class_names: dict[str, str] = Field(default_factory=dict, description="Index → name of every class maximized.")
    references: int = Field(description="Photographs that the pictures were compared with.")
    pictures: list[PictureFacts]
