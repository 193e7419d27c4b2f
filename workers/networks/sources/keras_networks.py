"""Networks of Keras 3 as networks of torch: `keras:FILE.keras`, with the extra `convscope[keras]`.

Keras reads the file, on its torch backend and in its safe mode, which runs no code of the file's; its graph becomes
modules of torch.nn under Keras's names. Before the network is used, both are run on one image and must agree.
"""

from __future__ import annotations

import copy
import functools
import os
import re
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from workers.networks.layers import with_values
from workers.networks.preprocess import Preprocessing
from workers.networks.sources.keras_layers import convert
from workers.networks.sources.plain import as_plain
from workers.networks.sources.source import Options, Source, SourceError

_SAME = 1e-4
"""Share of the largest answer by which Keras's own and ours may differ: sums in another order."""
_importing = threading.Lock()


def keras_source(name: str, path: Path, options: Options) -> Source:
    """The source of a `.keras` file.

    Raises:
        SourceError: Keras is not installed, or the file is no network of one image that can be translated.
    """
    if options.head or options.arguments:
        raise SourceError("a .keras file has its head and arguments in it; head and arguments are not for it")
    status = path.stat()
    (height, width, planes), free = _looked_at(path, status.st_mtime_ns, status.st_size)
    if options.channels not in (None, planes):
        raise SourceError(f"{name} takes {planes} planes, not {options.channels}")
    size = options.size if options.size is not None and free else (height, width)
    if options.size not in (None, size):
        raise SourceError(f"{name} takes {height}×{width} pixels, not {options.size}")
    return Source(
        name=f"keras:{name}",
        build=functools.partial(_build, path),
        # Keras gives its networks pictures squeezed to their size, in numbers from 0 to 255.
        preprocess=Preprocessing(
            size, min(size), crop="none", mean=(0.0,) * 3, std=(1 / 255,) * 3, channels=1 if planes == 1 else 3
        ),
        title=path.stem,
        program=path,
    )


def _keras() -> Any:
    """The library, on its torch backend.

    Raises:
        SourceError: it is not installed, or in use on another backend.
    """
    with _importing:
        os.environ["KERAS_BACKEND"] = "torch"
        try:
            import keras
        except ImportError as error:
            raise SourceError("Keras is not installed: `pip install 'convscope[keras]'`") from error
        if keras.backend.backend() != "torch":
            raise SourceError("Keras was imported on another backend than torch")
    return keras


def _read(path: Path) -> Any:
    """The Keras model of a file."""
    if not zipfile.is_zipfile(path):
        raise SourceError(f"{path.name} is no .keras file; Keras 3 writes one by model.save('NAME.keras')")
    keras = _keras()
    try:
        with torch.device("cpu"):
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        said = re.sub(r"\s+", " ", str(error)).strip()[:300] or type(error).__name__
        raise SourceError(f"{path.name} cannot be loaded by Keras in its safe mode: {said}") from error


@functools.lru_cache(maxsize=64)  # by when the file was changed, too
def _looked_at(path: Path, _modified_ns: int, _length: int) -> tuple[tuple[int, int, int], bool]:
    """Height, width and planes of the input, and whether other sizes are possible."""
    with with_values():
        model = _read(path)
    shape = _input_shape(model, path.name)
    return (shape[0] or 224, shape[1] or 224, int(shape[2])), shape[0] is None


def _input_shape(model: Any, name: str) -> tuple[int | None, int | None, int]:
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise SourceError(f"{name} takes other than one batch of images N×H×W×C")
    height, width, planes = inputs[0].shape[1:]
    return height, width, int(planes)


def _build(path: Path) -> nn.Module:
    """The network, with its weights."""
    status = path.stat()
    return copy.deepcopy(_built(path, status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=1)  # by when the file was changed, too
def _built(path: Path, _modified_ns: int, _length: int) -> nn.Module:
    """The last network: it is asked for several times in a row."""
    with with_values():
        return as_network(_read(path), path.name)


def as_network(model: Any, name: str) -> nn.Module:
    """A Keras model as a network of torch that agrees with it.

    Raises:
        SourceError: a layer cannot be translated, or the two do not agree.
    """
    network = as_plain(_graph_of(model)).eval().requires_grad_(False)
    height, width, planes = _input_shape(model, name)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.uniform(0, 255, (1, height or 224, width or 224, planes)).astype(np.float32))
    with torch.no_grad():
        own = model(pixels, training=False)
        found = network(pixels.permute(0, 3, 1, 2).contiguous())
        own = own[0] if isinstance(own, list | tuple) else own
        found = found[0] if isinstance(found, list | tuple) else found
        own = own.permute(0, 3, 1, 2) if own.dim() == 4 else own
    if own.shape != found.shape or float((own - found).abs().max()) > _SAME * max(float(own.abs().max()), 1e-6):
        raise SourceError(f"{name} was translated, and answers otherwise than in Keras: it is not used")
    return network


def _graph_of(model: Any) -> fx.GraphModule:
    """The graph of a functional or sequential model, its layers as modules of their names."""
    functional = getattr(model, "_functional", None) or model
    by_depth = getattr(functional, "_nodes_by_depth", None)
    if by_depth is None:
        raise SourceError(f"{model.name} is a {type(model).__name__} with code of its own, not a graph of layers")
    root, graph = nn.Module(), fx.Graph()
    values: dict[int, fx.Node] = {}
    for tensor in functional.inputs:
        values[id(tensor)] = graph.placeholder("x")
    names: dict[int, str] = {}
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            operation = node.operation
            if node.is_input:
                continue
            arguments = [values[id(tensor)] for tensor in node.arguments.keras_tensors]
            if id(operation) not in names:
                names[id(operation)] = re.sub(r"[^A-Za-z0-9_]", "_", operation.name)
                nested = hasattr(operation, "_nodes_by_depth") or getattr(operation, "_functional", None) is not None
                root.add_module(names[id(operation)], _graph_of(operation) if nested else convert(operation))
            called = graph.call_module(names[id(operation)], tuple(arguments))
            if len(node.outputs) != 1:
                raise SourceError(f"the Keras layer {operation.name} has {len(node.outputs)} outputs")
            values[id(node.outputs[0])] = called
    outputs = [values[id(tensor)] for tensor in functional.outputs]
    graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
    return fx.GraphModule(root, graph, class_name="Keras")
