"""What went wrong in the store, as a caller is told."""

from __future__ import annotations

import errno
import os
import re

from convscope.protocol.problems import ProblemError

RETRY_AFTER_S = 5.0
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The system's numbers of a disk, a quota or a limit that is used up."""


def error_number(error: BaseException) -> int:
    """The system's number of what went wrong; 0 where it is not told."""
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else getattr(error, "errno", None) or 0


def unavailable(what: str, error: BaseException) -> ProblemError:
    """`store-unavailable`, with the reason.

    The message of obstore tells paths and addresses, which are for the log (as the cause), not for callers.
    """
    code = error_number(error)
    if isinstance(error, TimeoutError):
        reason = "no answer in time"
    else:
        reason = os.strerror(code) if code else type(error).__name__
    return ProblemError(
        "store-unavailable", f"The artifact store failed at {what}: {reason}.", retry_after_s=RETRY_AFTER_S
    )
