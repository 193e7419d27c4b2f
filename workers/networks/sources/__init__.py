"""Where architectures come from: torchvision, timm, files of ours, the operator's factories, programs in a file.

A source knows how to build the network, its own preprocessing, its class names, and where published weights of it are.
May import torch, torchvision, timm, Keras and ONNX where they are installed, and workers.networks; nothing of the
queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workers.networks.sources.factories import factory_source
from workers.networks.sources.keras_networks import keras_source
from workers.networks.sources.libraries import (
    LITE,
    lite_source,
    our_architectures,
    our_source,
    timm_source,
    torchvision_names,
    torchvision_source,
)
from workers.networks.sources.onnx_networks import onnx_source
from workers.networks.sources.programs import export_source
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

_KINDS = (
    "torchvision:NAME, timm:NAME, python:package.module:factory, export:FILE.pt2, keras:FILE.keras, onnx:FILE.onnx, "
    "or a network of ours"
)

PROGRAMS = {"export": export_source, "keras": keras_source, "onnx": onnx_source}
"""Kinds of source that are a file with architecture and weights in one."""


def program_file(name: str, folders: Sequence[Path]) -> Path:
    """The file of a program, in the first of the folders that has it.

    Raises:
        SourceError: it is in none, or lies outside of all.
    """
    inside = [path for folder in folders if (path := (folder / name).resolve()).is_relative_to(folder.resolve())]
    if not inside:
        raise SourceError(f"{name} lies outside the folder of weights and the catalogue's folder")
    found = next((path for path in inside if path.is_file()), None)
    if found is None:
        raise SourceError(f"{name} is neither in the folder of weights nor beside the catalogue")
    return found


def find_source(source: str, options: Options | None = None) -> Source:
    """The source of that name: `torchvision:NAME`, `timm:NAME`, `python:…`, `export:FILE.pt2`, or one of ours.

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
    if kind in PROGRAMS and name:
        return PROGRAMS[kind](name, program_file(name, options.folders), options)
    if kind in LITE and not name:
        return lite_source(kind, options)
    if not name:
        return our_source(kind, options)
    raise SourceError(f"{source!r} is none of {_KINDS}")
