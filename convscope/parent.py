"""A part that ends with whoever started it, where its environment asks for that. Standard library only."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

ASKED = "CONVSCOPE_DIE_WITH_PARENT"
PR_SET_PDEATHSIG = 1


def die_with_parent_if_asked() -> bool:
    """Have the kernel send SIGTERM when the parent dies, where ASKED is 1; false where it has died already."""
    if os.environ.get(ASKED) != "1":
        return True
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    return parent == os.getppid() and parent != 1
