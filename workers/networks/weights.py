"""Weights from files, packages and published addresses into a network, refusing what is not exactly weights of it.

Nothing here unpickles: `.pth` files are read by torch's weights-only reader, and safetensors by its own. A file is
measured before it is read, so that a huge one costs nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from workers.contract import MethodError

CONNECT_S = 10.0
"""Longest silence of a server that weights are fetched from, seconds."""

_SLACK_BYTES = 64 * 1024**2
"""What a checkpoint may hold beside the weights (step counters, a second copy's header, …)."""

_UNREADABLE = (
    UnpicklingError, zipfile.BadZipFile, SafetensorError, RuntimeError, ValueError, KeyError, TypeError,
    IndexError, AttributeError, EOFError, OSError, MemoryError, OverflowError, AssertionError, RecursionError,
)  # fmt: skip
"""What the readers raise on a file that is not what it says: anything but a bug of ours in these two calls."""

Tick = Callable[[], None]


def refuse(reason: str, advice: str = "") -> MethodError:
    """The error of weights that cannot be had."""
    return MethodError("weights-unavailable", f"{reason}.{' ' + advice if advice else ''}")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_sha256(module: nn.Module) -> str:
    """SHA-256 over the names, shapes and bytes of a network's parameters and buffers, in order."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def read_checkpoint(path: Path, expected_bytes: int, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or `.pth` file.

    Args:
        path: the file.
        expected_bytes: size of the network's weights; a file (or what it unpacks to) over twice that is refused unread.
        sha256: hexadecimal digest the file must have.

    Raises:
        MethodError: `weights-unavailable`, with the reason.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise refuse(f"{path.name} cannot be read: {error.strerror}") from error
    limit = 2 * expected_bytes + _SLACK_BYTES
    if size > limit:
        raise refuse(f"{path.name} has {size:,} bytes, the network's weights have {expected_bytes:,}")
    if sha256 is not None and (found := file_sha256(path)) != sha256.lower():
        raise refuse(f"{path.name} has SHA-256 {found}, not {sha256.lower()}")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        return _read_pth(path, limit)
    except _UNREADABLE as error:
        raise refuse(f"{path.name} is not a readable file of weights: {_why_unreadable(error)}") from error


def _why_unreadable(error: BaseException) -> str:
    """A reader's error in one plain line; torch's advice on pickles is not for whoever asks this service."""
    if isinstance(error, UnpicklingError):
        if "nsupported" in str(error):  # a global, class or operation that weights have no need of
            return (
                "it holds pickled objects, which are never loaded; "
                "save a plain state dict (model.state_dict()) or safetensors instead"
            )
        return "it is damaged, or no file that torch.save wrote"
    said = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip() or type(error).__name__
    return said.splitlines()[0][:200]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)


def _read_pth(path: Path, limit: int) -> dict[str, Tensor]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > limit:
            raise ValueError(f"it unpacks to {unpacked:,} bytes")
    found = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping) or not found:
        raise ValueError("it holds no state dict")
    tensors = {}
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise TypeError(f"entry {str(name)[:80]!r} is no tensor")
        tensors[name.removeprefix("module.")] = value
    return tensors


def match(
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    *,
    auxiliary: tuple[str, ...] = (),
    in_order: bool = False,
) -> dict[str, Tensor]:
    """The checkpoint's tensors under the network's names, every one with the network's shape and dtype.

    Args:
        state: the checkpoint.
        wanted: the network's own state dict; only shapes and dtypes are looked at.
        auxiliary: prefixes of entries to leave out.
        in_order: pair by position, where names differ but order does not.

    Raises:
        MethodError: `weights-unavailable`, naming the first entry that does not fit.
    """
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(auxiliary or ("\0",))}
    if in_order:
        if len(kept) != len(wanted):
            raise refuse(f"the checkpoint has {len(kept)} entries, the network {len(wanted)}")
        kept = dict(zip(wanted, kept.values(), strict=True))
    # Counters of seen batches are no weights; old checkpoints lack them.
    missing = [name for name in wanted if name not in kept and not name.endswith("num_batches_tracked")]
    surplus = [name for name in kept if name not in wanted]
    if missing or surplus:
        what = f"lacks {missing[0]}" if missing else f"has {surplus[0]}, which the network has not"
        raise refuse(f"the checkpoint {what} ({len(missing)} missing, {len(surplus)} surplus)")
    matched = {}
    for name, own in wanted.items():
        tensor = kept.get(name)
        if tensor is None:
            tensor = torch.zeros(own.shape, dtype=own.dtype)
        if tensor.shape != own.shape:
            raise refuse(f"{name} has shape {tuple(tensor.shape)}, the network's is {tuple(own.shape)}")
        if (
            tensor.is_floating_point() != own.dtype.is_floating_point
            or tensor.is_complex()
            or tensor.layout != torch.strided
        ):
            raise refuse(f"{name} has dtype {tensor.dtype}, the network's is {own.dtype}")
        matched[name] = tensor.to(own.dtype).contiguous()
    return matched


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


def weight_bytes(state: Mapping[str, Any]) -> int:
    """Bytes of a state dict."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())
