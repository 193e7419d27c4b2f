"""Networks of the catalogue: architectures, weights, preprocessing, layer tables, cards.

May import torch, timm, torchvision, convscope.settings, workers.contract, workers.passes and workers.compiled.
"""

from __future__ import annotations

from workers.networks.apart import Builder
from workers.networks.build import LoadedNetwork, load
from workers.networks.warm import Networks, code_digest, libraries

__all__ = ["Builder", "LoadedNetwork", "Networks", "code_digest", "libraries", "load"]
