"""A job and its result, as objects that know where they came from."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack, cast

from convscope_client import schemas
from convscope_client._async.waiting import aside
from convscope_client.errors import JobCancelledError, JobFailedError
from convscope_client.events import FINISHED, Event, Standing
from convscope_client.results import PNG, SAFETENSORS, arrays_of, media_of, picture_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from convscope_client._async.jobs import AsyncJobs

F = TypeVar("F")
"""The facts that the job's operation gives."""
LONG_POLL_S = 20


class AsyncJob(Generic[F]):
    """A job as it was when the service was last asked.

    Args:
        client: whom to ask.
        document: the job's JSON.
    """

    def __init__(self, client: AsyncJobs, document: Mapping[str, Any]) -> None:
        self._client = client
        self.document = cast(schemas.JobView, document)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}: {self.operation}, {self.state}>"

    @property
    def id(self) -> str:
        """Its id."""
        return self.document["id"]

    @property
    def operation(self) -> str:
        """The operation that it runs."""
        return self.document["operation"]

    @property
    def state(self) -> str:
        """queued, running, succeeded, failed, cancelled or expired."""
        return self.document["state"]

    @property
    def finished(self) -> bool:
        """Whether its state is final."""
        return self.state in FINISHED

    @property
    def progress(self) -> Standing:
        """Where it stands."""
        return Standing.of(self.document)

    @property
    def request(self) -> Mapping[str, Any]:
        """The request with every default filled in."""
        return self.document["request"]

    @property
    def labels(self) -> Mapping[str, str]:
        """The caller's own labels."""
        return self.document["labels"]

    async def refresh(self, *, wait_s: float = 0) -> Self:
        """Ask how the job is now, or once it is finished within `wait_s` seconds.

        Returns:
            The job itself.
        """
        self.document = (await self._client.read_job(self.id, wait_s=wait_s)).document
        return self

    async def wait(self, timeout_s: float | None = None) -> Self:
        """Wait until the job is finished, however it ends.

        Returns:
            The job itself.

        Raises:
            TimeoutError: it is not finished after `timeout_s`; it goes on.
        """
        until = None if timeout_s is None else monotonic() + timeout_s
        while not self.finished:
            left = LONG_POLL_S if until is None else min(LONG_POLL_S, until - monotonic())
            if left <= 0:
                raise TimeoutError(f"job {self.id} is {self.state} after {timeout_s:g} s")
            await self.refresh(wait_s=left)
        return self

    async def events(self, *, after: str = "") -> AsyncGenerator[Event]:
        """Follow the job live: its states, its progress, previews, until it is done.

        A broken connection is taken up where it broke off. When the last event was read the job is up to date.

        Args:
            after: the id of an event: only those behind it.
        """
        async with aclosing(self._client.follow_job(self.id, after=after)) as events:
            async for event in events:
                if event.name == "done":
                    await self.refresh()
                yield event

    async def preview(self, event: Event) -> Image:
        """The picture that a `preview` event names."""
        return await self._client.read_preview(self.id, str(event.data["href"]).rpartition("/")[2])

    async def cancel(self) -> Self:
        """Ask for the job to be cancelled; it stops within two slices of its work.

        Raises:
            ProblemError: `already-finished`.
        """
        self.document = (await self._client.cancel_job(self.id)).document
        return self

    async def delete(self) -> None:
        """Cancel the job if it is not finished; else forget it, with its result."""
        await self._client.delete_job(self.id)

    async def result(self, timeout_s: float | None = None) -> AsyncResult[F]:
        """The job's result, once it is finished.

        Raises:
            JobFailedError: it failed, or its deadline passed; the problem says why.
            JobCancelledError: it was cancelled.
            TimeoutError: it is not finished after `timeout_s`; it goes on.
        """
        await self.wait(timeout_s)
        if self.state == "cancelled":
            raise JobCancelledError(self.id)
        if self.state != "succeeded":
            problem = cast(Mapping[str, Any], self.document["error"] or {"title": f"The job is {self.state}"})
            raise JobFailedError({**problem, "job_id": self.id}, int(problem.get("status", 500)))
        if self.document["result"] is None:  # a listing leaves it out
            await self.refresh()
        return AsyncResult(self._client, self.document)


class AsyncResult(Generic[F]):
    """The result of a job that succeeded: facts at hand, arrays and pictures when they are asked for.

    Args:
        client: whom to ask.
        document: the job's JSON, with its result.
    """

    def __init__(self, client: AsyncJobs, document: schemas.JobView) -> None:
        assert document["result"] is not None
        self._client = client
        self._result = document["result"]
        self.job_id = document["id"]
        self.facts = cast(F, self._result["facts"])
        """Numbers that matter without opening an array; which, says the operation's page."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of job {self.job_id}: {', '.join(self.shapes)}>"

    @property
    def provenance(self) -> schemas.ProvenanceView:
        """What made the result: network, weights, code, libraries, device, seed."""
        return self._result["provenance"]

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every array, by name."""
        return {name: tuple(array["shape"]) for name, array in self._result["arrays"].items()}

    @property
    def pictures(self) -> Sequence[schemas.PictureView]:
        """The pictures that can be drawn; a picture's `name` is what `pick` takes, its `image_id` sends it on."""
        return self._result["pictures"]

    async def array(self, name: str) -> NDArray[Any]:
        """One array, read alone."""
        return await self._client.read_array(self.job_id, name)

    async def arrays(self) -> dict[str, NDArray[Any]]:
        """Every array by its name, in one answer."""
        return await aside(arrays_of, await self._client.read_result(self.job_id, SAFETENSORS))

    async def picture(self, **drawing: Unpack[schemas.Drawing]) -> Image:
        """The picture, drawn as asked; `pick` chooses one of `pictures`, without it all are stacked, up to 16."""
        return await aside(picture_of, await self._client.read_result(self.job_id, PNG, **drawing))

    async def save(self, file: str | os.PathLike[str], **drawing: Unpack[schemas.Drawing]) -> Path:
        """Write the result into a file as its name ends: `.png` as drawn, `.safetensors`, `.json`.

        Raises:
            ValueError: the name ends otherwise.
            OSError: the file cannot be written.
        """
        path = Path(file)
        await self._client.save_result(self.job_id, path, media_of(path), **drawing)
        return path
