"""Model cards as JSON (`convscope.protocol.cards.ModelCard`), made without weights and kept on disk."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from workers.contract import Layer
from workers.networks import validity
from workers.networks.build import outputs_of, parameter_count, size_refusal, table_of
from workers.networks.catalogue import Entry
from workers.networks.trials import Behaviour

_SIDES = (16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)
"""Sides tried, smallest first, for the smallest input that an architecture accepts, pixels."""


def make_card(entry: Entry, digest: str, behaviour: Behaviour | None = None) -> dict[str, Any]:
    """The entry's card; runs the network on the meta device a few times, about a second.

    Args:
        entry: of the catalogue.
        digest: of the entry.
        behaviour: what the network can bear, where that was tried.

    Raises:
        MethodError: `weights-unavailable` where the architecture cannot be built, `network-does-not-run` where it is
            built and does not run.
    """
    table, outputs = table_of(entry), outputs_of(entry)
    usable = validity.methods_at(table, outputs)
    return {
        "id": entry.id,
        "title": entry.title,
        "source": entry.source,
        "weights": entry.weights if entry.weights != "random" else f"random (seed {entry.seed})",
        "entry_digest": digest,
        "parameters": parameter_count(entry),
        "preprocess": entry.transform.as_json() | _sizes(entry),
        "classes": list(entry.class_names),
        "outputs": {**outputs.facts(), "problem": outputs.refusal},
        "layers": [_layer_json(layer, usable[layer.name]) for layer in table.layers],
        "default_layers": {name: list(layers) for name, layers in validity.default_layers(table, outputs).items()},
        "stages": [layer.name for layer in validity.stages(table)],
        "max_pools": validity.max_pools(table),
        "rectifications": validity.rectifications(table),
        "behaviour": None if behaviour is None else behaviour.as_json(),
    }


def _sizes(entry: Entry) -> dict[str, Any]:
    """Whether other input sizes are possible, and the smallest."""
    height, width = entry.transform.size
    resizable = size_refusal(entry, (height + 32, width + 32)) is None
    smallest = min(height, width)
    if resizable:
        sides = (side for side in _SIDES if side < smallest and size_refusal(entry, (side, side)) is None)
        smallest = next(sides, smallest)
    return {"resizable": resizable, "minimum_size": smallest}


def _layer_json(layer: Layer, methods: dict[str, str | None]) -> dict[str, Any]:
    box = layer.box
    return {
        "name": layer.name,
        "aliases": list(layer.aliases),
        "kind": layer.kind,
        "order": layer.order,
        "call": layer.call,
        "container": layer.container,
        "shape": list(layer.shape),
        "kernel_shape": None if layer.kernel_shape is None else list(layer.kernel_shape),
        "activation": layer.activation,
        "receptive_field": None
        if box is None
        else {"size": list(box.size), "jump": list(box.jump), "start": list(box.start)},
        "inputs": list(layer.inputs),
        "methods": methods,
    }


class CardFolder:
    """Cards kept as files, one for each digest of an entry and of the code that made it.

    Args:
        folder: None keeps nothing.
        code: digest of the code and libraries; another one leaves what is there unread.
    """

    def __init__(self, folder: Path | None, code: str) -> None:
        self._folder = folder
        self._code = code

    def get(self, digest: str) -> dict[str, Any] | None:
        """The kept card, or None; one that cannot be read is as good as none."""
        if self._folder is None:
            return None
        try:
            card = json.loads(self._path(self._folder, digest).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return card if isinstance(card, dict) and card.get("entry_digest") == digest else None

    def put(self, digest: str, card: dict[str, Any]) -> None:
        """Keep a card; a folder that cannot be written costs time at the next start, nothing else."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=self._folder, suffix=".part")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(card, file)
            Path(partial).replace(self._path(self._folder, digest))
        except OSError:
            return

    def _path(self, folder: Path, digest: str) -> Path:
        return folder / f"{digest[:32]}-{self._code[:16]}.json"
