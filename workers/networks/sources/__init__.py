"""Where architectures come from: torchvision, timm, files of ours, the operator's factories, programs in a file.

A source knows how to build the network, its own preprocessing, its class names, and where published weights of it are.
Imports torch, torchvision, timm; nothing of pydantic or the queue.
"""

from __future__ import annotations

from workers.networks.sources.factories import factory_source
from workers.networks.sources.libraries import (
    LITE,
    lite_source,
    our_architectures,
    our_source,
    timm_source,
    torchvision_names,
    torchvision_source,
)
from workers.networks.sources.source import IMAGENET_CLASSES, Options, Published, Source, SourceError

__all__ = [
    "IMAGENET_CLASSES",
    "LITE",
    "Options",
    "Published",
    "Source",
    "SourceError",
    "find_source",
    "our_architectures",
    "torchvision_names",
]

_KINDS = "torchvision:NAME, timm:NAME, python:package.module:factory, or a network of ours"


def find_source(source: str, options: Options | None = None) -> Source:
    """The source of that name: `torchvision:NAME`, `timm:NAME`, `python:package.module:factory`, or one of ours.

    Args:
        source: as in the catalogue.
        options: what the entry asks of it.

    Raises:
        SourceError: no such architecture, one that cannot be what is asked for, or not allowed.
    """
    options = Options() if options is None else options
    kind, _, name = source.partition(":")
    if kind == "torchvision" and name:
        return torchvision_source(name, options)
    if kind == "timm" and name:
        return timm_source(name, options)
    if kind == "python" and name:
        if not options.operator:
            raise SourceError("python: sources are for the operator's catalogue only")
        return factory_source(name, options)
    if kind in LITE and not name:
        return lite_source(kind, options)
    if not name:
        return our_source(kind, options)
    raise SourceError(f"{source!r} is none of {_KINDS}")
