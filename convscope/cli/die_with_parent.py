"""Turns itself into another program that dies with the launcher: PR_SET_PDEATHSIG, then exec.

Run by its path with `python -I -S`: the standard library only, nothing of ours. A program of its own and not a
preexec_fn, because the launcher has threads, and Python code between fork and exec may then wait for ever for a lock
that another thread held.

Arguments: the launcher's process id, the signal's number, the program, its arguments.
"""

import os
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Ask the kernel for the signal at the launcher's death, and become the program."""
    launcher, signal_number, *command = arguments
    if sys.platform == "linux":
        import ctypes

        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    # The launcher may have died before prctl; then nobody would send the signal.
    if os.getppid() != int(launcher):
        sys.exit("the launcher is gone")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
