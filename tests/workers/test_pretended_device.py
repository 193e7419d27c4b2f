"""The pretended device refuses what CUDA refuses, computes what the CPU computes, and keeps views views."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.workers.pretended_device import DEVICE, PretendedDevice


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    with PretendedDevice():
        yield


def there(*shape: int) -> Tensor:
    return torch.arange(1.0, 1.0 + int(np.prod(shape))).view(*shape).to(DEVICE)


REFUSED: dict[str, Callable[[], object]] = {
    "a sum with the CPU's": lambda: there(2) + torch.ones(2),
    "a product with the CPU's": lambda: there(2, 2) @ torch.ones(2, 2),
    "a number of the CPU in a stack": lambda: torch.stack([there(1)[0], torch.tensor(1.0)]),
    "a convolution with the CPU's weights": lambda: nn.Conv2d(3, 2, 1)(there(1, 3, 4, 4)),
    "an index of the device into the CPU's": lambda: torch.ones(3)[torch.tensor([0, 1], device=DEVICE)],
    "the CPU's numbers written into the device's": lambda: there(3).index_put_((torch.tensor([0]),), torch.ones(1)),
    "the CPU's generator": lambda: torch.randn(3, generator=torch.Generator(), device=DEVICE),
    "numpy": lambda: there(2).numpy(),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_refuses(what: str) -> None:
    with pytest.raises(RuntimeError, match=r"same device|generator|numpy"):
        REFUSED[what]()


def test_it_allows_what_cuda_allows() -> None:
    x = there(2, 3)
    assert (x + torch.tensor(1.0)).device == torch.where(x > 2, x, torch.tensor(0.0)).device == DEVICE
    assert x[torch.tensor([1])].tolist() == x[[1]].tolist() == [[4.0, 5.0, 6.0]]
    assert type(x.cpu()) is Tensor and x.cpu().numpy().tolist() == [[1, 2, 3], [4, 5, 6]]
    assert torch.zeros(3, 2).copy_(x.T).tolist() == x.T.tolist()
    assert float(x.sum()) == 21.0 and bool((x > 0).all())


def test_views_share_and_in_place_is_in_place() -> None:
    x = there(2, 3)
    row = x[1]
    assert row.mul_(2.0) is row
    x[:, 0] = 0.0
    assert x.tolist() == [[0, 2, 3], [0, 10, 12]] and row.tolist() == [0, 10, 12]
    assert x.unsqueeze_(0).shape == (1, 2, 3)
    z = torch.complex(there(2), there(2))
    assert torch.view_as_real(z.conj().resolve_conj())[:, 1].tolist() == [-1, -2]


def test_gradients_and_copies_of_modules_are_the_cpus() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 2))
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    moved = copy.deepcopy(copy.deepcopy(module).to(DEVICE)).to(memory_format=torch.channels_last)
    found, expected = (
        torch.autograd.grad(net(x.requires_grad_()).square().sum(), [x, *net.parameters()])
        for net, x in ((moved, images.to(DEVICE)), (module, images))
    )
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.device == DEVICE
        torch.testing.assert_close(mine.cpu(), theirs)


def test_the_cpu_and_the_tables_of_shapes_stay_as_they_are() -> None:
    assert type(torch.ones(2) + 1) is Tensor
    assert nn.Conv2d(3, 2, 1, device="meta")(torch.zeros(1, 3, 4, 4, device="meta")).device.type == "meta"
