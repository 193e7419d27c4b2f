"""The networks that need no catalogue file."""

from __future__ import annotations

import functools
from difflib import get_close_matches

import timm

from workers.contract import MethodError
from workers.networks.catalogue.entry import Entry
from workers.networks.sources import LITE, SourceError, find_source, our_architectures, torchvision_names


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
