"""One run as the engine holds it, from its frame to its result."""

from __future__ import annotations

import math
from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workers.contract import IterativeMethod, Method, MethodError, Network, OneShotMethod, Progress, Row, params
from workers.engine.files import FileImages
from workers.engine.plan import Lane
from workers.wire import Frame

FEW_ROWS = 32
"""Rows of a long computation that go through the network together, at most."""


@dataclass
class Run:
    """A job (or several that share one computation) while the engine has it.

    Args:
        request: the resolved request as JSON.
        deadline: on the engine's monotonic clock, seconds; None never.
        checkpoint: bytes to go on from.
        needs: catalogue ids of the networks it waits for.
        versions: names by which those are loaded that callers brought.
    """

    id: str
    operation: str
    request: dict[str, Any]
    lane: Lane
    method: Method
    row: Row[Any]
    deadline: float | None = None
    alone: bool = False
    checkpoint: memoryview | None = None
    needs: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)
    base_key: Hashable = None
    key: Hashable = None
    memory_key: Hashable = None
    states: list[Any] = field(default_factory=list)
    slices: Generator[Progress, None, Any] | None = None
    steps: int = 0
    tile: int = 1
    row_bytes: int = 0
    said_started: bool = False
    tried_alone: bool = False
    computed_s: float = 0.0
    progress_due: float = 0.0
    preview_due: float = 0.0
    checkpoint_due: float = math.inf
    proving_s: float = math.inf
    checkpointed_step: int = -1
    random_states: list[Tensor] | None = None
    caller: str = ""

    @property
    def network(self) -> Network:
        """The network the request is about."""
        return self.networks[self.needs[0]]

    @property
    def loads(self) -> tuple[str, ...]:
        """The names by which its networks are loaded, in the order of `needs`."""
        return tuple(self.versions.get(name, name) for name in self.needs)

    @property
    def precision(self) -> str:
        """`exact` or `fast`."""
        return str(self.request.get("precision", "exact"))

    @property
    def rows(self) -> int:
        """Images it works on, at least one."""
        return max(1, len(self.row.images))

    @property
    def rows_at_once(self) -> int:
        """Of these, how many it has in memory together: of a set, or beside pictures on their way, only a few."""
        few = isinstance(self.method, IterativeMethod) or isinstance(self.row.images, FileImages)
        return min(self.rows, FEW_ROWS) if few else self.rows

    def bytes_wanted(self, tile: int, limit: int) -> int:
        """Bytes to admit it with, where so many of its states are stepped together; each row takes `row_bytes`.

        Raises:
            MethodError: `out-of-memory`: its states alone need more than the limit.
        """
        if not isinstance(self.method, IterativeMethod):
            return self.row_bytes * self.rows_at_once
        states, each = self.method.room(self.network, self.row.request)
        if states * each > limit:
            raise MethodError(
                "out-of-memory",
                f"The job would hold {states * each / 2**20:,.0f} MiB between its steps, and this worker has "
                f"{limit / 2**20:,.0f} MiB for such work. Ask for less in one job.",
            )
        stepped = tile if self.precision == "exact" else min(states, tile)  # `exact` tiles are padded
        return self.row_bytes * max(self.rows_at_once, stepped) + states * each

    @property
    def pixels(self) -> int | None:
        """Pixels of the network's input, where the request overrides the network's own."""
        size = (self.request.get("preprocess") or {}).get("size") or self.request.get("size")
        if isinstance(size, int):
            return size * size
        return size[0] * size[1] if isinstance(size, list | tuple) and len(size) == 2 else None


def _image(size: Sequence[int], blob: bytes | bytearray | memoryview) -> Tensor:
    """An image of a frame: uint8 H×W×3, or float32 H×W×C where its size tells its planes, too."""
    if len(size) == 3:
        return torch.frombuffer(bytearray(blob), dtype=torch.float32).reshape(*size)
    return torch.frombuffer(bytearray(blob), dtype=torch.uint8).reshape(size[0], size[1], 3)


def read_run(frame: Frame, methods: dict[str, Method], default_model: str, now: float) -> Run:
    """The run that a frame of type `run` describes.

    Its header has `run`, `operation`, `request`, `lane`, `caller`, `deadline_s` (or null), `alone`, `images` (height
    and width of each, and planes where they are floats), `networks` (the names of those that callers brought) and
    `checkpoint` (whether the last blob is one); its blobs are the pixels, uint8 H×W×3 or float32 H×W×C, and the
    checkpoint.
    The images of a set come as `files`, paths of .npy files, and then no blob is an image.

    Raises:
        MethodError: the operation is not known here.
    """
    header = frame.header
    operation = str(header["operation"])
    method = methods.get(operation)
    if method is None:
        raise MethodError("internal-error", f"This worker does not know the operation {operation}.")
    if header.get("files") and isinstance(method, OneShotMethod):
        method = method.of_set()
    sizes = header["images"]
    images: Sequence[Tensor] = (
        FileImages(header["files"])
        if header.get("files")
        else [_image(size, blob) for size, blob in zip(sizes, frame.blobs, strict=False)]
    )
    request = dict(header["request"])
    row = Row(params(request), images)
    model = request.get("model") or default_model
    further = method.models(row.request)
    return Run(
        id=str(header["run"]),
        operation=operation,
        request=request,
        lane=header["lane"],
        caller=str(header.get("caller", "")),
        method=method,
        row=row,
        deadline=None if header["deadline_s"] is None else now + float(header["deadline_s"]),
        alone=bool(header["alone"]),
        checkpoint=memoryview(frame.blobs[-1]) if header["checkpoint"] else None,
        needs=tuple(dict.fromkeys((model, *further))),
        versions=dict(header.get("networks") or {}),
    )
