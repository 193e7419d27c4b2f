"""When a request that failed is sent again: rules and clock, without any sending. Imports the errors only.

Everything that the client sends may be sent twice: reading, deleting and uploading (the same bytes give the same id)
are repeatable as they are, and whatever makes a job carries an Idempotency-Key.
"""

from __future__ import annotations

import random
from time import monotonic

import httpx2

from convscope_client.errors import ProblemError, UnexpectedAnswerError, UnreachableError

AGAIN = frozenset({408, 429, 502, 503, 504})
"""Statuses after which the same request may well succeed."""
FINAL = frozenset({"deadline-exceeded"})
"""Problems with such a status that another try does not mend."""
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0


class Patience:
    """How long one call goes on trying.

    Args:
        patience_s: seconds from the first failure until it gives up; 0 never tries again.
        reached: whether this client has ever been answered. A service that was never there is not waited for: the
            address is more probably wrong than the service away.
    """

    def __init__(self, patience_s: float, reached: bool) -> None:
        self._patience_s = patience_s
        self._reached = reached
        self._failures = 0
        self._until = 0.0

    def pause_after(self, failure: httpx2.TransportError | httpx2.Response) -> float | None:
        """Seconds to wait before the next try; None where there shall be none."""
        if isinstance(failure, httpx2.Response):
            if failure.status_code not in AGAIN or problem_of(failure).name in FINAL:
                return None
        elif isinstance(failure, httpx2.ConnectError) and not self._reached:
            return None
        if self._failures == 0:
            self._until = monotonic() + self._patience_s
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._failures) * random.uniform(0.5, 1.0)
        if isinstance(failure, httpx2.Response):
            pause_s = max(pause_s, _retry_after_s(failure))
        self._failures += 1
        return pause_s if monotonic() + pause_s <= self._until else None


def _retry_after_s(answer: httpx2.Response) -> float:
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdecimal() else 0.0


def problem_of(answer: httpx2.Response) -> ProblemError:
    """The problem that an answer of 400 or more stands for; its body must have been read."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    if isinstance(body, dict):
        return ProblemError(body, answer.status_code)
    return ProblemError({"title": f"HTTP {answer.status_code}", "detail": answer.text[:500]}, answer.status_code)


def unreachable(url: str, error: httpx2.TransportError) -> UnreachableError:
    """What to raise when there is no answer."""
    if isinstance(error, httpx2.ConnectError):
        return UnreachableError(f"no service answers at {url}")
    return UnreachableError(f"the connection to {url} broke ({error or type(error).__name__})")


def json_object(answer: httpx2.Response) -> dict[str, object]:
    """The JSON object that an answer carries.

    Raises:
        UnexpectedAnswerError: it carries something else.
    """
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise UnexpectedAnswerError(
            f"the answer of {answer.request.url} is no JSON object; is this a Convscope service?"
        )
    return body
