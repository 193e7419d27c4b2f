"""Entries of a catalogue from what their author wrote."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workers.contract import MethodError
from workers.networks import weights as weight_files
from workers.networks.catalogue.builtin import builtin_entries
from workers.networks.catalogue.entry import Entry
from workers.networks.preprocess import Preprocessing, from_mapping
from workers.networks.sources import Options, Source, find_source
from workers.networks.sources.heads import check_head

CATALOGUE_NAME = "catalogue.toml"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_KINDS: dict[str, tuple[type, ...]] = {
    "source": (str,),
    "weights": (str,),
    "sha256": (str,),
    "seed": (int,),
    "title": (str,),
    "classes": (str, list),
    "num_classes": (int,),
    "preprocess": (dict,),
    "arguments": (dict,),
    "head": (list, dict),
    "checkpoint_key": (str,),
    "output": (str, int),
    "outputs": (str,),
    "family": (str,),
}
"""What an entry may say, and as what."""
_MOST_CLASSES = 1_000_000
MEANINGS = ("softmax", "sigmoid", "value")
FAMILIES = ("vgg", "alexnet")


def read_catalogue(text: str, folder: Path, weights_folder: Path | None = None) -> Iterator[Entry]:
    """The entries of a catalogue.toml; one that makes no sense comes with its `problem`.

    Args:
        text: of the file.
        folder: that it lies in.
        weights_folder: where files of weights and programs may lie too.

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
            yield make_entry(model_id, values, folder, weights_folder)
        except (ValueError, TypeError, OSError, MethodError) as error:
            fields = values if isinstance(values, dict) else {}
            # A mistaken entry must not stand in the way of the built-in network whose id it took.
            taken = model_id in builtin_entries()
            yield Entry(
                id=f"{model_id} ({CATALOGUE_NAME})" if taken else model_id,
                title=str(fields.get("title", model_id))[:200],
                source=str(fields.get("source", ""))[:200],
                weights=str(fields.get("weights", ""))[:200],
                transform=Preprocessing((224, 224), 256),
                operator=True,
                problem=error.detail if isinstance(error, MethodError) else str(error),
            )


def make_entry(
    model_id: str, values: Any, folder: Path, weights_folder: Path | None = None, *, operator: bool = True
) -> Entry:
    """The entry that a table describes.

    Args:
        model_id: its id.
        values: as TOML or JSON gives them.
        folder: in which its files lie.
        weights_folder: in which they may lie too.
        operator: whether the operator wrote it; only that may name code.

    Raises:
        ValueError, TypeError, MethodError: saying what is wrong.
    """
    _check(model_id, values)
    classes = _classes(values.get("classes"), folder)
    count = values.get("num_classes", None if classes is None else len(classes))
    if classes is not None and count != len(classes):
        raise ValueError(f"num_classes is {count}, and classes names {len(classes)}")
    wish = values.get("preprocess", {})
    options = _options(values, wish, count, operator, [folder, *([weights_folder] if weights_folder else [])])
    source = find_source(values["source"], options)
    weights = _weights_wish(values.get("weights"), source)
    return Entry(
        id=model_id,
        title=values.get("title", source.title),
        source=values["source"],
        weights=weights,
        transform=from_mapping(wish, source.preprocess),
        class_names=classes if classes is not None else source.classes,
        options=options,
        checkpoint_key=values.get("checkpoint_key"),
        output=values.get("output"),
        outputs=values.get("outputs"),
        family=values.get("family"),
        seed=values.get("seed", 0),
        sha256=values.get("sha256"),
        operator=operator,
        folder=folder,
        code=weight_files.files_sha256(source.code) if source.code else None,
        code_files=source.code,
    )


def _check(model_id: str, values: Any) -> None:
    """Refuse what is no entry, before anything is made of it."""
    if not isinstance(values, dict):
        raise TypeError("an entry is a table")
    if not _ID.fullmatch(model_id):
        raise ValueError("an id has letters, digits, '.', '_' and '-', 100 at most")
    if model_id in builtin_entries():
        raise ValueError(f"{model_id} is the id of a built-in network")
    if unknown := set(values) - set(_KINDS):
        raise ValueError(f"an entry knows no {', '.join(sorted(unknown))}")
    for key, kinds in _KINDS.items():
        if key in values and (not isinstance(values[key], kinds) or isinstance(values[key], bool)):
            raise ValueError(f"{key} is a {' or a '.join(kind.__name__ for kind in kinds)}, not {values[key]!r}")
    if "source" not in values:
        raise ValueError("source is missing")
    if re.fullmatch(r"[0-9a-fA-F]{64}", values.get("sha256", "0" * 64)) is None:
        raise ValueError("sha256 is 64 hexadecimal digits")
    if not 0 < values.get("num_classes", 1) <= _MOST_CLASSES:
        raise ValueError(f"num_classes is from 1 to {_MOST_CLASSES:,}")
    for key, allowed in (("outputs", MEANINGS), ("family", FAMILIES)):
        if key in values and values[key] not in allowed:
            raise ValueError(f"{key} is one of {', '.join(allowed)}, not {values[key]!r}")


def _options(
    values: Mapping[str, Any], preprocess: Mapping[str, Any], count: int | None, operator: bool, folders: list[Path]
) -> Options:
    """What the entry asks of its source."""
    size = preprocess.get("size")
    sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list) else None
    channels = preprocess.get("channels")
    head, at = _head(values.get("head"))
    return Options(
        classes=count,
        channels=channels if isinstance(channels, int) else None,
        size=(int(sides[0]), int(sides[1])) if sides is not None and len(sides) == 2 else None,
        arguments=tuple((name, _hashable(value)) for name, value in sorted(values.get("arguments", {}).items())),
        head=head,
        head_at=at,
        operator=operator,
        folders=tuple(folder.resolve() for folder in folders),
    )


def _head(wish: Any) -> tuple[tuple[str, ...], str | None]:
    """The layers of a head, and where it stands: a list of layers, or a table of `layers` and `at`."""
    if wish is None:
        return (), None
    table = {"layers": wish} if isinstance(wish, list) else wish
    layers, at = table.get("layers"), table.get("at")
    if (
        set(table) - {"layers", "at"}
        or not isinstance(layers, list)
        or not all(isinstance(layer, str) for layer in layers)
        or not isinstance(at, str | None)
    ):
        raise ValueError('head is a list of layers, as ["dropout", "linear"], or a table of layers and at')
    check_head(layers)
    return tuple(layers), at


def _hashable(value: Any) -> Any:
    """A value of TOML as one that can be a key; lists become tuples, which builders take as well."""
    if isinstance(value, list):
        return tuple(_hashable(one) for one in value)
    if isinstance(value, str | int | float | bool):
        return value
    raise ValueError(f"arguments are numbers, texts, true, false and lists of them, not {value!r}")


def _weights_wish(wish: str | None, source: Source) -> str:
    if source.program is not None:
        if wish is not None:
            raise ValueError(f"weights is not said where the source is a {source.name.partition(':')[0]} file")
        return "inside"
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
        wish = names_in(names_file(wish, folder))
    if not isinstance(wish, list) or not wish or not all(isinstance(name, str) and name.strip() for name in wish):
        raise ValueError("classes is a list of names, or file:NAMES.txt")
    return tuple(wish)


def names_file(wish: str, folder: Path) -> Path:
    """The file that `file:NAMES.txt` names.

    Raises:
        ValueError: it lies outside the folder.
    """
    path = (folder / wish.removeprefix("file:")).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError("the file of class names lies outside the catalogue's folder")
    return path


def names_in(path: Path) -> list[str]:
    """The class names in a file, one a line.

    Raises:
        ValueError, OSError: it cannot be read.
    """
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
