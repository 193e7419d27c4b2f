"""Programs of torch.export as networks: `export:FILE.pt2`.

The program's calls are put back into the modules that they came from (torch.export.unflatten), and each into the words
of torch.nn, so that layers have the names and kinds that they had in the network which was exported.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from workers.networks.layers import with_values
from workers.networks.preprocess import Preprocessing
from workers.networks.sources import aten
from workers.networks.sources.plain import as_plain
from workers.networks.sources.pt2_archive import load_program
from workers.networks.sources.source import Options, Source, SourceError

_GUARDS = (
    "_assert_scalar.default", "_assert_tensor_metadata.default", "_assert_async.msg", "_assert_async.default",
    "sym_constrain_range.default", "sym_constrain_range_for_size.default", "_local_scalar_dense.default",
)  # fmt: skip
"""Operators that only check what is known here."""


def export_source(name: str, path: Path, options: Options) -> Source:
    """The source of a `.pt2` file.

    Raises:
        SourceError: it is no program of one image input, or cannot be what is asked for.
    """
    if options.head or options.arguments:
        raise SourceError("an exported program has its head and arguments in it; head and arguments are not for it")
    status = path.stat()
    planes, size, free = _looked_at(path, status.st_mtime_ns, status.st_size)
    if options.channels not in (None, planes):
        raise SourceError(f"{name} takes {planes} planes, not {options.channels}")
    if options.size not in (None, size) and not free:
        raise SourceError(
            f"{name} was exported for {size[0]}×{size[1]} pixels, not for {options.size}; export it with dynamic "
            "height and width, or say preprocess.size so"
        )
    short = min(size)
    return Source(
        name=f"export:{name}",
        build=functools.partial(_build, path),
        preprocess=Preprocessing(size, short, channels=1 if planes == 1 else 3),
        title=path.stem,
        program=path,
    )


@functools.lru_cache(maxsize=64)  # by when the file was changed, too
def _looked_at(path: Path, _modified_ns: int, _length: int) -> tuple[int, tuple[int, int], bool]:
    """Planes and size of the input, and whether other sizes are possible."""
    shape = _input_shape(load_program(path), path.name)
    free = not all(isinstance(side, int) for side in shape[2:])
    return int(shape[1]), (_size_hint(shape[2]), _size_hint(shape[3])), free


def _size_hint(side: Any) -> int:
    if isinstance(side, int):
        return side
    hint = getattr(side.node, "hint", None)
    return int(hint) if hint is not None else 224


def _input_shape(program: ExportedProgram, name: str) -> tuple[Any, ...]:
    """N×C×H×W of the one input."""
    users = [
        spec.arg.name for spec in program.graph_signature.input_specs
        if spec.kind == torch.export.graph_signature.InputKind.USER_INPUT
    ]  # fmt: skip
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in users]
    if len(values) != 1 or not isinstance(values[0], Tensor) or values[0].dim() != 4:
        found = ", ".join(str(tuple(v.shape)) if isinstance(v, Tensor) else type(v).__name__ for v in values)
        raise SourceError(f"{name} takes {found or 'nothing'}, not one batch of images N×C×H×W")
    if not values[0].is_floating_point():
        raise SourceError(f"{name} takes {values[0].dtype}, not floating-point numbers")
    return tuple(values[0].shape)


def _build(path: Path) -> nn.Module:
    """The program as a network of modules, with its weights."""
    status = path.stat()
    return copy.deepcopy(_built(path, status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=1)  # by when the file was changed, too
def _built(path: Path, _modified_ns: int, _length: int) -> nn.Module:
    """The last program: a network is asked for several times in a row, and made in seconds."""
    with with_values():
        return as_network(load_program(path), path.name)


def as_network(program: ExportedProgram, name: str) -> nn.Module:
    """A program as a network whose modules are those that it was exported from.

    Raises:
        SourceError: it takes other than one image input, or changes its own buffers.
    """
    shape = _input_shape(program, name)
    if program.graph_signature.buffers_to_mutate:
        raise SourceError(f"{name} was exported in training mode, or changes its buffers; call eval() before export")
    kinds: dict[str, str] = {}
    for node in program.graph.nodes:
        for path, kind in (node.meta.get("nn_module_stack") or {}).values():
            kinds[path] = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    tree = torch.export.unflatten(program)
    network = _Part.of(tree, "", kinds)
    out_spec = program.call_spec.out_spec
    _finish(network, shape, out_spec)
    return as_plain(network).eval().requires_grad_(False)


def check_size(inputs: Tensor, sides: tuple[int | None, int | None, int | None], batch: int | None) -> Tensor:
    """The input, if it is what the program was exported for.

    Raises:
        ValueError: it has other planes, another size, or, where the batch is fixed, another number of images.
    """
    for place, (own, wanted) in enumerate(zip(inputs.shape[1:], sides, strict=True)):
        if wanted is not None and own != wanted:
            what = ("planes", "rows", "columns")[place]
            raise ValueError(f"the program was exported for {wanted} {what}, not {own}")
    if batch is not None and len(inputs) != batch:
        raise ValueError(f"the program was exported for {batch} image at a time")
    return inputs


def _finish(network: fx.GraphModule, shape: tuple[Any, ...], out_spec: Any) -> None:
    """Give the whole program a check of its input, and outputs in the form that they had."""
    graph = network.graph
    first = next(node for node in graph.nodes if node.op == "placeholder")
    sides = tuple(int(side) if isinstance(side, int) else None for side in shape[1:])
    with graph.inserting_after(first):
        checked = graph.call_function(check_size, (first, sides, int(shape[0]) if isinstance(shape[0], int) else None))
    first.replace_all_uses_with(checked, delete_user_cb=lambda user: user is not checked)
    output = next(node for node in graph.nodes if node.op == "output")
    flat = output.args[0] if isinstance(output.args[0], list | tuple) else (output.args[0],)
    if out_spec is not None:
        output.args = (pytree.tree_unflatten(list(flat), out_spec),)
    network.recompile()


class _Part(fx.GraphModule):
    """A module of an exported network, which calls its parts and operators in the order of the program."""

    @classmethod
    def of(cls, part: nn.Module, path: str, kinds: dict[str, str]) -> fx.GraphModule:
        """The part with its operators in the words of torch, its parts alike."""
        graph = fx.Graph()
        graph.output(graph.graph_copy(part.graph, {}))  # type: ignore[arg-type]
        root = nn.Module()
        for name, tensor in part.named_parameters(recurse=False):
            root.register_parameter(name, nn.Parameter(tensor.detach(), requires_grad=False))
        for name, buffer in part.named_buffers(recurse=False):
            root.register_buffer(name, buffer.detach())
        for name, value in vars(part).items():
            if isinstance(value, Tensor):
                root.register_buffer(name, value.detach(), persistent=False)
        for name, child in part.named_children():
            inner = f"{path}.{name}" if path else name
            root.add_module(name, _converted(child, inner, kinds))
        _merge_calls(root, graph)
        _in_words(graph)
        made = cls(root, graph)
        made.name_as(kinds.get(path.partition("@")[0], "Program"))
        return made

    def name_as(self, kind: str) -> None:
        """Have the class the name, and the module, of the one that was exported."""
        module, _, name = kind.rpartition(".")
        own = type(self)
        own.__name__ = name or "Program"
        if module.startswith("torch.nn.modules"):
            own.__module__ = module


def _converted(child: nn.Module, path: str, kinds: dict[str, str]) -> nn.Module:
    """A module of torch.nn where the part is one call of an operator, else a part."""
    graph = getattr(child, "graph", None)
    if graph is None:
        return child
    calls = [node for node in graph.nodes if node.op == "call_function" and _name(node) not in _GUARDS]
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    output = next(node for node in graph.nodes if node.op == "output").args[0]
    output = output[0] if isinstance(output, list | tuple) and len(output) == 1 else output
    single = len(calls) == 1 and calls[0] is output and not any(node.op == "call_module" for node in graph.nodes)
    if single and len(inputs) == 1 and calls[0].args[:1] == (inputs[0],):
        make = aten.MODULES.get(_name(calls[0]))
        made = make(_all_arguments(calls[0]), functools.partial(_tensor, child)) if make is not None else None
        if made is not None:
            return made
    return _Part.of(child, path, kinds)


def _all_arguments(node: fx.Node) -> list[Any]:
    """An operator's arguments by position, those given by name too."""
    arguments = list(node.args)
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    for one in schema[len(arguments) :]:
        if one.name in node.kwargs:
            arguments.append(node.kwargs[one.name])
        elif node.kwargs:
            arguments.append(one.default_value)
    return arguments


def _tensor(module: nn.Module, value: Any) -> Any:
    """The tensor that an argument names, or None where there is none."""
    if isinstance(value, fx.Node) and value.op == "get_attr":
        found: Any = module
        for part in str(value.target).split("."):
            found = getattr(found, part)
        return found
    return None


def _name(node: fx.Node) -> str:
    """`relu_.default` of torch.ops.aten.relu_.default; "" of what is no operator."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return f"{target._schema.name.partition('::')[2]}.{target._overloadname}"
    return ""


def _merge_calls(root: nn.Module, graph: fx.Graph) -> None:
    """A module that is called again has a name of its own in the program (`relu@1`): one module, called twice."""
    children = dict(root.named_children())
    for name, child in children.items():
        first = name.partition("@")[0]
        if (
            first != name
            and first in children
            and type(child) is type(children[first])
            and not isinstance(child, _Part)
        ):
            for node in graph.nodes:
                if node.op == "call_module" and node.target == name:
                    node.target = first
            delattr(root, name)


def _in_words(graph: fx.Graph) -> None:
    """Operators of ATen as functions of torch; checks of sizes, which the whole has once, are left out."""
    for node in list(graph.nodes):
        name = _name(node) if node.op == "call_function" else ""
        if name in _GUARDS or (node.op == "call_module" and str(node.target) == "_guards_fn"):
            if not node.users:
                graph.erase_node(node)
        elif name in aten.FUNCTIONS:
            node.args, node.kwargs = tuple(_all_arguments(node)), {}
            node.target = aten.FUNCTIONS[name]
            if node.target is torch.add or node.target is Tensor.add_:
                node.args, node.kwargs = _alpha(node.args)
        elif name in aten.INPLACE:
            node.kwargs = {**node.kwargs, "inplace": True}
            node.target = aten.INPLACE[name]
    graph.eliminate_dead_code(is_impure_node=_stays)


def _stays(node: fx.Node) -> bool:
    """Whether a node that nobody uses may matter: operators that write into a tensor, and parts with such."""
    return node.op in ("placeholder", "output", "call_module") or (
        node.op == "call_function" and "_" in str(node.target)
    )


def _alpha(arguments: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return arguments[:2], {"alpha": arguments[2]} if len(arguments) > 2 else {}
