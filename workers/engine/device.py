"""Whether the device still answers."""

from __future__ import annotations

import torch


class DeviceLostError(Exception):
    """No call to the device comes back any more: only a new process can use it again."""


def see_that_it_answers() -> None:
    """After an error of unknown cause: an illegal access or a failed assertion on a GPU fails every later call.

    The jobs are not to blame, so the engine ends; its supervisor has another one forked, which does them again alone.

    Raises:
        DeviceLostError: the device does not answer.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            raise DeviceLostError(str(error)) from error
