"""Where small tables go: to the device of what they meet.

Import rule: torch.
"""

from __future__ import annotations

from torch import Tensor


def on(like: Tensor, table: Tensor) -> Tensor:
    """The table on the device of `like`; a GPU takes it in its turn, and nobody waits for it."""
    return table.to(like.device, non_blocking=True)
