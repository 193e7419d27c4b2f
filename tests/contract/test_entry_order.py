"""Nothing of ours depends on the order in which a safetensors file has its entries.

Its readers give three orders of one file: by name, as they lie in the file, and one that differs from process to
process (findings/safetensors-order.sh).
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from convscope.protocol.results import Manifest, Provenance, read_safetensors_header
from convscope.store.artifacts import Artifacts
from service.results.arrays import INLINE_ARRAYS, Results
from tests.workers.methods.ascents import GRANT, channel, request, started, step, tiny
from workers.engine import checkpoints
from workers.methods.maximize import METHOD
from workers.networks.weights import fit, read_checkpoint, weight_bytes


def reordered(data: bytes, order: Sequence[str]) -> bytes:
    """A file of the same entries whose header and bytes come in another order."""
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    parts, changed, end = [], {key: value for key, value in header.items() if key == "__metadata__"}, 0
    for name in order:
        begin, stop = header[name]["data_offsets"]
        parts.append(data[8 + length + begin : 8 + length + stop])
        changed[name] = {**header[name], "data_offsets": [end, end + stop - begin]}
        end += stop - begin
    text = json.dumps(changed).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def orders(names: Mapping[str, Any]) -> list[list[str]]:
    """By name, backwards, and shuffled."""
    ordered = sorted(names)
    return [ordered, ordered[::-1], random.Random(1).sample(ordered, len(ordered))]


def test_a_reordered_file_is_the_same_file_in_another_order() -> None:
    data = save_safetensors({"a": torch.arange(3.0), "b": torch.arange(2), "c": torch.zeros(0)})
    backwards = reordered(data, ["c", "b", "a"])
    assert list(read_safetensors_header(backwards)) == ["c", "b", "a"] and backwards != data
    found = load_safetensors(backwards)
    assert found["a"].tolist() == [0, 1, 2] and found["b"].tolist() == [0, 1] and found["c"].numel() == 0


def test_weights_find_their_layers(tmp_path: Path) -> None:
    wanted = dict(tiny().module.state_dict())
    data = save_safetensors(wanted)
    for number, order in enumerate(orders(wanted)):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(reordered(data, order))
        found = fit(read_checkpoint(path, weight_bytes(wanted)), wanted).tensors
        assert list(found) == list(wanted)
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("preset", ["lucid", "maco"])
def test_a_resumed_ascent_goes_on_with_the_same_bits(preset: str) -> None:
    """Of many pictures, which are pushed apart: rows' own entries, and entries of all rows."""
    extra: dict[str, Any] = {"crops": 2, "size": [40, 40]} if preset == "maco" else {"size": [32, 32]}
    asked = request(preset, objective=[channel(1, "2")] * 2 + [channel(4, "2")], steps=3, diversity=5.0, **extra)
    network = tiny()
    row, states = started(network, asked)
    for _ in range(1):
        assert not any(step(network, states))
    data = checkpoints.pack(METHOD.save(states), digest="x", step=1, tile=1)
    ends = []
    for order in orders(checkpoints.unpack(data, digest="x").tensors):
        restored = checkpoints.unpack(reordered(data, order), digest="x")
        tensors = {name: restored.tensors[name] for name in order}
        resumed = METHOD.load(network, row, tensors, GRANT)
        while not all(METHOD.done(state) for state in resumed):
            assert not any(step(network, [state for state in resumed if not METHOD.done(state)]))
        ends.append(METHOD.save(resumed))
    for end in ends[1:]:
        assert set(end) == set(ends[0])
        assert all(torch.equal(end[name].nan_to_num(), ends[0][name].nan_to_num()) for name in end)


async def test_a_result_reads_the_same(tmp_path: Path) -> None:
    """Arrays of one size, more of them than have room in a JSON answer."""
    artifacts = Artifacts.open(str(tmp_path))
    arrays = {f"maps/{name}": torch.full((5, 4), float(name)) for name in range(3 * INLINE_ARRAYS)}
    data = save_safetensors(arrays)
    seen: list[dict[str, NDArray[Any]]] = []
    for order in orders(arrays):
        file = reordered(data, order)
        manifest = Manifest(
            operation="feature-maps",
            request={},
            facts={},
            arrays=read_safetensors_header(file),
            arrays_key=await artifacts.put("results", file),
            provenance=Provenance(model="m", code="c", torch="t", device="cpu", precision="exact"),
        )
        results = Results(artifacts)
        for name, tensor in arrays.items():
            np.testing.assert_array_equal(await results.array(manifest, name), tensor.numpy())
        seen.append(await results.inline(manifest, 20, arrays))
    assert len(seen[0]) == INLINE_ARRAYS
    for found in seen[1:]:
        assert list(found) == list(seen[0])
        assert all(np.array_equal(found[name], seen[0][name]) for name in found)
