"""What a source of an architecture is, and what may be asked of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from torchvision.models._meta import _IMAGENET_CATEGORIES

from workers.networks.preprocess import Preprocessing

IMAGENET_CLASSES: tuple[str, ...] = tuple(_IMAGENET_CATEGORIES)


class SourceError(ValueError):
    """An architecture that cannot be built, with the reason."""


@dataclass(frozen=True)
class Published:
    """Weights that somebody published: the name they go by and the address of the file."""

    name: str
    url: str


@dataclass(frozen=True)
class Source:
    """An architecture.

    Attributes:
        build: the untrained network, in training mode, on the current default device.
        published: weights by name, the preferred one first.
        auxiliary: prefixes of checkpoint entries that belong to training-only heads, which are not built.
        aliases: what naming scheme fits (`vgg`, `alexnet`, or none), or further names by call name.
        package_file: of an installed package, with the weights.
        program: the file that is architecture and weights in one; its network is built whole, with its weights.
        code: files of code that the network is made by, beside those of installed libraries.
    """

    name: str
    build: Callable[[], nn.Module]
    preprocess: Preprocessing
    classes: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()
    auxiliary: tuple[str, ...] = ()
    family: str = ""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    title: str = ""
    package_file: Path | None = None
    program: Path | None = None
    code: tuple[Path, ...] = ()
    entry: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What an entry asks of its source, beside its name; hashable.

    Attributes:
        classes: number of outputs where it differs from the architecture's own.
        channels: planes of the input where they differ.
        size: (height, width) of the input where it differs, pixels.
        arguments: further arguments of the builder, as (name, value) pairs.
        head: what stands in the place of the architecture's classifier; see `heads`.
        head_at: where, if not at the last layer.
        operator: whether the operator's catalogue says it; only that may run `python:` factories.
        folders: where files of programs lie, and, the first, modules of factories.
    """

    classes: int | None = None
    channels: int | None = None
    size: tuple[int, int] | None = None
    arguments: tuple[tuple[str, Any], ...] = ()
    head: tuple[str, ...] = ()
    head_at: str | None = None
    operator: bool = False
    folders: tuple[Path, ...] = ()
