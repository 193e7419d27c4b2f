"""`convscope models add`: a file of weights or a program becomes an entry of the catalogue, if it is really a network.

Nothing is written before the network was built, its weights fitted and an image gone through it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch

from convscope import catalogue_file
from workers.contract import MethodError
from workers.networks.build import LoadedNetwork, load_entry
from workers.networks.catalogue.builtin import builtin_entries
from workers.networks.catalogue.reading import make_entry, names_in
from workers.networks.sources import LITE, our_architectures, torchvision_names
from workers.networks.weights import file_sha256

_PROGRAMS = {".pt2": "export", ".keras": "keras", ".onnx": "onnx"}


@dataclass
class Wish:
    """What the command line says.

    Attributes:
        file: the weights or program.
        arch: architecture; a bare name is looked for in torchvision, then in timm, then among ours.
        model_id: of the entry; None takes the file's name.
        classes: file of class names, one a line.
        more: further keys of the entry as TOML, `head=["dropout", "linear"]`, `preprocess.size=224`.
    """

    file: Path
    arch: str | None = None
    model_id: str | None = None
    classes: Path | None = None
    more: list[str] = field(default_factory=list)


def add(wish: Wish, catalogue: Path, weights_folder: Path) -> tuple[str, LoadedNetwork]:
    """Write the entry, its file and its names where they belong.

    Returns:
        The entry's id, and the network as it was tried.

    Raises:
        ValueError, MethodError, OSError: it is no network, and nothing was written; saying why.
    """
    if not wish.file.is_file():
        raise ValueError(f"there is no file {wish.file}")
    model_id = wish.model_id or _id_of(wish.file)
    text = catalogue.read_text(encoding="utf-8")
    if model_id in tomllib.loads(text).get("networks", {}) or model_id in builtin_entries():
        raise ValueError(f"there is a network {model_id} already; give another id with --id")
    values = catalogue_file.keys_of(wish.more)
    if wish.classes is not None:
        values["classes"] = names_in(wish.classes)
    network, values = _tried(model_id, wish, values, catalogue.parent)
    placed = _place(wish.file, catalogue.parent, weights_folder)
    values = {key: value.replace(wish.file.name, placed) if key in ("source", "weights") else value
              for key, value in values.items()}  # fmt: skip
    if wish.classes is not None:
        values["classes"] = _names_beside(wish.classes, model_id, catalogue.parent, values["classes"])
    catalogue_file.write(catalogue, catalogue_file.with_entry(text, model_id, values))
    return model_id, network


def _id_of(file: Path) -> str:
    """An id from a file's name: without its endings, and what an id may not have."""
    stem = file.name
    while Path(stem).suffix.lower() in (*_PROGRAMS, ".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar"):
        stem = Path(stem).stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "network"


def _sources(wish: Wish) -> Iterator[str]:
    """The sources that an architecture's name may mean, the likeliest first."""
    if (kind := _PROGRAMS.get(wish.file.suffix.lower())) is not None and wish.arch is None:
        yield f"{kind}:{wish.file.name}"
    elif wish.arch is None:
        raise ValueError("--arch says the architecture: a name of torchvision or timm, or python:module:factory")
    elif ":" in wish.arch or wish.arch in LITE or wish.arch in our_architectures():
        yield wish.arch
    else:
        found = [f"torchvision:{wish.arch}"] if wish.arch in torchvision_names() else []
        found += [f"timm:{wish.arch}"] if timm.is_model(wish.arch.partition(".")[0]) else []
        if not found:
            raise ValueError(
                f"neither torchvision nor timm has a network {wish.arch!r}; python:module:factory is yours"
            )
        yield from found


def _tried(model_id: str, wish: Wish, values: dict[str, Any], folder: Path) -> tuple[LoadedNetwork, dict[str, Any]]:
    """The network and its entry, by the first source that fits."""
    refusals: list[MethodError | ValueError] = []
    for source in _sources(wish):
        entry: dict[str, Any] = {"source": source}
        if source.partition(":")[2] != wish.file.name:
            entry |= {"weights": f"file:{wish.file.name}", "sha256": file_sha256(wish.file)}
        else:
            entry |= {"sha256": file_sha256(wish.file)}
        entry |= values
        for _ in range(2):
            try:
                return _load(model_id, entry, folder, wish.file.parent), entry
            except (MethodError, ValueError) as error:
                count = _count_in(error, entry)
                if count is None:
                    refusals.append(error)
                    break
                entry = entry | {"num_classes": count}
    raise refusals[0]


def _count_in(error: Exception, entry: dict[str, Any]) -> int | None:
    """The number of outputs in a file, where the refusal tells it and the entry does not."""
    said = re.search(r"\S+ has shape \((\d+),.*the network's is \((\d+),", str(error))
    if said is None or "num_classes" in entry or "classes" in entry:
        return None
    return int(said[1])


def _load(model_id: str, entry: dict[str, Any], folder: Path, files: Path) -> LoadedNetwork:
    """The network, after an image went through it; modules lie in the catalogue's folder, the file in its own.

    Raises:
        MethodError, ValueError: what is wrong.
    """
    network = load_entry(make_entry(model_id, entry, folder, files), files, fetch=False)
    inputs, _ = network.prepare([torch.full((64, 64, 3), 128, dtype=torch.uint8)])
    with torch.no_grad():
        network.module(inputs)
    return network


def _place(file: Path, catalogue_folder: Path, weights_folder: Path) -> str:
    """The file's name as the entry says it; copied into the folder of weights if it lies in neither folder."""
    resolved = file.resolve()
    for folder in (weights_folder.resolve(), catalogue_folder.resolve()):
        if resolved.is_relative_to(folder):
            return resolved.relative_to(folder).as_posix()
    weights_folder.mkdir(parents=True, exist_ok=True)
    name = file.name
    if (weights_folder / name).exists() and file_sha256(weights_folder / name) != file_sha256(file):
        name = f"{file.stem}-{file_sha256(file)[:12]}{file.suffix}"
    _copy(file, weights_folder / name)
    return name


def _names_beside(file: Path, model_id: str, folder: Path, names: list[str]) -> list[str] | str:
    """Class names as the entry says them: a few in it, many in a file beside the catalogue."""
    if len(names) <= 20:
        return names
    if file.resolve().is_relative_to(folder.resolve()):
        return f"file:{file.resolve().relative_to(folder.resolve()).as_posix()}"
    _copy(file, folder / f"{model_id}-classes.txt")
    return f"file:{model_id}-classes.txt"


def _copy(file: Path, to: Path) -> None:
    handle, partial = tempfile.mkstemp(dir=to.parent, prefix=f".{to.name}.")
    os.close(handle)
    try:
        shutil.copyfile(file, partial)
        Path(partial).chmod(0o644)
        Path(partial).replace(to)
    finally:
        Path(partial).unlink(missing_ok=True)
