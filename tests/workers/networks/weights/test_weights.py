"""Weights: what is refused and why, and what is fetched, over real files and a real HTTP server."""

from __future__ import annotations

import hashlib
import pickle
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from workers.contract import MethodError
from workers.networks.weights import (
    fetch,
    fetching,
    file_sha256,
    fit,
    match,
    read_checkpoint,
    state_sha256,
    weight_bytes,
)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return dict(network().state_dict())


def refused(path: Path, state: dict[str, torch.Tensor], sha256: str | None = None) -> str:
    with pytest.raises(MethodError) as caught:
        fit(read_checkpoint(path, weight_bytes(state), sha256), state)
    assert caught.value.problem == "weights-unavailable"
    return caught.value.detail


def test_both_kinds_of_file_give_the_same_weights(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pth")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "wrapped.pth")
    for name in ("w.safetensors", "w.pth", "wrapped.pth"):
        path = tmp_path / name
        found = fit(read_checkpoint(path, weight_bytes(state), file_sha256(path)), state).tensors
        assert list(found) == list(state)
        assert all(torch.equal(found[key], state[key]) for key in state)


def test_half_precision_is_widened_and_counters_may_be_missing(state: dict[str, torch.Tensor]) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items() if "num_batches" not in k}
    found = match(half, state)
    assert found["0.weight"].dtype == torch.float32
    torch.testing.assert_close(found["0.weight"], state["0.weight"], atol=1e-3, rtol=0)


def test_by_order_where_names_differ(state: dict[str, torch.Tensor]) -> None:
    renamed = {f"layer{k}": tensor for k, tensor in enumerate(state.values())}
    assert torch.equal(match(renamed, state, in_order=True)["3.bias"], state["3.bias"])
    with pytest.raises(MethodError, match="has 6 entries, the network 9"):
        match(dict(list(renamed.items())[:6]), state, in_order=True)


class Payload:
    """Unpickled, it would leave a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_payload_is_not_run(tmp_path: Path, state: dict[str, torch.Tensor], zipped: bool) -> None:
    mark = tmp_path / "mark"
    torch.save({**state, "0.bias": Payload(mark)}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    said = refused(tmp_path / "w.pth", state)
    assert "0.bias is no tensor but" in said
    assert "which is never loaded" in said
    assert said.isprintable() and "two options" not in said
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload(mark)))
    assert "not a readable file of weights" in refused(tmp_path / "plain.pth", state)
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_truncated_and_flipped_files(tmp_path: Path, state: dict[str, torch.Tensor], kind: str) -> None:
    path = tmp_path / f"w.{kind}"
    save_file(state, path) if kind == "safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    digest = file_sha256(path)
    for length in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "not a readable file of weights" in refused(path, state)
    path.write_bytes(whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:])
    assert f"not {digest}" in refused(path, state, digest)


def test_every_truncated_header_is_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    assert "not a readable" in refused(path, state)
    path.write_bytes((20).to_bytes(8, "little") + b'{"a":{"dtype":"F32"}')
    assert "not a readable" in refused(path, state)


def test_wrong_shapes_names_and_kinds(state: dict[str, torch.Tensor]) -> None:
    cases = {
        "0.weight has shape (4, 3, 5, 5), the network's is (4, 3, 3, 3)": {"0.weight": torch.zeros(4, 3, 5, 5)},
        "0.bias has dtype torch.int64": {"0.bias": torch.zeros(4, dtype=torch.int64)},
        "0.bias has dtype torch.complex64": {"0.bias": torch.zeros(4, dtype=torch.complex64)},
        "has 9.weight, which the network has not": {"9.weight": torch.zeros(1)},
    }
    for reason, change in cases.items():
        with pytest.raises(MethodError) as caught:
            match(state | change, state)
        assert reason in caught.value.detail
    with pytest.raises(MethodError, match=r"lacks 3.weight \(1 missing, 0 surplus\)"):
        match({k: v for k, v in state.items() if k != "3.weight"}, state)


def test_what_is_no_state_dict(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    for value in ([1, 2], {}, {"a": 1}, torch.zeros(3), {"state_dict": {"x": "y"}}):
        torch.save(value, tmp_path / "w.pth")
        assert "not a readable file of weights" in refused(tmp_path / "w.pth", state)


def test_huge_files_are_refused_unread(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "w.safetensors"
    with path.open("wb") as file:
        file.truncate(2**40)  # a terabyte of nothing, which takes no room
    assert "not a readable file of weights: it is damaged" in refused(path, state)
    with path.open("r+b") as file:
        file.write(b"\x80\x02")  # as torch's old format begins, which would be read whole
    assert "has 1,099,511,627,776 bytes in torch's old format" in refused(path, state)
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("w/data.pkl", "w") as inside:
        for _ in range(80):
            inside.write(bytes(2**20))
    assert bomb.stat().st_size < 2**20
    assert "compressed, which torch.save never does; it unpacks to 83,886,080 bytes" in refused(bomb, state)


def test_a_missing_file(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    assert "cannot be read: No such file" in refused(tmp_path / "none.pth", state)


def test_digests_of_tensors_tell_values_names_and_shapes() -> None:
    one, two = network(), network()
    assert state_sha256(one) == state_sha256(two)
    with torch.no_grad():
        two[0].weight[0, 0, 0, 0] += 1e-6
    assert state_sha256(one) != state_sha256(two)
    assert state_sha256(nn.Linear(2, 3, bias=False)) != state_sha256(nn.Linear(3, 2, bias=False))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """An HTTP server over a folder, and nothing in torch's own download folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    fetching._failures.clear()
    folder = tmp_path / "served"
    folder.mkdir()
    served = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}", folder
    served.shutdown()
    thread.join()
    served.server_close()


def test_fetching_once_with_the_digest_in_the_name(server: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = server
    content = b"weights" * 500_000
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(content)
    ticks: list[int] = []
    path = fetch(f"{url}/{name}", tmp_path / "kept", lambda: ticks.append(1))
    assert path.read_bytes() == content
    assert len(ticks) >= 3
    (folder / name).unlink()
    assert fetch(f"{url}/{name}", tmp_path / "kept") == path
    assert [file.name for file in (tmp_path / "kept").iterdir()] == [name]


def test_what_cannot_be_fetched_says_what_to_do(server: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = server
    (folder / "net-0123abcd.pth").write_bytes(b"something else")
    with pytest.raises(MethodError, match="its name promises 0123abcd") as caught:
        fetch(f"{url}/net-0123abcd.pth", tmp_path / "kept")
    assert caught.value.problem == "weights-unavailable"
    assert "convscope models pull" in caught.value.detail
    assert list((tmp_path / "kept").iterdir()) == []
    with pytest.raises(MethodError, match="404"):
        fetch(f"{url}/none.pth", tmp_path / "kept")
    # Asked again at once, the answer comes without a wait for the server.
    (folder / "none.pth").write_bytes(b"here now")
    with pytest.raises(MethodError, match="a moment ago"):
        fetch(f"{url}/none.pth", tmp_path / "kept")


class BrokenOff(SimpleHTTPRequestHandler):
    """Promises more than it sends."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(bytes(600))


def test_a_download_that_breaks_off_is_no_file(tmp_path: Path) -> None:
    """A name without a digest promises nothing; the length does."""
    fetching._failures.clear()
    served = ThreadingHTTPServer(("127.0.0.1", 0), BrokenOff)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    try:
        with pytest.raises(MethodError, match="broke off after 600 of 1,000 bytes"):
            fetch(f"http://127.0.0.1:{served.server_port}/timm/net/resolve/model.safetensors", tmp_path / "kept")
    finally:
        served.shutdown()
        served.server_close()
    assert list((tmp_path / "kept").iterdir()) == []
