"""A running service as the command line sees it: submit, follow, cancel, read. Speaks HTTP like any other client."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any, Self

import httpx2

from convscope.protocol.problems import PROBLEMS
from convscope.queue.jobs import TERMINAL, JobState

Job = Mapping[str, Any]
Part = tuple[str, tuple[str | None, bytes | str] | tuple[str | None, bytes | str, str]]
"""One part of a form: its name, and file name (None for a plain field), content, content type."""

SILENCE_S = 40.0
"""An event stream sends a comment every 15 s; one that is silent for longer than this is dead."""
PATIENCE_S = 60.0
"""How long a service that was there may be away while a job is followed."""
STREAM_TRIES = 3
POLL_WAIT_S = 10


class ServiceProblemError(Exception):
    """The service answered with a problem document."""

    def __init__(self, problem: Mapping[str, Any], status: int) -> None:
        super().__init__(str(problem.get("title", f"HTTP {status}")))
        self.problem = problem
        self.status = status

    def lines(self) -> Iterator[str]:
        """The problem for a person to read: what, where, and what to do."""
        name = str(self.problem.get("type", "")).rpartition("/")[2]
        yield f"{self.problem.get('title', 'The service refused')} ({name or self.status})"
        if self.problem.get("detail"):
            yield str(self.problem["detail"])
        for error in self.problem.get("errors", ()):
            yield f"  {error.get('pointer', '')}: {error.get('detail', '')}"
        known = PROBLEMS.get(name)
        if known is not None:
            yield known.advice
        for label, key in (("request", "request_id"), ("job", "job_id")):
            if self.problem.get(key):
                yield f"{label} {self.problem[key]}"


class UnreachableError(Exception):
    """Nobody answers at the service's address."""


@dataclass(frozen=True)
class Progress:
    """Where a job stands."""

    state: JobState
    done: float
    total: float
    message: str


Follower = Callable[[Progress], None]


class ServiceClient:
    """The service at `url`, for the caller with `key`."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx2.Timeout(SILENCE_S, connect=5.0)
        self._http = httpx2.Client(base_url=self.url, headers=headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit(self, operation: str, parts: Sequence[Part], *, fresh: bool = False) -> Job:
        """Submit an operation without waiting for it.

        Args:
            fresh: compute it again even if an identical request was answered before.

        Raises:
            ServiceProblemError, UnreachableError.
        """
        # The key makes it safe to send the request again when the answer was lost, and keeps the job alive without us.
        headers = {"Prefer": "respond-async", "Idempotency-Key": str(uuid.uuid4()), "Accept": "application/json"}
        if fresh:
            headers["Cache-Control"] = "no-cache"
        body: dict[str, Any] = {"files": list(parts)} if parts else {"json": {}}
        answer = self._send("POST", f"/v1/{operation}", tries=2, headers=headers, **body)
        return _object(answer)

    def job(self, job_id: str, wait_s: int = 0) -> Job:
        """The job as it is, or as it is after at most `wait_s` seconds, if it does not finish before."""
        params = {"wait": wait_s} if wait_s else {}
        return _object(self._send("GET", f"/v1/jobs/{job_id}", params=params))

    def cancel(self, job_id: str) -> Job:
        """Ask for the job to be cancelled."""
        return _object(self._send("DELETE", f"/v1/jobs/{job_id}"))

    def models(self) -> dict[str, Any]:
        """GET /v1/models."""
        return _object(self._send("GET", "/v1/models"))

    def result(self, job_id: str, media: str, query: Mapping[str, str]) -> bytes:
        """The result of a finished job in that media type, drawn as `query` says."""
        return self._send("GET", f"/v1/jobs/{job_id}/result", params=query, headers={"Accept": media}).content

    def follow(self, job: Job, follower: Follower) -> Job:
        """Follow a job to its end by its event stream, or by polling where there is none.

        Returns:
            The finished job.

        Raises:
            ServiceProblemError, UnreachableError: the service was away for longer than PATIENCE_S.
        """
        job_id = str(job["id"])
        follower(progress_of(job))
        place, tries = _Place(), 0
        while not finished(job) and tries < STREAM_TRIES:
            before = place.last_event
            try:
                # A stream that ends of itself ends with the job, or with the service; reading the job tells.
                self._read_events(job_id, place, follower)
            except _NoStreamError:
                break
            except httpx2.TransportError:
                sleep(0.5)
            tries = 0 if place.last_event != before else tries + 1
            job = self._job_patiently(job_id, 0)
        while not finished(job):
            job = self._job_patiently(job_id, POLL_WAIT_S)
            follower(progress_of(job))
        return job

    def _read_events(self, job_id: str, place: _Place, follower: Follower) -> None:
        """Read events until the stream ends, from where the last stream broke off."""
        headers = {"Last-Event-ID": place.last_event} if place.last_event else {}
        with self._http.sse(f"/v1/jobs/{job_id}/events", headers=headers) as events:
            if events.response.status_code != 200:
                raise _NoStreamError
            try:
                for event in events:
                    place.last_event = event.id or place.last_event
                    if event.event == "done":
                        return
                    if event.event in ("state", "progress", "reset"):
                        place.take(event.json() if event.data else {}, follower)
            except httpx2.SSEError:
                raise _NoStreamError from None

    def _job_patiently(self, job_id: str, wait_s: int) -> Job:
        give_up = monotonic() + PATIENCE_S
        while True:
            try:
                return self.job(job_id, wait_s)
            except UnreachableError:
                if monotonic() > give_up:
                    raise
            except ServiceProblemError as error:
                if error.status != 503 or monotonic() > give_up:
                    raise
            sleep(1.0)

    def _send(self, method: str, path: str, *, tries: int = 1, **rest: Any) -> httpx2.Response:
        with _reachable(self.url):
            while True:
                tries -= 1
                try:
                    answer = self._http.request(method, path, **rest)
                    break
                except httpx2.ConnectError:
                    raise
                except httpx2.TransportError:
                    if tries <= 0:
                        raise
        if answer.status_code >= 400:
            raise ServiceProblemError(_problem(answer), answer.status_code)
        return answer


@dataclass
class _Place:
    """How far the events of a job have been read, over several streams."""

    last_event: str = ""
    state: JobState = JobState.QUEUED

    def take(self, data: object, follower: Follower) -> None:
        """Pass on what one event says; a `reset` carries a whole job."""
        if not isinstance(data, dict):
            return
        self.state = _state(data.get("state"), self.state)
        told = data.get("progress", data)
        follower(progress_of({"state": self.state, "progress": told if isinstance(told, dict) else {}}))


class _NoStreamError(Exception):
    """The service, or something between, gives no event stream."""


@contextmanager
def _reachable(url: str) -> Iterator[None]:
    try:
        yield
    except httpx2.ConnectError:
        raise UnreachableError(
            f"no service answers at {url}; `convscope serve` starts one, --url names another"
        ) from None
    except httpx2.TransportError as error:
        raise UnreachableError(f"the connection to {url} broke ({error or type(error).__name__})") from None


def finished(job: Job) -> bool:
    """Whether a job is in a terminal state."""
    return job["state"] in TERMINAL


def progress_of(job: Job) -> Progress:
    """Where a job stands, from its JSON."""
    told = job.get("progress") or {}
    state = _state(job.get("state"), JobState.QUEUED)
    message = str(told.get("message") or "")
    if state is JobState.QUEUED and job.get("workers_online") == 0:
        message = "queued; no worker is running"
    return Progress(state, float(told.get("done") or 0), float(told.get("total") or 0), message)


def _state(text: object, otherwise: JobState) -> JobState:
    try:
        return JobState(str(text))
    except ValueError:
        return otherwise


def _problem(answer: httpx2.Response) -> Mapping[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {"title": f"HTTP {answer.status_code}", "detail": answer.text[:500]}


def _object(answer: httpx2.Response) -> dict[str, Any]:
    """The JSON object that an answer carries.

    Raises:
        ServiceProblemError: it carries something else.
    """
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise ServiceProblemError(
            {"title": "The answer is no JSON object; is this a Convscope service?"}, answer.status_code
        )
    return body
