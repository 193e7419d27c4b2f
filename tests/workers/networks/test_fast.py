"""The copy for precision `fast`: as good an answer, the same names, the original untouched."""

from __future__ import annotations

import pytest
import torch
from skimage import data

from tests.workers.fakes import traces
from workers.networks import LoadedNetwork, load
from workers.networks.fast import make_fast
from workers.networks.weights import state_sha256
from workers.passes.calls import capture


@pytest.fixture(scope="module")
def lite0() -> LoadedNetwork:
    return load("efficientnet_lite0")


def test_logits_agree(lite0: LoadedNetwork) -> None:
    before, digest = traces(lite0.module), state_sha256(lite0.module)
    inputs, _ = lite0.prepare([torch.from_numpy(picture.copy()) for picture in (data.coffee(), data.chelsea())])
    with torch.no_grad():
        exact, fast = lite0.module(inputs), lite0.fast_module()(inputs)
    assert fast.dtype == torch.float32
    assert torch.corrcoef(torch.stack([exact.flatten(), fast.flatten()]))[0, 1] > 0.999
    assert exact.argmax(1).tolist()[0] == fast.argmax(1).tolist()[0]
    assert traces(lite0.module) == before
    assert state_sha256(lite0.module) == digest
    assert lite0.fast_module() is lite0.fast_module()


@pytest.mark.parametrize("model_id", ["googlenet-random", "resnet18-random", "convnext_tiny-random"])
def test_every_call_has_its_name_and_a_gradient_comes_back(model_id: str) -> None:
    network = load(model_id)
    fast = network.fast_module()
    names = [layer.name for layer in network.table.layers if layer.spatial][:40:5]
    inputs = torch.rand(2, 3, 64, 64, requires_grad=True)
    with torch.no_grad():
        exact, _ = capture(network.module, inputs, names)
    seen, _ = capture(fast, inputs, names)
    for name in names:
        assert seen[name].shape == exact[name].shape
        torch.testing.assert_close(
            seen[name].detach().float(), exact[name], rtol=0.1, atol=0.05 * float(exact[name].abs().max())
        )
    (gradient,) = torch.autograd.grad(seen[names[-1]].float().sum(), inputs)
    assert gradient.dtype == torch.float32
    assert gradient.isfinite().all()
    assert not any(parameter.requires_grad for parameter in fast.parameters())


def test_without_bfloat16_it_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.networks.fast.has_bfloat16", lambda device: False)
    network = load("squeezenet1_1-random")
    fast = make_fast(network.module, torch.device("cpu"))
    inputs = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(fast(inputs), network.module(inputs), rtol=1e-4, atol=1e-5)
    assert {parameter.dtype for parameter in fast.parameters()} == {torch.float32}


def test_weights_are_cast_once_and_normalisation_stays_float32(lite0: LoadedNetwork) -> None:
    from workers.networks.fast import has_bfloat16

    kinds = {name: tensor.dtype for name, tensor in lite0.fast_module().state_dict().items()}
    assert kinds["conv_stem.weight"] == (torch.bfloat16 if has_bfloat16(torch.device("cpu")) else torch.float32)
    assert kinds["bn1.running_var"] == torch.float32
