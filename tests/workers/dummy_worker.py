"""`python -m tests.workers.dummy_worker`: a real worker with throw-away operations, methods and networks.

The engine's configuration may be changed by DUMMY_ENGINE, JSON of EngineConfig's fields; DUMMY_OPERATIONS names what it
knows of the two.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations import operations
from convscope.protocol.operations.base import Cost, Operation
from convscope.protocol.pictures import ArrayInfo, Picture
from convscope.protocol.requests import CommonRequest
from workers.__main__ import main
from workers.engine_config import EngineConfig


class Anything(Operation[CommonRequest]):
    """An operation that nobody validates."""

    request = CommonRequest
    facts = BaseModel

    def __init__(self, name: str, image_array: str | None = None) -> None:
        self.name = name  # type: ignore[misc]
        self.image_array = image_array  # type: ignore[misc]

    def resolve(self, request: CommonRequest, card: ModelCard) -> CommonRequest:
        return request

    def cost(self, request: CommonRequest, card: ModelCard, images: int) -> Cost:
        return Cost()

    def pictures(
        self, request: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, ArrayInfo]
    ) -> list[Picture]:
        return []


if __name__ == "__main__":
    known = {"sums": Anything("sums"), "climb": Anything("climb", "pictures")}
    chosen_names = os.environ.get("DUMMY_OPERATIONS", "sums climb").split()
    operations().update({name: known[name] for name in chosen_names})
    chosen = {
        "device": "cpu",
        "threads": 1,
        "default_model": "small",
        "methods": "tests.workers.engine.dummies",
        "networks": "tests.workers.engine.networks:Networks",
        **json.loads(os.environ.get("DUMMY_ENGINE", "{}")),
    }
    sys.exit(main(EngineConfig(**chosen)))
