"""Stored results as a reader sees them: manifests, arrays by byte range, JSON.

Nothing here holds more of a result in memory than the part that is asked for.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from convscope.protocol.pictures import ArrayInfo, Picture, Slice, View
from convscope.protocol.problems import ProblemError
from convscope.protocol.results import SAFETENSORS_DTYPES, Manifest, StoredArray
from convscope.recent import Recent
from convscope.store.artifacts import Artifacts

CHUNK_BYTES = 256 * 1024
INLINE_ARRAYS = 8
"""All inline data of one answer together is at most this many times what one array may have."""
_MANIFESTS_KEPT = 256
_JOIN_GAP_BYTES = 64 * 1024
_DTYPE_NAMES = {name: tag for tag, name in SAFETENSORS_DTYPES.items()}


class Results:
    """Reads manifests and arrays from the artifact store."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._manifests: Recent[str, Manifest] = Recent(_MANIFESTS_KEPT)

    async def manifest(self, key: str) -> Manifest:
        """The manifest of a result, by its artifact key.

        Raises:
            ProblemError: `gone`, `store-unavailable`.
        """
        found = self._manifests.get(key)
        if found is None:
            found = Manifest.model_validate_json(await self._artifacts.get(key))
            self._manifests.put(key, found)
        return found

    async def array(self, manifest: Manifest, name: str) -> NDArray[Any]:
        """One whole array of a result."""
        stored = stored_array(manifest, name)
        data = await self._artifacts.get_range(_arrays_key(manifest), stored.offset, stored.nbytes)
        return np.frombuffer(data, dtype=_little(stored.dtype)).reshape(stored.shape)

    async def item(self, manifest: Manifest, name: str, number: int) -> NDArray[Any]:
        """The part of an array at one place of its first axis, read alone."""
        stored = stored_array(manifest, name)
        start, end = _byte_range(stored, (number,))
        data = await self._artifacts.get_range(_arrays_key(manifest), stored.offset + start, end - start)
        return np.frombuffer(data, dtype=_little(stored.dtype)).reshape(stored.shape[1:])

    async def drawn(
        self, manifest: Manifest, pictures: Sequence[Picture], views: Sequence[View]
    ) -> dict[str, NDArray[Any]]:
        """The arrays of some pictures, read where these look in their views; the rest is zero and takes no memory."""
        wanted: dict[str, list[Slice]] = {}
        for picture, its_view in zip(pictures, views, strict=True):
            parts = [part for tile in picture.tiles for part in tile.shown(its_view)]
            parts += [line.rows for line in picture.lines]
            for part in parts if picture.matrix is None else [*parts, picture.matrix]:
                wanted.setdefault(part.array, []).append(part)
        arrays = {}
        for name, slices in wanted.items():
            stored = stored_array(manifest, name)
            flat = np.zeros(math.prod(stored.shape), dtype=_little(stored.dtype))
            view = flat.view(np.uint8)
            for start, end in _joined(_byte_range(stored, part.index) for part in slices):
                data = await self._artifacts.get_range(_arrays_key(manifest), stored.offset + start, end - start)
                view[start:end] = np.frombuffer(data, dtype=np.uint8)
            arrays[name] = flat.reshape(stored.shape)
        return arrays

    async def upload(self, manifest: Manifest, image: int) -> NDArray[np.uint8]:
        """The pixels of one of the request's images, H×W×3."""
        data = await self._artifacts.get(manifest.images[image].pixels)
        pixels: NDArray[np.uint8] = await asyncio.to_thread(np.load, io.BytesIO(data), allow_pickle=False)
        return pixels

    async def inline(self, manifest: Manifest, most_numbers: int, wanted: Collection[str]) -> dict[str, NDArray[Any]]:
        """The `wanted` arrays that are small enough for a JSON answer, the smallest first while there is room."""
        room = INLINE_ARRAYS * most_numbers
        names = []
        # Equally small ones by name: the order of entries in a file says nothing.
        for name, stored in sorted(manifest.arrays.items(), key=lambda item: (math.prod(item[1].shape), item[0])):
            numbers = math.prod(stored.shape)
            if name in wanted and numbers <= most_numbers and numbers <= room:
                room -= numbers
                names.append(name)
        arrays = await asyncio.gather(*(self.array(manifest, name) for name in names))
        return dict(zip(names, arrays, strict=True))

    async def array_json(self, manifest: Manifest, name: str) -> AsyncIterator[bytes]:
        """One array as JSON text, piece by piece: shape, dtype and nested lists with null for what is not finite."""
        stored = stored_array(manifest, name)
        opening = json.dumps({"name": name, "shape": list(stored.shape), "dtype": stored.dtype}, ensure_ascii=False)
        yield opening[:-1].encode() + b', "data": '
        async for piece in self._json_rows(_arrays_key(manifest), stored):
            yield piece
        yield b"}"

    async def _json_rows(self, key: str, stored: StoredArray) -> AsyncIterator[bytes]:
        shape = stored.shape
        if not shape or 0 in shape:
            whole = np.frombuffer(await self._artifacts.get_range(key, stored.offset, stored.nbytes), stored.dtype)
            yield json_bytes(whole.reshape(shape).tolist())
            return
        rows = math.prod(shape[:-1])
        row_bytes = stored.nbytes // rows
        # Brackets that open before row r: those of every axis whose block starts there.
        blocks = [math.prod(shape[axis:-1]) for axis in range(len(shape) - 1)]
        step = max(1, CHUNK_BYTES // row_bytes)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            data = await self._artifacts.get_range(key, stored.offset + first * row_bytes, count * row_bytes)
            block = np.frombuffer(data, _little(stored.dtype)).reshape(count, shape[-1])
            yield await asyncio.to_thread(_rows_text, block, first, blocks)


def _rows_text(block: NDArray[Any], first: int, blocks: Sequence[int]) -> bytes:
    pieces = []
    for row, values in enumerate(block, start=first):
        if row:
            pieces.append(b",")
        pieces.append(b"[" * sum(row % size == 0 for size in blocks))
        pieces.append(json_bytes(values))
        pieces.append(b"]" * sum((row + 1) % size == 0 for size in blocks))
    return b"".join(pieces)


def stored_array(manifest: Manifest, name: str) -> StoredArray:
    """Where an array lies.

    Raises:
        ProblemError: `not-found`, with the names that there are.
    """
    found = manifest.arrays.get(name)
    if found is None:
        raise ProblemError(
            "not-found", f"The result has no array {name[:200]!r}.", possible=sorted(manifest.arrays)[:256]
        )
    return found


def array_infos(manifest: Manifest) -> dict[str, ArrayInfo]:
    """Shape and dtype of every array, as operations want them."""
    return {name: ArrayInfo(stored.shape, stored.dtype) for name, stored in manifest.arrays.items()}


def npy_header(stored: StoredArray) -> bytes:
    """What stands before an array's bytes in a .npy file."""
    header = io.BytesIO()
    description = {"descr": _little(stored.dtype).str, "fortran_order": False, "shape": stored.shape}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()


def safetensors_header(arrays: Mapping[str, StoredArray], metadata: Mapping[str, str]) -> bytes:
    """What stands before the bytes of these arrays, one after the other, in a safetensors file."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    begin = 0
    for name, stored in arrays.items():
        entries[name] = {
            "dtype": _DTYPE_NAMES[stored.dtype],
            "shape": list(stored.shape),
            "data_offsets": [begin, begin + stored.nbytes],
        }
        begin += stored.nbytes
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format aligns its data to 8 bytes
    return len(header).to_bytes(8, "little") + header


def json_bytes(value: Any) -> bytes:
    """Compact JSON in UTF-8; arrays as nested lists, what is not finite as null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _arrays_key(manifest: Manifest) -> str:
    if manifest.arrays_key is None:
        raise ProblemError("gone", "The result has no stored arrays.")
    return manifest.arrays_key


def _little(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


def _byte_range(stored: StoredArray, index: tuple[int, ...]) -> tuple[int, int]:
    """First and last byte of `array[index]`, counted from the array's first."""
    if len(index) > len(stored.shape) or any(not 0 <= i < n for i, n in zip(index, stored.shape, strict=False)):
        raise ValueError(f"index {index} lies outside an array of shape {stored.shape}")
    block = np.dtype(stored.dtype).itemsize * math.prod(stored.shape)
    start = 0
    for i, n in zip(index, stored.shape, strict=False):
        block //= n
        start += i * block
    return start, start + block


def _joined(ranges: Any) -> list[tuple[int, int]]:
    """Ranges in order, with those that nearly touch made one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(set(ranges)):
        if joined and start <= joined[-1][1] + _JOIN_GAP_BYTES:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined
