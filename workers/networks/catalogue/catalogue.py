"""All networks by id, the operator's file read again when it changes, and those that callers brought."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from workers.networks.catalogue.builtin import builtin_entries, find_entry
from workers.networks.catalogue.entry import Entry
from workers.networks.catalogue.reading import read_catalogue
from workers.networks.catalogue.uploaded import UPLOADED, read_uploaded

_LARGEST_CATALOGUE_BYTES = 4 * 1024**2
_FILES = re.compile(r"""["'](?:file|export|keras|onnx):([^"'\n]+)["']""")


class Catalogue:
    """All networks by id.

    Args:
        path: the operator's catalogue.toml, or None.
        weights_folder: where local and downloaded weights lie.
        uploads_folder: where files and entries of networks lie that callers brought, or None.
    """

    def __init__(self, path: Path | None, weights_folder: Path, uploads_folder: Path | None = None) -> None:
        self.path = path
        self.uploads_folder = uploads_folder
        self.weights_folder = weights_folder
        self._own: dict[str, Entry] = {}
        self._read_version: tuple[Any, ...] | None = None
        self._used: tuple[Path, ...] = ()
        self._lock = threading.Lock()
        self.problem: str | None = None

    def entries(self) -> list[Entry]:
        """All entries, the operator's first; their file is read again if it has changed."""
        self._refresh()
        return [*self._own.values(), *builtin_entries().values()]

    def entry(self, model_id: str) -> Entry:
        """The entry of that id; of a network that a caller brought, its id with its version.

        Raises:
            MethodError: `unknown-model`, with near names; `weights-unavailable` for an upload that is no network.
        """
        if UPLOADED in model_id and self.uploads_folder is not None:
            return read_uploaded(self.uploads_folder / f"{model_id}.json")
        self._refresh()
        found = self._own.get(model_id)
        return found if found is not None else find_entry(model_id, tuple(self._own))

    def _refresh(self) -> None:
        if self.path is not None:
            with self._lock:
                self._read(self.path)

    def _read(self, path: Path) -> None:
        try:
            size = path.stat().st_size
            if self._version(path) == self._read_version:
                return
            if size > _LARGEST_CATALOGUE_BYTES:
                raise ValueError(f"{size:,} bytes are too many for a catalogue")
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            # What was read last stays in force: a file half written by an editor must not take networks away.
            self.problem = f"{path.name} cannot be read: {error}"
            return
        # Files that change while they are read are seen at the next look.
        version = self._version(path)
        try:
            self._own = {entry.id: entry for entry in read_catalogue(text, path.parent, self.weights_folder)}
            self.problem = None
        except ValueError as error:
            self.problem = f"{path.name} is not a catalogue: {error}"
        used = tuple(files_used(text, self._own.values(), path.parent))
        if used != self._used:
            self._used, version = used, self._version(path, used)
        self._read_version = version

    def _version(self, path: Path, used: tuple[Path, ...] | None = None) -> tuple[Any, ...]:
        """What changes when the catalogue does, a file that it uses, or a module that lies beside it."""
        beside = sorted(path.parent.glob("*.py"))
        return tuple((file, *_stat(file)) for file in (path, *beside, *(self._used if used is None else used)))


def files_used(text: str, entries: Iterable[Entry], folder: Path) -> Iterator[Path]:
    """Files that entries depend on beside their weights: the modules of factories, lists of names, programs."""
    yield from sorted({path for entry in entries if entry.operator for path in entry.code_files})
    for name in sorted(set(_FILES.findall(text))):
        path = folder / name
        if path.suffix in (".txt", ".pt2", ".keras", ".onnx"):
            yield path


def _stat(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size
