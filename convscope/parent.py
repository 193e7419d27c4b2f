"""Processes that end with whoever started them: PR_SET_PDEATHSIG, asked for in three ways.

Standard library only, and nothing of ours: the launcher runs this file by its path with `python -I -S`, as a program
that turns itself into another one. A program of its own and not a preexec_fn, because the launcher has threads, and
Python code between fork and exec may then wait for ever for a lock that another thread held. Its arguments: the
launcher's process id, the signal's number, the program, its arguments.
"""

from __future__ import annotations

import os
import signal
import sys

ASKED = "CONVSCOPE_DIE_WITH_PARENT"
_PR_SET_PDEATHSIG = 1


def die_with(parent: int, signal_number: int) -> bool:
    """Have the kernel send this process the signal when its parent ends; false where that has ended already.

    Raises:
        OSError: the kernel refuses.
    """
    if sys.platform == "linux":
        import ctypes

        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    # The parent may have died before prctl; then nobody would send the signal.
    return os.getppid() == parent


def die_with_parent_if_asked() -> bool:
    """Have the kernel send SIGTERM when the parent dies, where ASKED is 1; false where it has died already."""
    if os.environ.get(ASKED) != "1":
        return True
    parent = os.getppid()
    return die_with(parent, signal.SIGTERM) and parent != 1


def main(arguments: list[str]) -> None:
    """Ask the kernel for the signal at the launcher's death, and become the program."""
    launcher, signal_number, *command = arguments
    if not die_with(int(launcher), int(signal_number)):
        sys.exit("the launcher is gone")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
