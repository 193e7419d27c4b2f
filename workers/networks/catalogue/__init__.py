"""The catalogue: which networks there are, by id. Built-in ones and the operator's `catalogue.toml`.

    [networks.tea-leaves]                       # the id that requests use
    source = "torchvision:alexnet"              # or timm:NAME, zfnet, alexnet_2012, python:package.module:factory
    weights = "file:tea.ckpt"                   # or a published name, or random (with seed = N)
    sha256 = "…"                                # of the file; needed but for safetensors, checked wherever given
    title = "Tea leaves"
    classes = ["assam", "darjeeling", "keemun"] # or "file:names.txt", one a line; or num_classes = 3
    [networks.tea-leaves.preprocess]            # whatever differs from the architecture's own
    size = 224
    mean = [0.5, 0.5, 0.5]

The file is read again when it changes, or a module or list of names that it uses. An entry that makes no sense is
listed with the reason and hurts nothing else. Torch side; nothing of pydantic or the queue.

May import workers.networks.sources, workers.networks.weights and workers.contract.
"""

from __future__ import annotations

from workers.networks.catalogue.builtin import builtin_entries, find_entry
from workers.networks.catalogue.catalogue import Catalogue
from workers.networks.catalogue.entry import Entry, as_summary
from workers.networks.catalogue.reading import CATALOGUE_NAME, read_catalogue

__all__ = [
    "CATALOGUE_NAME",
    "Catalogue",
    "Entry",
    "as_summary",
    "builtin_entries",
    "find_entry",
    "read_catalogue",
]
