"""What the queue keeps and answers: jobs, claims, workers, figures, as typed records. `jobs` re-exports them.

Pure data: parsing of the hashes the scripts write, and nothing that talks to a server.
"""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from convscope.queue.keys import long_key
from convscope.settings import Settings

Lane = Literal["quick", "interactive", "batch"]

NO_QUOTA = 2**31 - 1
"""More unfinished jobs than any queue holds: the quota, and the share of places, of a caller who is everybody."""


class JobState(StrEnum):
    """Where a job is in its life. Terminal states never change."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})
ACTIVE = frozenset(JobState) - TERMINAL


class Verdict(StrEnum):
    """What a worker hears about a run it reports on.

    GO_ON: the report counts. CANCELLED: nobody wants the run any more; stop it and confirm with `requeue` or
    `finish`. SAVE: make a checkpoint soon; the run may be wanted back then. PARK: give it back; it goes on later from
    the checkpoint that it has just made. JOINED: somebody asked for the same meanwhile; grant the pictures to them
    as well and report again. FENCED: the run is not this worker's (any more); drop it and report nothing
    further.
    """

    GO_ON = "go-on"
    CANCELLED = "cancelled"
    SAVE = "save"
    PARK = "park"
    JOINED = "joined"
    FENCED = "fenced"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class JobLimits(_Record):
    """Bounds and lifetimes of the queue."""

    lane_depth: int = 1000
    caller_jobs: int = Field(100, description="Of quick ones, and as many of long ones.")
    caller_forwards: int = Field(2_000_000, description="What all unfinished long jobs of a caller may cost together.")
    keep_jobs_s: float = 86_400.0
    lease_s: float = 6.0
    crashes: int = 3
    memory_share: float = Field(0.85, description="Submissions are refused above this share of maxmemory.")
    batch_memory_share: float = Field(0.75, description="The same for batch work, which is refused first.")
    aged_s: float = Field(30.0, description="A batch run that waited this long may take an interactive slot, seconds.")
    alone_patience_s: float = Field(
        2.0, description="A run that must be alone waits this long before a busy worker is made idle for it, seconds."
    )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The limits that an operator configured."""
        return cls(
            lane_depth=settings.lane_depth,
            caller_jobs=settings.caller_jobs,
            caller_forwards=settings.caller_forwards,
            keep_jobs_s=settings.keep_jobs_s,
            lease_s=settings.lease_s,
            crashes=settings.crashes,
        )


class JobImage(_Record):
    """An image of a request: `pixels` is the artifact key of its decoded form, a uint8 H×W×3 .npy file.

    `planes` is that of a float32 H×W×C .npy file where it came as an array; a network takes that.
    """

    id: str | None = None
    pixels: str
    width: int
    height: int
    planes: str | None = None
    channels: int = 3


class JobSpec(_Record):
    """What is submitted.

    `request` is the resolved request as JSON, without labels and deadline. `digest` identifies the computation; "" is
    never shared and never cached. `fingerprint` identifies the request as the client sent it, for its idempotency key.
    `environment` is what the workers ran on when the digest was made, "" unknown; another one's result is not cached.
    `cost` is in forward passes. `caller_jobs` is this caller's own quota, where it has one. `image_list` is the
    artifact key of an image set's contents whose members are the images: a set of thousands is no message for Redis.
    `networks` are the versions, by id, of those networks of the request that callers brought.
    """

    operation: str
    request: dict[str, Any]
    labels: dict[str, str] = Field(default_factory=dict)
    images: list[JobImage] = Field(default_factory=list)
    image_list: str | None = None
    networks: dict[str, str] = Field(default_factory=dict)
    lane: Lane = "interactive"
    cost: float = Field(1.0, ge=0)
    caller: str = "anonymous"
    digest: str = ""
    environment: str = ""
    deadline_s: float | None = None
    idempotency_key: str | None = None
    fingerprint: str = ""
    request_id: str = ""
    no_cache: bool = False
    caller_jobs: int | None = None


def images_json(spec: JobSpec) -> Any:
    """What a record says of its images: the images, or where their list is."""
    return {"list": spec.image_list} if spec.image_list else [image.model_dump() for image in spec.images]


def _part_images(plain: dict[str, Any]) -> None:
    """Undo `images_json` in a record's values."""
    if isinstance(plain.get("images"), dict):
        plain["image_list"] = plain.pop("images")["list"]


class JobProgress(_Record):
    """How far a job is, in units of its own; `losses` of the pictures that it makes, where it makes such."""

    done: float = 0.0
    total: float = 1.0
    message: str = ""
    losses: list[float | None] | None = None


class Job(_Record):
    """A job as its caller sees it.

    `manifest` is the artifact key of the result's manifest; `error` a problem as {name, detail, extra}; `revision` goes
    up with every change; `cancelling` says that a running job has been asked to stop; `run` is its computation.
    `events` is the id of its last event. `cached`: it was answered from the store, and when and for how long that was
    computed is not told.
    """

    id: str
    operation: str
    caller: str
    state: JobState
    attempt: int = 0
    progress: JobProgress = JobProgress()
    request: dict[str, Any]
    labels: dict[str, str] = Field(default_factory=dict)
    images: list[JobImage] = Field(default_factory=list)
    image_list: str | None = None
    created_ms: int
    started_ms: int | None = None
    finished_ms: int | None = None
    expires_ms: int | None = None
    deadline_ms: int | None = None
    queued_ms: int | None = None
    computed_ms: float | None = None
    manifest: str | None = None
    error: dict[str, Any] | None = None
    revision: int = 1
    events: int = 0
    cancelling: bool = False
    run: str = ""
    lane: Lane = "interactive"
    digest: str = ""
    request_id: str = ""
    idempotency: str = Field("", description="Key of the Idempotency-Key that names it.")
    cached: bool = False

    @property
    def finished(self) -> bool:
        """Whether the state is terminal."""
        return self.state in TERMINAL

    @classmethod
    def from_hash(cls, job_id: str, held: Mapping[str, str]) -> Self:
        """A job from its record; empty fields are absent ones."""
        plain = {name: value for name, value in held.items() if value != "" and name in cls.model_fields}
        for name in ("request", "labels", "images", "error"):
            if name in plain:
                plain[name] = json.loads(plain[name])
        _part_images(plain)
        if "manifest" in plain:
            plain["manifest"] = long_key("results", plain["manifest"])
        progress = {"done": held["done"], "total": held["total"], "message": held.get("message", "")}
        if held.get("losses"):
            progress["losses"] = json.loads(held["losses"])
        return cls.model_validate({**plain, "id": job_id, "progress": progress})


class Claim(_Record):
    """A run given to a worker, under an epoch that every later report must carry.

    `alone`: nothing else may be computed beside it. `slot` is the kind of place it was given: an aged batch run may
    have got an interactive one. `caller` is whose share of the device it takes. `deadline_in_s` counts from the claim,
    for a monotonic clock.
    """

    run: str
    epoch: int
    operation: str
    request: dict[str, Any]
    images: list[JobImage] = Field(default_factory=list)
    image_list: str | None = None
    networks: dict[str, str] = Field(default_factory=dict)
    lane: Lane
    slot: Lane
    alone: bool = False
    attempt: int
    checkpoint: str | None = None
    previous_checkpoint: str | None = None
    checkpoint_step: int = 0
    deadline_ms: int | None = None
    deadline_in_s: float | None = None
    submitted_ms: int
    members: list[str] = Field(default_factory=list)
    caller: str = ""
    request_id: str = ""

    @classmethod
    def from_reply(cls, reply: Sequence[Any]) -> Self:
        """A claim from what the claim script answers for one run."""
        run, slot, deadline_ms, deadline_in_ms, members, flat = reply
        plain = {name: value for name, value in pairs(flat).items() if value != "" and name in cls.model_fields}
        plain.pop("deadline_ms", None)
        for name in ("request", "images", "networks"):
            if name in plain:
                plain[name] = json.loads(plain[name])
        _part_images(plain)
        if deadline_ms != "":
            plain["deadline_ms"] = deadline_ms
            plain["deadline_in_s"] = float(deadline_in_ms) / 1000
        return cls.model_validate({**plain, "run": run, "slot": slot, "members": sorted(members)})


class WorkerInfo(_Record):
    """A worker as it describes itself; `heartbeat_ms` is the server's time of its last heartbeat."""

    id: str
    host: str = ""
    pid: int = 0
    device: str = ""
    code: str = ""
    torch: str = ""
    version: str = ""
    operations: list[str] = Field(default_factory=list)
    started_ms: int = 0
    ready: bool = True
    reason: str = Field("", description="Why it is not ready.")
    running: int = 0
    metrics: dict[str, float] = Field(default_factory=dict, description="Its own totals, for /metrics.")
    heartbeat_ms: int = 0


class SweepReport(_Record):
    """What one sweep found and mended."""

    leases_lost: int = 0
    expired: int = 0
    repaired: int = 0
    dropped: int = 0
    failed: int = 0
    workers_gone: int = 0
    leases_extended: int = Field(0, description="Leases given more time because the server had been restarted.")
    leases_shortened: int = Field(0, description="Leases of a future that the server's clock has gone back from.")


class Durations(_Record):
    """How long something took, over all jobs of an operation."""

    counts: list[int] = Field(description="In each bucket of TIME_BUCKETS_MS, and above the last.")
    sum_ms: float


class QueueStats(_Record):
    """Figures of the queue, by lane where it is a dict; counters are totals since the queue was empty."""

    waiting: dict[str, int]
    oldest_s: dict[str, float]
    running: int
    unfinished: int
    workers: int
    counters: dict[str, int]
    times: dict[str, dict[str, Durations]] = Field(
        default_factory=dict, description="By kind (`queued`: until a job's start; `computed`: of a run) and operation."
    )
    memory_bytes: int = 0
    memory_limit_bytes: int = Field(0, description="The server's maxmemory; 0: none.")


def pairs(flat: Sequence[Any]) -> dict[str, Any]:
    """[name, value, name, value, …], as scripts answer hashes, as a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def new_id() -> str:
    """A UUID of version 7 (RFC 9562): 48 bits of Unix milliseconds, then random ones, so that ids sort by age."""
    stamp = time.time_ns() // 1_000_000 & (1 << 48) - 1
    random = secrets.randbits(74)
    value = stamp << 80 | 0x7 << 76 | (random >> 62) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    return str(uuid.UUID(int=value))
