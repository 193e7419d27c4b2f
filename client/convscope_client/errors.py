"""What can go wrong between a client and the service. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class ConvscopeError(Exception):
    """Anything that this package raises of itself."""


class UnreachableError(ConvscopeError):
    """Nobody answers at the service's address, or did not for as long as the client's patience lasts."""


class UnexpectedAnswerError(ConvscopeError):
    """What answered is no Convscope service: neither the JSON nor the problem document that it would send."""


class ProblemError(ConvscopeError):
    """The service answered with a problem document (RFC 9457).

    Args:
        problem: the document.
        status: the HTTP status it came with, or the one that it names.
    """

    def __init__(self, problem: Mapping[str, Any], status: int) -> None:
        super().__init__(": ".join(str(problem[part]) for part in ("title", "detail") if problem.get(part)))
        self.problem = problem
        self.status = status

    @property
    def name(self) -> str:
        """The problem's short name (`unknown-layer`), by which programs tell problems apart; empty without one."""
        return str(self.problem.get("type") or "").rpartition("/")[2]

    @property
    def title(self) -> str:
        """What kind of problem it is."""
        return str(self.problem.get("title") or f"HTTP {self.status}")

    @property
    def detail(self) -> str:
        """What is wrong, and what would have been right."""
        return str(self.problem.get("detail") or "")

    @property
    def errors(self) -> Sequence[Mapping[str, str]]:
        """The wrong places of the request, each a `pointer` and a `detail`."""
        return list(self.problem.get("errors") or ())

    @property
    def job_id(self) -> str | None:
        """The job that the problem is about, where there is one."""
        return self.problem.get("job_id")

    @property
    def request_id(self) -> str | None:
        """The request's id, by which the service's log has it."""
        return self.problem.get("request_id")


class JobFailedError(ProblemError):
    """The job has no result: it failed, or its deadline passed. The problem says why."""


class JobCancelledError(ConvscopeError):
    """The job was cancelled; it has no result."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} was cancelled")
        self.job_id = job_id
