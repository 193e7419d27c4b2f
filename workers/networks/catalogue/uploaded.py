"""Entries of networks that callers brought: a file for each version, its weights or program beside it."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

from workers.contract import MethodError
from workers.networks import weights as weight_files
from workers.networks.catalogue.entry import Entry
from workers.networks.catalogue.reading import make_entry

UPLOADED = "@"
"""Between a network's id and its version; no id in the operator's catalogue has it."""

_REFUSED = ("python", "keras", "onnx")


def read_uploaded(path: Path) -> Entry:
    """The entry of a network that a caller brought.

    Raises:
        MethodError: `unknown-model` where there is none, `weights-unavailable` where it is no network; saying why.
    """
    try:
        modified_ns = path.stat().st_mtime_ns
    except OSError as error:
        raise MethodError("unknown-model", f"there is no network {path.stem.partition(UPLOADED)[0]!r}") from error
    return _read(path, modified_ns)


@functools.lru_cache(maxsize=256)  # by when the file was changed, too
def _read(path: Path, _modified_ns: int) -> Entry:
    model_id = path.stem.partition(UPLOADED)[0]
    values = json.loads(path.read_text(encoding="utf-8"))
    # The service has refused these; the worker does not take its word for it.
    if values["source"].partition(":")[0] in _REFUSED or "arguments" in values:
        raise weight_files.refuse(f"{model_id} says what only the operator's catalogue may say")
    try:
        entry = make_entry(model_id, values, path.parent, operator=False)
    except (ValueError, TypeError, OSError) as error:
        raise weight_files.refuse(f"{model_id} cannot be used: {error}") from error
    return replace(entry, uploaded=path)
