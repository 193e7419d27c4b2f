"""`.pt2` files of torch.export, read so that nothing in them runs.

torch.export.load unpickles what a file may carry beside the program (example inputs, custom objects), loads compiled
libraries, evaluates symbolic expressions and names operators by their Python path. Here a file is looked through first:
its program may call operators of ATen and a few of Python's, its expressions are arithmetic, its weights are plain
numbers; the rest is left out of what torch then loads.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from workers.networks.sources.source import SourceError

_MOST_PROGRAM_BYTES = 256 * 1024**2
_MOST_ENTRIES = 200_000

_TARGET = re.compile(
    r"torch\.ops\.aten\.[a-z0-9_]+\.[A-Za-z0-9_]+"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|torch\.sym_(max|min|float|int|not|sqrt|ite)"
    r"|math\.(trunc|ceil|floor)"
)
"""Operators that a program may name."""

_FORBIDDEN = ("aten.from_file.", "aten.set_.", "aten.resize", "aten._print.", "aten.data.", "aten.record_stream.")
_EXPRESSION = re.compile(r"[A-Za-z0-9_ +\-*/%().,<>=&|~!]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FUNCTIONS = frozenset({
    "Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv", "Max", "Min", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And",
    "Or", "Not", "Where", "Abs", "Identity", "ToFloat", "TruncToInt", "TruncToFloat", "CeilToInt", "FloorToInt",
    "FloatTrueDiv", "IntTrueDiv", "FloatPow", "PowByNatural", "RoundToInt", "RoundDecimal",
    "OpaqueUnaryFn_sqrt", "Add", "Mul", "Pow", "Integer", "Rational", "True", "False", "true", "false", "oo", "int_oo",
})  # fmt: skip
_SYMBOL = re.compile(r"[suz]{1,2}f?\d+|s\d+|u\d+")
_WRITTEN_SYMBOL = re.compile(rf"Symbol\('({_SYMBOL.pattern})'(?:, [a-z]+=(?:True|False))*\)")
_PLAIN = re.compile(r"data/(weights|constants)/[A-Za-z0-9_.-]+|archive_format|archive_version|byteorder")
"""Parts that are copied as they are."""
_KEPT_METADATA = ("nn_module_stack",)


def load_program(path: Path) -> ExportedProgram:
    """The program of a file.

    Raises:
        SourceError: it is none, or it carries what is never loaded; saying which.
    """
    try:
        clean = _cleaned(path)
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, UnicodeError, RecursionError) as error:
        raise SourceError(f"{path.name} is no program that torch.export.save wrote: {error}") from error
    try:
        return torch.export.load(clean)
    except Exception as error:
        said = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise SourceError(f"{path.name} cannot be loaded by torch {torch.__version__}: {said}") from error


def _cleaned(path: Path) -> io.BytesIO:
    """The archive with its program and plain weights alone."""
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        if len(infos) > _MOST_ENTRIES:
            raise ValueError(f"it has {len(infos):,} parts")
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise ValueError("its parts are compressed, which torch.export never does")
        root = infos[0].filename.partition("/")[0]
        names = {info.filename.removeprefix(f"{root}/") for info in infos}
        if "serialized_exported_program.json" in names | {root}:
            raise ValueError("it was saved by an old torch; save it again with torch 2.8 or later")
        if any(name.startswith("data/aotinductor/") for name in names):
            raise ValueError(
                "it holds compiled code, which is never loaded; torch.export.save saves the network itself"
            )
        models = [name for name in names if re.fullmatch(r"models/[^/]+\.json", name)]
        if len(models) != 1:
            raise ValueError(f"it holds {len(models)} programs, not one")
        model = models[0].removeprefix("models/").removesuffix(".json")
        kept = {f"models/{model}.json": _program(_read(archive, root, models[0]))}
        for kind in ("weights", "constants"):
            name = f"data/{kind}/{model}_{kind}_config.json"
            if name in names:
                kept[name] = _plain_config(_read(archive, root, name))
        kept[f"data/sample_inputs/{model}.pt"] = b""
        out = io.BytesIO()
        # torch's own writer lays the parts out as its reader wants them.
        writer = torch._C.PyTorchFileWriter(out)
        for name, data in kept.items():
            writer.write_record(name, data, len(data))
        for name in sorted(names - set(kept)):
            if _PLAIN.fullmatch(name):
                data = _read(archive, root, name)
                writer.write_record(name, data, len(data))
        writer.write_end_of_file()
    out.seek(0)
    return out


def _read(archive: zipfile.ZipFile, root: str, name: str) -> bytes:
    info = archive.getinfo(f"{root}/{name}")
    if name.endswith(".json") and info.file_size > _MOST_PROGRAM_BYTES:
        raise ValueError(f"{name} has {info.file_size:,} bytes")
    return archive.read(info)


def _program(data: bytes) -> bytes:
    """The program's text, looked through, without what only tells how it came to be."""
    program = json.loads(data)
    program["guards_code"] = []
    for node in _nodes(program):
        if (target := node.get("target")) is not None and isinstance(target, str) and "inputs" in node:
            _check_target(target)
            metadata = node.get("metadata") or {}
            node["metadata"] = {key: metadata[key] for key in _KEPT_METADATA if key in metadata}
        for key in ("as_operator", "as_custom_obj", "as_graph", "as_opaque"):
            if key in node:
                raise ValueError(f"it has an argument of the kind {key.removeprefix('as_')}, which is not supported")
        if isinstance(expression := node.get("expr_str"), str):
            _check_expression(expression)
    for symbol in program.get("range_constraints", {}):
        _check_expression(str(symbol))
    return json.dumps(program).encode()


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every table in a program, outer ones first."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            yield one
            todo.extend(one.values())
        elif isinstance(one, list):
            todo.extend(one)


def _check_target(target: str) -> None:
    if target.startswith("torch.ops.higher_order"):
        raise ValueError(f"it calls {target}, a program within the program, which is not supported")
    if not _TARGET.fullmatch(target) or any(part in target for part in _FORBIDDEN):
        raise ValueError(f"it calls {target[:100]}, which is no operator of ATen that a network needs")


def _check_expression(expression: str) -> None:
    expression = _WRITTEN_SYMBOL.sub("s0", expression)
    names = _NAME.findall(expression)
    if not _EXPRESSION.fullmatch(expression) or any(
        name not in _FUNCTIONS and not _SYMBOL.fullmatch(name) for name in names
    ):
        raise ValueError(f"it has an expression that is no arithmetic of sizes: {expression[:80]!r}")


def _plain_config(data: bytes) -> bytes:
    """The list of weights, none of them pickled."""
    config = json.loads(data)
    for name, item in config["config"].items():
        if item.get("use_pickle") or not re.fullmatch(r"[A-Za-z0-9_.-]+", str(item.get("path_name"))):
            raise ValueError(f"its entry {name[:100]} is pickled, which is never loaded")
        if item.get("tensor_meta") is None:
            raise ValueError(f"its entry {name[:100]} is no tensor")
    return data
