"""The operator's catalogue.toml as a text: where it is, and entries put into it and taken out.

What its entries mean is the workers' affair; here they are tables that must survive an edit unchanged.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from convscope.settings import Settings

_BEGINNING = """\
# Your own networks; docs/networks.md says what an entry may say. This file is read again whenever it changes.
# `convscope models add FILE --arch resnet18 --classes names.txt` writes an entry and checks it.
"""


def ensure(settings: Settings) -> Path | None:
    """The catalogue in force: the one that was named, else the data folder's, which is made if it is not there.

    Returns:
        None where the data folder cannot be written.
    """
    if settings.catalogue is not None:
        return settings.catalogue
    path = settings.data / "catalogue.toml"
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, _BEGINNING)
        except OSError:
            return None
    return path


def write(path: Path, text: str) -> None:
    """The file with that text, at once: whoever reads it sees the old one or the new one."""
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        if path.exists():
            Path(partial).chmod(path.stat().st_mode)
        else:
            Path(partial).chmod(0o644)
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)


def with_entry(text: str, model_id: str, values: Mapping[str, Any]) -> str:
    """The text with an entry more, everything else as it was.

    Raises:
        ValueError: there is one of that id already, or the text is not TOML.
    """
    before = tomllib.loads(text)
    if model_id in before.get("networks", {}):
        raise ValueError(f"the catalogue has an entry {model_id} already")
    added = text.rstrip("\n") + "\n\n" + entry_text(model_id, values)
    after = tomllib.loads(added)
    expected = {**before, "networks": {**before.get("networks", {}), model_id: _plain(values)}}
    if after != expected:
        raise ValueError("the catalogue cannot take another table at its end; edit it by hand")
    return added.lstrip("\n")


def without_entry(text: str, model_id: str) -> str:
    """The text without an entry, everything else as it was.

    Raises:
        ValueError: there is none of that id, or it is not written as a table of its own.
    """
    before = tomllib.loads(text)
    if model_id not in before.get("networks", {}):
        raise ValueError(f"the catalogue has no entry {model_id}")
    name = rf"""(?:{re.escape(model_id)}|"{re.escape(model_id)}"|'{re.escape(model_id)}')"""
    own = re.compile(rf"\s*\[\s*networks\s*\.\s*{name}\s*(?:\.[^\]]*)?\]")
    kept, inside = [], False
    for line in text.splitlines(keepends=True):
        if re.match(r"\s*\[", line):
            inside = own.match(line) is not None
        if not inside:
            kept.append(line)
    after = "".join(kept)
    networks = {name: value for name, value in before["networks"].items() if name != model_id}
    try:
        found = tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        found = {}
    if {**found, "networks": found.get("networks", {})} != {**before, "networks": networks}:
        raise ValueError(f"the entry {model_id} is not a table of its own; edit the catalogue by hand")
    return after


def entry_text(model_id: str, values: Mapping[str, Any]) -> str:
    """An entry as TOML: plain values, then tables."""
    name = model_id if re.fullmatch(r"[A-Za-z0-9_-]+", model_id) else json.dumps(model_id, ensure_ascii=False)
    lines = [f"[networks.{name}]"]
    lines += [f"{key} = {_toml(value)}" for key, value in values.items() if not isinstance(value, Mapping)]
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += [f"[networks.{name}.{key}]", *(f"{inner} = {_toml(one)}" for inner, one in value.items())]
    return "\n".join(lines) + "\n"


def keys_of(pairs: Iterable[str]) -> dict[str, Any]:
    """Keys of an entry from KEY=VALUE, the value as TOML, or as text where it is none.

    Raises:
        ValueError: one is no such pair.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"[a-z_0-9]+(\.[a-z_0-9]+)?", key.strip()):
            raise ValueError(f"--set takes KEY=VALUE, not {pair!r}")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value
        table, _, inner = key.strip().rpartition(".")
        (found.setdefault(table, {}) if table else found)[inner] = parsed
    return found


def _toml(value: Any) -> str:
    """A value as TOML writes it; texts as JSON writes them, which TOML reads alike."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _plain(value: Any) -> Any:
    """A value as TOML gives it back: lists for tuples, and empty tables left out."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items() if not (isinstance(one, Mapping) and not one)}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
