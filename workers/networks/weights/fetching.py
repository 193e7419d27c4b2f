"""Published weights: where they lie; fetched from their address, whole and with the digest that the name promises."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import torch

from workers.networks.weights.refusal import refuse

CONNECT_S = 10.0
"""Longest silence of a server that weights are fetched from, seconds."""

Tick = Callable[[], None]


def published_path(url: str, folder: Path) -> Path:
    """Where a published file lies, or will: in torch's own download folder if it is there already, else in ours."""
    name = url.rsplit("/", 1)[-1]
    if name in ("model.safetensors", "pytorch_model.bin"):
        # Hub addresses name every file alike; the repository's name tells them apart.
        name = f"{url.split('/')[-4]}-{name}"
    shared = Path(torch.hub.get_dir()) / "checkpoints" / name
    return shared if shared.is_file() else folder / name


def fetch(url: str, folder: Path, tick: Tick | None = None) -> Path:
    """The published file, fetched if it is not there yet; a digest in its name (`resnet50-11ad3fa6.pth`) is checked.

    Args:
        url: https address.
        folder: where downloads are kept.
        tick: called for each chunk, so that somebody may see that work goes on.

    Raises:
        MethodError: `weights-unavailable`, with what to do.
    """
    path = published_path(url, folder)
    advice = (
        f"Run `convscope models pull` where {url} can be fetched, or put that file into the folder of weights, "
        "or use the -random network"
    )
    if path.is_file():
        return path
    if url in _failures and time.monotonic() < _failures[url]:
        raise refuse(f"{url} could not be fetched a moment ago", advice)
    folder.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.")
    try:
        digest = hashlib.sha256()
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=CONNECT_S) as answer:
            promised = answer.headers.get("Content-Length")
            while chunk := answer.read(1 << 20):
                file.write(chunk)
                digest.update(chunk)
                if tick is not None:
                    tick()
            # A connection that breaks off looks like an end, and not every name has a digest.
            if promised is not None and file.tell() != int(promised):
                raise ValueError(f"it broke off after {file.tell():,} of {int(promised):,} bytes")
        _check_name(path.name, digest.hexdigest())
        Path(partial).replace(path)
    except (OSError, ValueError) as error:
        _failures[url] = time.monotonic() + RETRY_S
        raise refuse(f"{url} cannot be fetched: {error}", advice) from error
    finally:
        Path(partial).unlink(missing_ok=True)
    return path


RETRY_S = 30.0
"""An address that failed is not asked again for this long, so that waiting jobs do not each wait for its silence."""

_failures: dict[str, float] = {}


def _check_name(name: str, digest: str) -> None:
    stem = name.rsplit(".", 1)[0]
    promised = stem.rsplit("-", 1)[-1] if "-" in stem else ""
    if (
        len(promised) >= 8
        and all(letter in "0123456789abcdef" for letter in promised)
        and not digest.startswith(promised)
    ):
        raise ValueError(f"its SHA-256 is {digest}, its name promises {promised}…")
