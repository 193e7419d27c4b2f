"""Networks in ONNX as networks of torch: `onnx:FILE.onnx`, with the extra `convscope[onnx]`.

onnxslim simplifies the graph, without which onnx2torch gives up on most; onnx2torch makes modules of its nodes, and
ONNX Runtime, which runs the network as it is deployed, must agree with them on one image before they are used.
"""

from __future__ import annotations

import copy
import functools
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from workers.networks.layers import with_values
from workers.networks.preprocess import Preprocessing
from workers.networks.sources.plain import as_plain
from workers.networks.sources.source import Options, Source, SourceError

_LARGEST_BYTES = 2 * 1024**3
"""What a protocol buffer may have."""
_MOST_NODES = 20_000
_OPSETS = (21, 17, 13)
"""Of ai.onnx: onnx2torch 1.5 knows no newer one than the first, and some operators in older forms only."""
_SAME = 1e-4

_OPERATORS = frozenset({
    "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv",
    "ConvTranspose", "DepthToSpace", "Div", "Dropout", "Elu", "Erf", "Exp", "Expand", "Flatten", "Gather", "Gelu",
    "Gemm", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization",
    "LRN", "LayerNormalization", "LeakyRelu", "LogSoftmax", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "PRelu",
    "Pad", "Pow", "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize",
    "Selu", "Shape", "Sigmoid", "Slice", "Softmax", "Softplus", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub",
    "Sum", "Tanh", "Tile", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
"""What convolutional networks are made of; a graph with other operators is refused by name."""

log = logging.getLogger(__name__)


def onnx_source(name: str, path: Path, options: Options) -> Source:
    """The source of an `.onnx` file.

    Raises:
        SourceError: the libraries are not installed, or the file is no network of one image that can be translated.
    """
    if options.head or options.arguments:
        raise SourceError("an .onnx file has its head and arguments in it; head and arguments are not for it")
    status = path.stat()
    planes, height, width = _looked_at(path, status.st_mtime_ns, status.st_size)
    if options.channels not in (None, planes):
        raise SourceError(f"{name} takes {planes} planes, not {options.channels}")
    size = options.size or (height or 224, width or 224)
    if (height is not None and size[0] != height) or (width is not None and size[1] != width):
        raise SourceError(f"{name} takes {height}×{width} pixels, not {size}")
    return Source(
        name=f"onnx:{name}",
        build=functools.partial(_build, path, size),
        preprocess=Preprocessing(size, min(size), channels=1 if planes == 1 else 3),
        title=path.stem,
        program=path,
    )


def _libraries() -> tuple[Any, Any, Any, Any]:
    """onnx, onnxslim, onnx2torch and onnxruntime.

    Raises:
        SourceError: one is not installed.
    """
    try:
        import onnx
        import onnx2torch
        import onnxruntime
        import onnxslim
    except ImportError as error:
        raise SourceError(f"{error.name} is not installed: `pip install 'convscope[onnx]'`") from error
    return onnx, onnxslim, onnx2torch, onnxruntime


def _read(path: Path) -> Any:
    """The graph of a file, its operators and size within bounds.

    Raises:
        SourceError: saying what is not.
    """
    onnx = _libraries()[0]
    if path.stat().st_size > _LARGEST_BYTES:
        raise SourceError(f"{path.name} has {path.stat().st_size:,} bytes")
    try:
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(model)
    except Exception as error:
        raise SourceError(f"{path.name} is no ONNX network: {str(error).splitlines()[0][:200]}") from error
    if any(one.data_location == onnx.TensorProto.EXTERNAL for one in model.graph.initializer):
        raise SourceError(f"{path.name} keeps its weights in other files; save it as one (save_as_external_data=False)")
    if len(model.graph.node) > _MOST_NODES:
        raise SourceError(f"{path.name} has {len(model.graph.node):,} nodes, more than {_MOST_NODES:,}")
    unknown = sorted({f"{n.domain}.{n.op_type}".lstrip(".") for n in model.graph.node
                      if n.domain not in ("", "ai.onnx") or n.op_type not in _OPERATORS})  # fmt: skip
    if unknown:
        raise SourceError(f"{path.name} has operators that are not translated: {', '.join(unknown[:10])}")
    return model


@functools.lru_cache(maxsize=64)  # by when the file was changed, too
def _looked_at(path: Path, _modified_ns: int, _length: int) -> tuple[int, int | None, int | None]:
    """Planes, height and width of the input; None where the file leaves them free."""
    model = _read(path)
    weights = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    sides = [side.dim_value or None for side in inputs[0].type.tensor_type.shape.dim] if len(inputs) == 1 else []
    if len(sides) != 4 or sides[1] is None:
        raise SourceError(f"{path.name} takes other than one batch of images N×C×H×W")
    return int(sides[1]), sides[2], sides[3]


def _build(path: Path, size: tuple[int, int]) -> nn.Module:
    """The network, with its weights."""
    status = path.stat()
    return copy.deepcopy(_built(path, size, status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=1)  # by when the file was changed, too
def _built(path: Path, size: tuple[int, int], _modified_ns: int, _length: int) -> nn.Module:
    """The last network, which agreed with ONNX Runtime.

    Raises:
        SourceError: it cannot be translated, or does not agree.
    """
    onnxruntime = _libraries()[3]
    model = _read(path)
    planes = _looked_at(path, path.stat().st_mtime_ns, path.stat().st_size)[0]
    try:
        runtime = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        network = _translated(model)
    except SourceError:
        raise
    except Exception as error:
        said = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise SourceError(f"{path.name} cannot be translated: {said}") from error
    network = network.eval().requires_grad_(False)
    inputs = torch.randn(1, planes, *size, generator=torch.Generator().manual_seed(0))
    deployed = torch.from_numpy(runtime.run(None, {runtime.get_inputs()[0].name: inputs.numpy()})[0])
    with torch.no_grad():
        found = network(inputs)
    found = found[0] if isinstance(found, list | tuple) else found
    if not isinstance(found, Tensor) or found.shape != deployed.shape or _far(found, deployed):
        raise SourceError(f"{path.name} was translated, and answers otherwise than in ONNX Runtime: it is not used")
    return network


def _translated(model: Any) -> nn.Module:
    """The graph's nodes as modules of torch, by the first operator set in which onnx2torch knows them all."""
    onnx, onnxslim, onnx2torch, _ = _libraries()
    own = max(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    refusal: Exception | None = None
    for version in (own, *(one for one in _OPSETS if one < own)):
        if version > _OPSETS[0]:
            continue
        try:
            slim = onnxslim.slim(model if version == own else onnx.version_converter.convert_version(model, version))
            with with_values():
                return as_plain(_renamed(onnx2torch.convert(slim), slim))
        except Exception as error:  # noqa: BLE001  (three libraries, each with errors of its own)
            refusal = refusal or error
    assert refusal is not None
    raise refusal


def _far(found: Tensor, own: Tensor) -> bool:
    return float((found - own).abs().max()) > _SAME * max(float(own.abs().max()), 1e-6)


def _renamed(network: fx.GraphModule, model: Any) -> fx.GraphModule:
    """The network with modules by the names of the network that was exported: `layer1.0.conv1`."""
    wanted = dict(_names([node.name for node in model.graph.node]))
    root = nn.Module()
    graph: fx.Graph = network.graph
    for node in graph.nodes:
        if node.op == "call_module":
            path = wanted.get(str(node.target), re.sub(r"[^A-Za-z0-9_]", "_", str(node.target)))
            _put(root, path, network._modules[str(node.target)])
            node.target = path
    for name, module in network.named_children():
        if name not in wanted and not any(module is one for one in root.modules()):
            root.add_module(name, module)
    for node in graph.nodes:
        if node.op == "get_attr" and not hasattr(root, str(node.target)):
            value = getattr(network, str(node.target))
            if isinstance(value, Tensor):
                root.register_buffer(str(node.target), value)
    return fx.GraphModule(root, graph, class_name="Onnx")


def _put(root: nn.Module, path: str, module: nn.Module | None) -> None:
    *parents, name = path.split(".")
    place = root
    for parent in parents:
        if parent not in place._modules:
            place.add_module(parent, nn.Module())
        place = place.get_submodule(parent)
    place.add_module(name, module)


def _names(nodes: list[str]) -> Iterator[tuple[str, str]]:
    """onnx2torch's module names, and ours: `/layer1/layer1.0/conv1/Conv` is `layer1.0.conv1`."""
    paths = {node: _path(node) for node in nodes}
    taken: set[str] = set()
    inner = {".".join(parts[:k]) for parts in paths.values() for k in range(1, len(parts))}
    for node, parts in paths.items():
        short = ".".join(parts[:-1])
        # The last part is the operator; it stays where the module has parts of its own.
        stem = short if len(parts) > 1 and short not in taken and not _has_parts(short, paths) else ".".join(parts)
        name, number = stem, 2
        while name in taken or (name != stem and name in inner):
            name, number = f"{stem}_{number}", number + 1
        taken.add(name)
        yield node.strip("/").replace(".", "/"), name


def _has_parts(path: str, paths: dict[str, list[str]]) -> bool:
    return any(len(parts) > path.count(".") + 2 and ".".join(parts).startswith(f"{path}.") for parts in paths.values())


def _path(node: str) -> list[str]:
    """The parts of a node's name, each module's own name once."""
    parts: list[str] = []
    for segment in node.strip("/").split("/"):
        own = segment.split(".")
        # PyTorch names the member of a list by both: `layer1/layer1.0`.
        if len(own) > 1 and parts and parts[-1] == own[0]:
            own = own[1:]
        parts.extend(re.sub(r"[^A-Za-z0-9_]", "_", part) or "_" for part in own)
    return parts
