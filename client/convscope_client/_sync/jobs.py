"""Jobs at the service by their ids: submitting, following, cancelling, and what came of them.

Each method is named as the operation of the OpenAPI document that it calls; `submit` stands for all operations that
compute, which `operations.py` spells out.

Made from `_async/jobs.py`. Written by client/generate.py; changes here are lost.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import httpx2

from convscope_client import schemas
from convscope_client._sync.job import Job
from convscope_client._sync.resources import Resources
from convscope_client._sync.sender import Body
from convscope_client._sync.waiting import aside, sleep
from convscope_client.errors import JobFailedError, ProblemError
from convscope_client.events import FINISHED, Event, Standing, event_of
from convscope_client.images import OCTETS, ImagesInput, Upload, as_list, reference, upload_of
from convscope_client.patience import json_object
from convscope_client.results import JSON, NPY, PNG, Media, array_of, job_path, picture_of, which_jobs

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

LONG_POLL_S = 20
LEAN = {"data": "href"}
"""Arrays are read when they are asked for, and then not as JSON."""
STREAM_TRIES = 3
"""So many event streams may end without one event before the job is polled instead."""
FORM_BYTES = 16 * 1024 * 1024
"""Images of more than this together are uploaded one by one, so that no request is too large."""
QUICK_WAIT_S = 30.0
"""How long the service waits by itself, where a request does not say."""
_NOT_THE_JOBS = frozenset({"idempotency-mismatch", "queue-unavailable", "store-unavailable"})
"""Problems that may name a job and are not what that job ended with."""


class Jobs(Resources):
    """Jobs by their ids."""

    def submit(
        self,
        operation: str,
        image: ImagesInput | None = None,
        request: Mapping[str, Any] | None = None,
        *,
        fields: Sequence[tuple[str, str]] = (),
        wait_s: float | None = None,
        fresh: bool = False,
        idempotency_key: str | None = None,
    ) -> Job[Any]:
        """Submit an operation by its name.

        Args:
            operation: as in the address: `feature-maps`.
            image: one image or several, where the operation takes any.
            request: its further properties; those that are None are left out.
            fields: properties as the text fields of a form, as curl sends them, instead of `request`.
            wait_s: how long the service shall hold the request for the answer: 0 not at all, 60 at most; without it, up
                to 30 s for quick operations and not at all for long ones.
            fresh: compute it again even if an identical request was answered before.
            idempotency_key: a name of the caller's own for this job: submitted twice, also by another process, it is
                one job. Without it the call makes one, so that it may be sent again when its answer is lost.

        Returns:
            The job, finished or not.

        Raises:
            ProblemError: the service refused the request.
            JobFailedError: the job failed while the request waited for it.
            UnreachableError: nobody answers.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        if wait_s is not None:
            headers["Prefer"] = f"wait={round(wait_s)}" if wait_s > 0 else "respond-async"
        if fresh:
            headers["Cache-Control"] = "no-cache"
        asked = {name: value for name, value in (request or {}).items() if value is not None}
        body = self._body(as_list(image), asked, fields)
        try:
            answer = self._sender.send(
                "POST",
                f"/v1/{operation}",
                params=LEAN,
                headers=headers,
                body=body,
                wait_s=QUICK_WAIT_S if wait_s is None else wait_s,
            )
        except ProblemError as error:
            if error.job_id and error.name not in _NOT_THE_JOBS:
                raise JobFailedError(error.problem, error.status) from None
            raise
        return Job(self, json_object(answer))

    def _body(self, images: list[Any], request: dict[str, Any], fields: Sequence[tuple[str, str]]) -> Body:
        """The request's body: JSON where no file has to go along, else a form."""
        references = [reference(one) for one in images]
        files = [aside(upload_of, one, number) for number, one in enumerate(images) if references[number] is None]
        if files and (len(files) < len(images) or sum(len(file.data) for file in files) > FORM_BYTES):
            references = self._uploaded(references, files)
            files = []
        known = [one for one in references if one is not None]
        if known and fields:
            fields = [*fields, ("images", json.dumps(known))]
        elif known:
            request = {**request, **({"image": known[0]} if len(known) == 1 else {"images": known})}
        if not files and not fields:
            return lambda: {"json": request}
        parts: list[Any] = [("image", (file.name, file.data, OCTETS)) for file in files]
        parts += [(name, (None, text)) for name, text in fields]
        if request:
            parts.append(("request", (None, json.dumps(request), JSON)))
        return lambda: {"files": parts}

    def _uploaded(
        self, references: Sequence[dict[str, Any] | None], files: Sequence[Upload]
    ) -> list[dict[str, Any] | None]:
        """References to all images, once those that are files are uploaded."""
        left = iter(files)
        return [{"id": (self.upload_image(next(left)))["id"]} if one is None else one for one in references]

    def list_jobs(
        self,
        *,
        state: str | None = None,
        operation: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> Generator[Job[Any]]:
        """The caller's jobs, newest first, without their results: those with all `labels`, `limit` of them at most."""
        query = which_jobs(state, operation, labels)
        for job in self._entries("/v1/jobs", "jobs", query, limit):
            yield Job(self, job)

    def read_job(self, job_id: str, *, wait_s: float = 0) -> Job[Any]:
        """The job as it is, or as it is after at most `wait_s` seconds if it does not finish before; 60 at most."""
        return Job(self, self._read(job_id, wait_s))

    def _read(self, job_id: str, wait_s: float = 0) -> dict[str, Any]:
        params = {**LEAN, **({"wait": wait_s} if wait_s > 0 else {})}
        return json_object(self._sender.send("GET", job_path(job_id), params=params, wait_s=wait_s))

    def job_done(self, job_id: str) -> bool:
        """Whether a job is finished, however it ended; carries nothing else."""
        try:
            self._sender.send("GET", job_path(job_id, "done"))
        except ProblemError as error:
            if error.status == 404 and error.job_id == job_id:
                return False
            raise
        return True

    def cancel_job(self, job_id: str) -> Job[Any]:
        """Ask for a job to be cancelled; it stops within two slices of its work.

        Raises:
            ProblemError: `already-finished`.
        """
        return Job(self, json_object(self._sender.send("POST", job_path(job_id, "cancel"))))

    def cancel_jobs(
        self, *, state: str | None = None, operation: str | None = None, labels: Mapping[str, str] | None = None
    ) -> schemas.CancelledJobs:
        """Cancel every unfinished job of the caller that fits; one of the three must be said."""
        answer = self._sender.send("POST", "/v1/jobs/cancel", params=which_jobs(state, operation, labels))
        return cast(schemas.CancelledJobs, json_object(answer))

    def delete_job(self, job_id: str) -> None:
        """Cancel a job that is not finished; forget one that is, with its result."""
        self._sender.send("DELETE", job_path(job_id))

    def read_result(
        self,
        job_id: str,
        media: Media = JSON,
        **drawing: Unpack[schemas.Drawing],
    ) -> bytes:
        """The result of a finished job in that media type; a picture drawn as asked.

        Raises:
            JobFailedError: the job has no result.
        """
        answer = self._result(job_path(job_id, "result"), media, drawing)
        return answer.content

    def save_result(self, job_id: str, file: Path, media: Media, **drawing: Unpack[schemas.Drawing]) -> None:
        """Write the result of a finished job into a file, without holding it in memory.

        Raises:
            JobFailedError: the job has no result.
        """
        try:
            path = job_path(job_id, "result")
            self._sender.download(path, file, params=cast(Mapping[str, Any], drawing), headers={"Accept": media})
        except ProblemError as error:
            raise _of_the_job(error) from None

    def read_array(self, job_id: str, name: str) -> NDArray[Any]:
        """One array of a result."""
        answer = self._result(job_path(job_id, "arrays", name), NPY, {})
        return aside(array_of, answer.content)

    def read_picture(self, job_id: str, name: str, **drawing: Unpack[schemas.Drawing]) -> Image:
        """One picture of a result by its name, drawn as asked."""
        answer = self._result(job_path(job_id, "pictures", name), PNG, drawing)
        return aside(picture_of, answer.content)

    def read_preview(self, job_id: str, digest: str) -> Image:
        """The picture that a `preview` event named: how far the job was."""
        path = job_path(job_id, "previews", digest)
        answer = self._sender.send("GET", path, headers={"Accept": PNG})
        return aside(picture_of, answer.content)

    def _result(self, path: str, media: str, drawing: Mapping[str, Any]) -> httpx2.Response:
        try:
            answer = self._sender.send("GET", path, params=drawing, headers={"Accept": media})
        except ProblemError as error:
            raise _of_the_job(error) from None
        if answer.status_code == 202:
            raise ProblemError({"title": "The job is not finished", "detail": "It has no result yet."}, 202)
        return answer

    def follow_job(self, job_id: str, *, after: str = "") -> Generator[Event]:
        """The events of a job, live, until it is done; a stream that breaks is taken up where it broke off.

        Where no stream comes through, the job is polled, and what changed is told as `reset` events. Once the last
        event is a `done` the job is finished.

        Args:
            after: the id of an event: only those behind it.
        """
        progress, tries = Standing("queued"), 0
        while tries < STREAM_TRIES:
            tries += 1
            try:
                with closing(self._stream(job_id, after, progress)) as events:
                    for event in events:
                        after, progress, tries = event.id or after, event.progress, 0
                        yield event
                        if event.name == "done":
                            return
            except httpx2.SSEError:
                break
            except httpx2.TransportError:
                sleep(0.5)
            # A stream that ends before the job ends with the service. To read the job waits for one that is away; what
            # happened meanwhile comes with the next stream, also where the job is over.
            self._read(job_id)
        with closing(self._polled(job_id, progress)) as events:
            for event in events:
                yield event

    def _stream(self, job_id: str, after: str, progress: Standing) -> Generator[Event]:
        """The events of one stream."""
        with self._sender.events(job_path(job_id, "events"), after) as source:
            if source.response.status_code == 204:  # there is nothing behind `after`, and nothing will come
                job = self._read(job_id)
                yield event_of("done", after, {"state": job["state"]}, progress)
                return
            if source.response.status_code != 200:
                raise httpx2.SSEError(f"the stream is answered {source.response.status_code}")
            for said in source:
                if not said.data:
                    continue  # no event, but a word about when to come back
                event = event_of(said.event, said.id, said.json(), progress)
                progress = event.progress
                yield event

    def _polled(self, job_id: str, progress: Standing) -> Generator[Event]:
        """A job's revisions as `reset` events, by long polls."""
        tag = ""
        while True:
            headers = {"If-None-Match": tag} if tag else {}
            answer = self._sender.send(
                "GET", job_path(job_id), params={**LEAN, "wait": LONG_POLL_S}, headers=headers, wait_s=LONG_POLL_S
            )
            if answer.status_code == 304:
                continue
            job, tag = json_object(answer), answer.headers.get("etag", "")
            event = event_of("reset", "", job, progress)
            progress = event.progress
            yield event
            if progress.state in FINISHED:
                yield event_of("done", "", {"state": progress.state}, progress)
                return


def _of_the_job(error: ProblemError) -> ProblemError:
    """The problem as the job's own, where it is that."""
    own = error.job_id and error.name not in _NOT_THE_JOBS
    return JobFailedError(error.problem, error.status) if own else error
