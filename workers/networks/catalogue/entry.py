"""An entry of the catalogue: one network, where its parts come from, and what identifies them."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workers.networks import weights as weight_files
from workers.networks.preprocess import Preprocessing
from workers.networks.sources import Options, Source, SourceError, find_source
from workers.networks.weights.files import recognise

PROGRAMS = ("export", "keras", "onnx")
"""Kinds of source that are a file with architecture and weights in one."""


@dataclass(frozen=True)
class Entry:
    """A network of the catalogue.

    Attributes:
        weights: `random`, `file:PATH`, `package:NAME`, the name of published weights, or `inside` a program's file.
        options: what is asked of the source: number of outputs, planes, size, arguments, head.
        checkpoint_key: where in a checkpoint the state dict stands; None looks for it.
        output: which of several outputs is read: a key, or a place.
        outputs: what the numbers mean: softmax, sigmoid or value; None where the network itself tells.
        family: naming scheme of the layers, vgg or alexnet, in place of the architecture's own.
        operator: whether the operator's file says it.
        uploaded: the description of a network that a caller brought, as a file; None for all others.
        folder: of the operator's file.
        code: digest of the modules that a factory is made of, and their files.
        problem: why the entry cannot be used.
    """

    id: str
    title: str
    source: str
    weights: str
    transform: Preprocessing
    class_names: tuple[str, ...] = ()
    options: Options = field(default_factory=Options)
    checkpoint_key: str | None = None
    output: str | int | None = None
    outputs: str | None = None
    family: str | None = None
    seed: int = 0
    sha256: str | None = None
    operator: bool = False
    uploaded: Path | None = None
    folder: Path | None = None
    code: str | None = None
    code_files: tuple[Path, ...] = ()
    problem: str | None = None

    def source_or_raise(self) -> Source:
        """The architecture.

        Raises:
            MethodError: `weights-unavailable` where the entry or its architecture cannot be used.
        """
        if self.problem is not None:
            raise weight_files.refuse(f"the catalogue's entry {self.id} cannot be used: {self.problem}")
        try:
            source = find_source(self.source, self.options)
        except SourceError as error:
            raise weight_files.refuse(str(error)) from error
        return source if self.family is None else replace(source, family=self.family)

    def local_file(self, weights_folder: Path) -> Path:
        """The file that `file:PATH` names, or a program's: in the folder of weights, or of the catalogue.

        Raises:
            MethodError: `weights-unavailable`: outside, missing, or without a digest where it needs one.
        """
        name = self.file_name
        folders = [folder.resolve() for folder in (weights_folder, self.folder) if folder is not None]
        path = file_in(name, folders)
        if self.sha256 is None and path.suffix != ".safetensors" and self.weights != "inside":
            try:
                safe = recognise(path)[0] == "safetensors"
            except (OSError, ValueError) as error:
                raise weight_files.refuse(f"{name} cannot be read: {error}") from error
            if not safe:
                raise weight_files.refuse(f"{name} needs sha256 beside it in the catalogue")
        return path

    @property
    def is_own(self) -> bool:
        """Whether somebody trained it, or had it trained, for a purpose that is not its library's."""
        published = {weights.name for weights in self.source_or_raise().published}
        if self.uploaded is not None:
            return True
        return self.operator and self.weights not in published and not self.weights.startswith("package:")

    @property
    def file_name(self) -> str:
        """What `local_file` looks for; "" where the entry names no file."""
        if self.weights == "inside":
            return self.source.partition(":")[2]
        return self.weights.removeprefix("file:") if self.weights.startswith("file:") else ""

    def stamp(self, weights_folder: Path) -> tuple[Any, ...]:
        """What tells by a look at the disk alone that `digest` is still what it was: the entry and its file's version.

        Raises:
            MethodError: `weights-unavailable`.
        """
        if self.file_name:
            return self, _version(self.local_file(weights_folder))
        if self.weights.startswith("package:") and (path := self.source_or_raise().package_file) is not None:
            return self, _version(path)
        return self, None

    def digest(self, weights_folder: Path) -> str:
        """SHA-256 of what identifies source, weights and preprocessing; a local file by what it contains."""
        known = {
            "source": self.source,
            "weights": self.weights,
            "options": [self.options.classes, self.options.arguments, self.options.head, self.options.head_at],
            "checkpoint_key": self.checkpoint_key,
            "output": [self.output, self.outputs],
            "seed": self.seed if self.weights == "random" else None,
            "preprocess": self.transform.as_json(),
            "classes": self.class_names,
            "family": self.family,
            "code": self.code,
        }
        if self.file_name:
            known["sha256"] = _sha256_of_version(*_version(self.local_file(weights_folder)))
        elif self.weights.startswith("package:") and (path := self.source_or_raise().package_file) is not None:
            known["sha256"] = _sha256_of_version(*_version(path))
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def file_in(name: str, folders: list[Path]) -> Path:
    """The file of that name in the first of some folders that has it.

    Raises:
        MethodError: `weights-unavailable`: it is in none, or lies outside of all.
    """
    inside = [path for folder in folders if (path := (folder / name).resolve()).is_relative_to(folder)]
    if not inside:
        raise weight_files.refuse(f"{name} lies outside the folder of weights and the catalogue's folder")
    found = next((path for path in inside if path.is_file()), None)
    if found is None:
        raise weight_files.refuse(f"{name} is neither in the folder of weights nor beside the catalogue")
    return found


def _version(path: Path) -> tuple[Path, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise weight_files.refuse(f"{path.name} cannot be read: {error.strerror}") from error
    return path, status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=256)  # by when the file was changed, too
def _sha256_of_version(path: Path, _modified_ns: int, _size: int) -> str:
    return weight_files.file_sha256(path)


def as_summary(
    entry: Entry, default_model: str, available: bool | None, digest: str | None, problem: str | None
) -> Mapping[str, Any]:
    """A line of the catalogue as JSON (`convscope.protocol.cards.ModelSummary`)."""
    return {
        "id": entry.id,
        "title": entry.title,
        "source": entry.source,
        "weights": entry.weights if entry.weights != "random" else f"random (seed {entry.seed})",
        "default": entry.id == default_model,
        "available": available,
        "problem": problem,
        "entry_digest": digest,
    }
