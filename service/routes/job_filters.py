"""Which of a caller's jobs are meant: by state, by operation, by the labels that the caller gave them."""

from __future__ import annotations

from typing import Self

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from convscope.protocol.problems import FieldError, invalid_request
from convscope.queue.jobs import Job, JobState
from service.http.paging import PageQuery
from service.http.problems import MOST_FIELD_ERRORS
from service.http.query_names import unknown_parameter

LABEL = "label."
_LONGEST = 128
_MOST = 16


class JobFilter(BaseModel):
    """Which jobs; `label.NAME=VALUE` for each label that they have."""

    model_config = ConfigDict(extra="allow")

    state: JobState | None = None
    operation: str | None = Field(None, max_length=100)

    @property
    def labels(self) -> dict[str, str]:
        """The labels that a job must have."""
        given = (self.model_extra or {}).items()
        return {name.removeprefix(LABEL): str(value) for name, value in given if name.startswith(LABEL)}

    @model_validator(mode="after")
    def _labels_are_short(self) -> Self:
        if len(self.labels) > _MOST or any(len(value) > _LONGEST for value in self.labels.values()):
            raise ValueError(f"a job has up to {_MOST} labels of up to {_LONGEST} characters")
        return self

    def check(self, request: Request) -> None:
        """See that there are labels and nothing else beside what the address takes.

        Raises:
            ProblemError: `invalid-request`.
        """
        unknown = [name for name in self.model_extra or {} if not name.startswith(LABEL) or name == LABEL]
        if unknown:
            shown = [name[:80] for name in unknown[:MOST_FIELD_ERRORS]]
            raise invalid_request([FieldError(f"/query/{name}", unknown_parameter(request, name)) for name in shown])

    def fits(self, job: Job) -> bool:
        """Whether a job has the labels."""
        return all(job.labels.get(name) == value for name, value in self.labels.items())


class ListQuery(JobFilter, PageQuery):
    """Which jobs to list."""

    model_config = ConfigDict(extra="allow")


class CancelledJobs(BaseModel):
    """What became of the jobs that were to be cancelled."""

    cancelled: list[str] = Field(description="Ids of jobs that are cancelled.")
    stopping: list[str] = Field(description="Ids of jobs that stop within two slices.")
