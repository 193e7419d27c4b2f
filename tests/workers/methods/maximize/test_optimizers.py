"""Optimizers against torch's own, row by row; penalties and blur by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.workers.methods.maximize.recipes_at_hand import recipe
from workers.methods.maximize.optimizers import blur, climb, penalty


def slopes(step: int, row: int) -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(17 * step + row))


@pytest.mark.parametrize(("name", "theirs"), [("adam", torch.optim.Adam), ("nadam", torch.optim.NAdam)])
def test_rows_at_different_steps_move_as_torchs_optimizer_moves_each(name: str, theirs: type) -> None:
    how = recipe("pixel", optimizer=name, learning_rate=0.3)
    ours, moments, steps = [torch.zeros(3, 4) for _ in range(2)], torch.zeros(2, 2, 3, 4), [0, 0]
    wanted = [torch.zeros(3, 4, requires_grad=True) for _ in range(2)]
    peers = [theirs([each], lr=0.3, eps=1e-8) for each in wanted]
    for step in range(9):
        rows = [0, 1] if step >= 4 else [0]  # the second row joins later
        gradient = torch.stack([slopes(step, row) for row in rows])
        moved, new = climb(
            how, torch.stack([ours[row] for row in rows]), gradient,
            (moments[0][rows], moments[1][rows]), [steps[row] for row in rows],
        )  # fmt: skip
        for place, row in enumerate(rows):
            ours[row], moments[0][row], moments[1][row] = moved[place], new[0][place], new[1][place]
            steps[row] += 1
            wanted[row].grad = -gradient[place]
            peers[row].step()
    for mine, peer in zip(ours, wanted, strict=True):
        torch.testing.assert_close(mine, peer.detach(), rtol=1e-4, atol=1e-5)


def test_plain_and_normalized_ascent() -> None:
    up = torch.tensor([[3.0, -4.0]])
    still = (torch.zeros(1, 2), torch.zeros(1, 2))
    plain, _ = climb(recipe("yosinski", learning_rate=2.0), torch.ones(1, 2), up, still, [0])
    assert plain.tolist() == [[7.0, -7.0]]
    normalized, _ = climb(recipe("flashtorch"), torch.zeros(1, 2), up, still, [5])
    torch.testing.assert_close(normalized, up / 12.5**0.5, rtol=1e-5, atol=1e-6)


def test_what_a_picture_is_charged() -> None:
    picture = torch.zeros(3, 2, 2)
    picture[:, 0, 1] = 1.0
    assert penalty(recipe("lucid"), picture) is None
    varied = penalty(recipe("lucid", tv=2.0), picture)
    far = penalty(recipe("lucid", l2=4.0), picture)
    assert varied is not None
    assert far is not None
    assert float(varied) == 2.0 * (0.5 + 0.5)
    assert float(far) == 1.0


def test_blur_keeps_the_mean_of_a_constant_and_spreads_a_point_as_a_gaussian() -> None:
    torch.testing.assert_close(blur(torch.full((3, 6, 6), 0.3), 1.0), torch.full((3, 6, 6), 0.3))
    point = torch.zeros(3, 21, 21)
    point[:, 10, 10] = 1.0
    spread = blur(point, 1.5)[0]
    assert float(spread.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(spread[10, 12] / spread[10, 10]) == pytest.approx(2.718281828 ** (-0.5 * (2 / 1.5) ** 2), rel=1e-4)
