"""Places on the way from a computation to its commit where tests kill this process, as a power cut would."""

from __future__ import annotations

import os
import signal
from typing import Literal, get_args

FaultPoint = Literal[
    "before_send",
    "after_arrays_put",
    "after_pictures_put",
    "after_manifest_put",
    "before_finish",
    "after_finish",
    "in_checkpoint",
    "after_checkpoint",
    "before_requeue",
]
FAULT_POINTS: tuple[FaultPoint, ...] = get_args(FaultPoint)
VARIABLE = "CONVSCOPE_FAULT"


def fault_point(name: FaultPoint) -> None:
    """End this process by SIGKILL if the environment names this point."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
