"""Weights from files, packages and published addresses into a network, refusing what is not exactly weights of it.

Nothing here runs what a file says: tensors are read, everything else beside them becomes an inert stand-in. May import
torch, safetensors and workers.contract.
"""

from __future__ import annotations

from workers.networks.weights.digests import file_sha256, files_sha256, state_sha256, weight_bytes
from workers.networks.weights.fetching import Tick, fetch, published_path
from workers.networks.weights.files import Checkpoint, read_checkpoint
from workers.networks.weights.fitting import Fitted, fit, match
from workers.networks.weights.refusal import refuse

__all__ = [
    "Checkpoint",
    "Fitted",
    "Tick",
    "fetch",
    "file_sha256",
    "files_sha256",
    "fit",
    "match",
    "published_path",
    "read_checkpoint",
    "refuse",
    "state_sha256",
    "weight_bytes",
]
