"""The catalogue: which networks there are, by id. Built-in ones and the operator's `catalogue.toml`.

    [networks.tea-leaves]                       # the id that requests use
    source = "torchvision:alexnet"              # or timm:NAME, zfnet, alexnet_2012, python:package.module:factory
    weights = "file:tea.safetensors"            # or a published name, or random (with seed = N)
    sha256 = "…"                                # of the file; needed for .pth, checked wherever given
    title = "Tea leaves"
    classes = ["assam", "darjeeling", "keemun"] # or "file:names.txt", one a line
    [networks.tea-leaves.preprocess]            # whatever differs from the architecture's own
    size = 224
    mean = [0.5, 0.5, 0.5]

The file is read again when it changes. An entry that makes no sense is listed with the reason and hurts nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import re
import threading
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm

from workers.contract import MethodError
from workers.networks import weights as weight_files
from workers.networks.preprocess import Preprocess, from_mapping
from workers.networks.sources import LITE, Source, SourceError, find_source, our_architectures, torchvision_names

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_KEYS = {"source", "weights", "sha256", "seed", "title", "classes", "preprocess"}
CATALOGUE_NAME = "catalogue.toml"
_LARGEST_CATALOGUE_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class Entry:
    """A network of the catalogue.

    Attributes:
        weights: `random`, `file:PATH`, `package:NAME`, or the name of published weights.
        outputs: number of outputs where it differs from the architecture's own.
        operator: whether the operator's file says it.
        folder: of the operator's file.
        problem: why the entry cannot be used.
    """

    id: str
    title: str
    source: str
    weights: str
    transform: Preprocess
    class_names: tuple[str, ...] = ()
    outputs: int | None = None
    seed: int = 0
    sha256: str | None = None
    operator: bool = False
    folder: Path | None = None
    problem: str | None = None

    def source_or_raise(self) -> Source:
        """The architecture.

        Raises:
            MethodError: `weights-unavailable` where the entry or its architecture cannot be used.
        """
        if self.problem is not None:
            raise weight_files.refuse(f"the catalogue's entry {self.id} cannot be used: {self.problem}")
        try:
            return find_source(self.source, self.outputs, operator=self.operator)
        except SourceError as error:
            raise weight_files.refuse(str(error)) from error

    def local_file(self, weights_folder: Path) -> Path:
        """The file that `file:PATH` names: inside the folder of weights, or of the catalogue, and nowhere else.

        Raises:
            MethodError: `weights-unavailable`: outside, missing, or neither `.safetensors` nor `.pth` with a digest.
        """
        name = self.weights.removeprefix("file:")
        folders = [folder.resolve() for folder in (weights_folder, self.folder) if folder is not None]
        inside = [path for folder in folders if (path := (folder / name).resolve()).is_relative_to(folder)]
        if not inside:
            raise weight_files.refuse(f"{name} lies outside the folder of weights and the catalogue's folder")
        found = [path for path in inside if path.is_file()]
        if not found:
            raise weight_files.refuse(f"{name} is neither in the folder of weights nor beside the catalogue")
        path = found[0]
        if path.suffix not in (".safetensors", ".pth", ".pt"):
            raise weight_files.refuse(f"{name} is neither .safetensors nor .pth")
        if path.suffix != ".safetensors" and self.sha256 is None:
            raise weight_files.refuse(f"{name} needs sha256 beside it in the catalogue")
        return path

    def stamp(self, weights_folder: Path) -> tuple[Any, ...]:
        """What tells by a look at the disk alone that `digest` is still what it was: the entry and its file's version.

        Raises:
            MethodError: `weights-unavailable`.
        """
        if self.weights.startswith("file:"):
            return self, _version(self.local_file(weights_folder))
        if self.weights.startswith("package:") and (path := self.source_or_raise().package_file) is not None:
            return self, _version(path)
        return self, None

    def digest(self, weights_folder: Path) -> str:
        """SHA-256 of what identifies source, weights and preprocessing; a local file by what it contains."""
        known = {
            "source": self.source,
            "weights": self.weights,
            "outputs": self.outputs,
            "seed": self.seed if self.weights == "random" else None,
            "preprocess": self.transform.as_json(),
            "classes": self.class_names,
        }
        if self.source.startswith("python:"):
            known["factory"] = _factory_sha256(self.source.split(":")[1])
        if self.weights.startswith("file:"):
            known["sha256"] = _sha256_of_version(*_version(self.local_file(weights_folder)))
        elif self.weights.startswith("package:") and (path := self.source_or_raise().package_file) is not None:
            known["sha256"] = _sha256_of_version(*_version(path))
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _version(path: Path) -> tuple[Path, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise weight_files.refuse(f"{path.name} cannot be read: {error.strerror}") from error
    return path, status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=256)
def _sha256_of_version(path: Path, modified_ns: int, size: int) -> str:
    del modified_ns, size  # part of the cache's key: a changed file is read again
    return weight_files.file_sha256(path)


@functools.lru_cache(maxsize=64)
def _factory_sha256(module: str) -> str | None:
    """SHA-256 of a factory's file as this process first saw it, for that is the code that it runs."""
    try:
        found = importlib.util.find_spec(module)
        return None if found is None or found.origin is None else weight_files.file_sha256(Path(found.origin))
    except (ImportError, ValueError, OSError):
        return None


class Catalogue:
    """All networks by id.

    Args:
        path: the operator's catalogue.toml, or None.
        weights_folder: where local and downloaded weights lie.
    """

    def __init__(self, path: Path | None, weights_folder: Path) -> None:
        self.path = path
        self.weights_folder = weights_folder
        self._own: dict[str, Entry] = {}
        self._read_version: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self.problem: str | None = None

    def entries(self) -> list[Entry]:
        """All entries, the operator's first; their file is read again if it has changed."""
        self._refresh()
        return [*self._own.values(), *builtin_entries().values()]

    def entry(self, model_id: str) -> Entry:
        """The entry of that id.

        Raises:
            MethodError: `unknown-model`, with near names.
        """
        self._refresh()
        found = self._own.get(model_id)
        return found if found is not None else find_entry(model_id, tuple(self._own))

    def _refresh(self) -> None:
        if self.path is not None:
            with self._lock:
                self._read(self.path)

    def _read(self, path: Path) -> None:
        try:
            status = path.stat()
            version = (status.st_mtime_ns, status.st_size)
            if version == self._read_version:
                return
            if status.st_size > _LARGEST_CATALOGUE_BYTES:
                raise ValueError(f"{status.st_size:,} bytes are too many for a catalogue")
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            # What was read last stays in force: a file half written by an editor must not take networks away.
            self.problem = f"{path.name} cannot be read: {error}"
            return
        self._read_version = version
        try:
            self._own = {entry.id: entry for entry in read_catalogue(text, path.parent)}
            self.problem = None
        except ValueError as error:
            self.problem = f"{path.name} is not a catalogue: {error}"


def read_catalogue(text: str, folder: Path) -> Iterator[Entry]:
    """The entries of a catalogue.toml; one that makes no sense comes with its `problem`.

    Raises:
        ValueError: the file as a whole is no catalogue.
    """
    document = tomllib.loads(text)
    networks = document.get("networks", {})
    surplus = set(document) - {"networks"}
    if surplus or not isinstance(networks, dict):
        raise ValueError(
            "entries stand in tables [networks.ID]" + (f", not in {sorted(surplus)[0]}" if surplus else "")
        )
    for model_id, values in networks.items():
        try:
            yield _operator_entry(model_id, values, folder)
        except (ValueError, TypeError, OSError, MethodError) as error:
            fields = values if isinstance(values, dict) else {}
            # A mistaken entry must not stand in the way of the built-in network whose id it took.
            taken = model_id in builtin_entries()
            yield Entry(
                id=f"{model_id} ({CATALOGUE_NAME})" if taken else model_id,
                title=str(fields.get("title", model_id))[:200],
                source=str(fields.get("source", ""))[:200],
                weights=str(fields.get("weights", ""))[:200],
                transform=Preprocess((224, 224), 256),
                operator=True,
                problem=str(error),
            )


def _operator_entry(model_id: str, values: Any, folder: Path) -> Entry:
    if not isinstance(values, dict):
        raise TypeError("an entry is a table")
    if not _ID.fullmatch(model_id):
        raise ValueError("an id has letters, digits, '.', '_' and '-', 100 at most")
    if model_id in builtin_entries():
        raise ValueError(f"{model_id} is the id of a built-in network")
    if unknown := set(values) - _KEYS:
        raise ValueError(f"an entry knows no {', '.join(sorted(unknown))}")
    for key, kind in (
        ("source", str),
        ("weights", str),
        ("sha256", str),
        ("seed", int),
        ("title", str),
        ("preprocess", dict),
    ):
        if key in values and not isinstance(values[key], kind):
            raise ValueError(f"{key} is a {kind.__name__}, not {values[key]!r}")
    if "source" not in values:
        raise ValueError("source is missing")
    if re.fullmatch(r"[0-9a-fA-F]{64}", values.get("sha256", "0" * 64)) is None:
        raise ValueError("sha256 is 64 hexadecimal digits")
    classes = _classes(values.get("classes"), folder)
    source = find_source(values["source"], len(classes) if classes is not None else None, operator=True)
    weights = _weights_wish(values.get("weights"), source)
    return Entry(
        id=model_id,
        title=values.get("title", source.title),
        source=values["source"],
        weights=weights,
        transform=from_mapping(values.get("preprocess", {}), source.preprocess),
        class_names=classes if classes is not None else source.classes,
        outputs=len(classes) if classes is not None else None,
        seed=values.get("seed", 0),
        sha256=values.get("sha256"),
        operator=True,
        folder=folder,
    )


def _weights_wish(wish: str | None, source: Source) -> str:
    names = [published.name for published in source.published]
    if wish is None:
        if source.package_file is not None:
            return "package:" + source.package_file.name
        if not names:
            raise ValueError(f"weights is missing: file:PATH or random ({source.name} has no published weights)")
        return names[0]
    if wish == "random" or wish.startswith("file:") or wish in names:
        return wish
    raise ValueError(f"weights is file:PATH, random{''.join(', ' + name for name in names)}; not {wish!r}")


def _classes(wish: Any, folder: Path) -> tuple[str, ...] | None:
    if wish is None:
        return None
    if isinstance(wish, str) and wish.startswith("file:"):
        path = (folder / wish.removeprefix("file:")).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError("the file of class names lies outside the catalogue's folder")
        wish = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not isinstance(wish, list) or not wish or not all(isinstance(name, str) for name in wish):
        raise ValueError("classes is a list of names, or file:NAMES.txt")
    return tuple(wish)


@functools.cache
def builtin_entries() -> dict[str, Entry]:
    """Every network that needs no catalogue file: Lite, ours, torchvision's, and a `-random` twin of each."""
    sources = [*LITE, *our_architectures(), *(f"torchvision:{name}" for name in torchvision_names())]
    found: dict[str, Entry] = {}
    for name in sources:
        model_id = name.partition(":")[2] or name
        for entry in _pair(model_id, name):
            found[entry.id] = entry
    return found


def _pair(model_id: str, source_name: str) -> tuple[Entry, Entry]:
    """The network with its own weights, and with random ones."""
    source = find_source(source_name)
    if source_name in LITE:
        weights = f"package:{LITE[source_name][1].replace('_', '-')}"
    elif source.entry:
        weights = str(source.entry.get("weights", "random"))
    else:
        weights = source.published[0].name if source.published else "random"
    seed = int(source.entry.get("seed", 0))
    own = Entry(model_id, source.title, source_name, weights, source.preprocess, source.classes, seed=seed)
    title = f"{source.title.partition(' (')[0]}, random weights"
    return own, Entry(f"{model_id}-random", title, source_name, "random", source.preprocess, source.classes)


def find_entry(model_id: str, further: tuple[str, ...] = ()) -> Entry:
    """The built-in entry of that id; `timm:NAME` and `timm:NAME-random` name every network of timm.

    Raises:
        MethodError: `unknown-model`, with near names, also of `further`.
    """
    found = builtin_entries().get(model_id)
    if found is not None:
        return found
    if model_id.startswith("timm:"):
        return _timm_entry(model_id)
    near = get_close_matches(model_id, [*builtin_entries(), *further], n=5, cutoff=0.4)
    hint = f"; near names: {', '.join(near)}" if near else ""
    raise MethodError("unknown-model", f"there is no network {model_id!r} in the catalogue{hint}")


@functools.lru_cache(maxsize=256)
def _timm_entry(model_id: str) -> Entry:
    name = model_id.removeprefix("timm:").removesuffix("-random")
    try:
        own, twin = _pair(model_id.removesuffix("-random"), f"timm:{name}")
    except (SourceError, RuntimeError) as error:
        near = get_close_matches(name, timm.list_models(), n=5, cutoff=0.4)
        raise MethodError("unknown-model", f"{error}; near names: {', '.join(near) or 'none'}") from error
    return twin if model_id.endswith("-random") else own


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
