"""Every Redis key, with its type and lifetime. Nothing else builds a key: the scripts get PREFIX and do the same.

All keys share one hash tag, so that one script may touch several of them. Lifetimes: `kept` is the setting that keeps
finished jobs (24 h by default), counted from the job's end; `none` stays.

| key | type | lifetime | what |
| --- | --- | --- | --- |
| job:{id} | hash | kept after the end | what a client sees, until archived |
| archived:{caller}:{minute} | hash | kept after the end | job id → initial of its state, artifact with its record |
| events:{id} | stream | until archived | state, progress, preview, done; ids 1-0, 2-0, …; at most EVENTS_KEPT |
| run:{id} | hash | RUN_KEPT_MS after the end | a computation: lane, owner, epoch, checkpoints; id of its first job |
| members:{run} | set | while the run is unfinished | unfinished jobs that share this computation |
| lane:{lane} | sorted set | none | runs waiting, by the virtual time of their caller's share |
| waiting:{lane} | sorted set | none | the same runs, by the time they were submitted, ms |
| shares:{lane} | hash | none | caller → virtual time of its next request; `:clock`: where the lane stands |
| alone | sorted set | none | those of them that must run with nothing beside them, by the time they began to wait, ms |
| leases | sorted set | none | runs being computed, by lease expiry, ms |
| held:{worker} | set | none | runs that a worker holds a lease of |
| claimed:{worker} | hash | CLAIM_KEPT_MS | the answer to a worker's last claim, for a claim that is sent twice |
| draining | string | DRAINING_MS | the worker that makes room, because a run has to be alone: its long work goes back |
| turns | string | none | counts claims, for ageing |
| active | sorted set | none | unfinished jobs by creation, ms; what the sweep goes round |
| deadlines | sorted set | none | unfinished jobs with a deadline, by deadline, ms |
| computation:{digest} | string | while the run is unfinished | the run in flight for an identical request |
| result:{digest} | string | kept | result manifest, for an identical request |
| answer:{digest}:{caller} | string | kept | the caller's job that the store answered, for the next such request |
| finished | sorted set | none | jobs by their end, ms, whose records are still to be archived |
| idempotency:{caller}:{sha256 of key} | hash | kept after the end | job id and request fingerprint |
| unfinished:{kind}:{caller} | sorted set | none | the quota: unfinished jobs by -1 - cost, cancelled ones until when |
| index:{caller} | sorted set | twice kept, from the last use | all jobs of a caller by creation time, ms, for listing |
| image:{caller}:{id} | string | images kept | an upload as its caller sees it, JSON |
| images:{caller} | sorted set | images kept | a caller's uploads by time, for listing |
| image_set:{caller}:{id} | string | images kept | an image set as its caller sees it, JSON |
| image_sets:{caller} | sorted set | images kept | a caller's sets by time, for listing |
| stored:{caller} | sorted set | none | a caller's images and their bytes, by when their pixels expire, ms |
| stored_bytes | hash | none | caller → bytes of all of them |
| card:{model} | hash | none | a model card: `json`, and `digest` to know a newer one by |
| card:{id}@{version} | hash | UPLOADED_CARD_MS | the same of a network that a caller brought, or its `problem` |
| networks | hash | none | id → head of a network that a caller brought: owner, version, file; JSON |
| network:{id} | string | none | its entry, JSON |
| catalogue | hash | none | model id → summary, JSON |
| deployment | hash | none | what the workers say of themselves: environment, default_model |
| wanted | sorted set | none | models whose card a request waits for, by the time it was asked for, ms |
| worker:{id} | string | WORKER_KEPT_MS | a live worker: host, device, operations, when started; JSON |
| workers | sorted set | none | workers by last heartbeat, ms; the sweep drops the dead |
| changes | stream | none | job ids that changed, for waiting API processes; about CHANGES_KEPT entries |
| doorbell | stream | none | rings when there is something to do for workers; about DOORBELL_KEPT entries |
| counters | hash | none | totals for /metrics: submitted, finished by outcome, crashes, fenced writes, … |
| times | hash | none | durations for /metrics: how many by kind, operation and bucket, and their sum, ms |
| probe | string | 10 s | written by /readyz, to see that it can be written |
| sweeper | hash | none | which server run the leases were given under, and where the sweep's round goes on |
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Literal

PREFIX = "{convscope}:"
_ARTIFACT = re.compile(r"[a-z]+/[0-9a-f]{2}/[0-9a-f]{64}")
_SHORT = re.compile(r"[A-Za-z0-9_-]{43}")

EVENTS_KEPT = 1000
CHANGES_KEPT = 10_000
DOORBELL_KEPT = 100
RUN_KEPT_MS = 300_000
CLAIM_KEPT_MS = 60_000
DRAINING_MS = 5_000
SAVED_WITHIN_MS = 5_000
"""Long work that was asked for a checkpoint and has not made one by then can make none, or not soon."""
WORKER_KEPT_MS = 10_000
CANCELLED_COUNTS_MS = 60_000
"""A cancelled job counts in its caller's quota for so long."""
LEAST_CANCELLED = 10
"""A caller may cancel so many within that time, however small its quota is."""
AGED_COST = 2_000
"""Forward passes; what costs more ages more slowly, in proportion."""
AGED_SLOWEST = 20
PASSED_OVER = 200
"""Waiting runs that one claim passes over because their caller has its share of places, or they are too young."""
TIME_BUCKETS_MS = (5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 1_800_000)
"""Upper ends of the buckets in which durations are counted; one more is above the last."""

UPLOADED_CARD_MS = 86_400_000
"""The card of a network that a caller brought; it is made again when it is asked for."""

LANES: tuple[Literal["quick", "interactive", "batch"], ...] = ("quick", "interactive", "batch")


def key(kind: str, *parts: str) -> str:
    """The key of that kind: `key("job", id)` → `{convscope}:job:<id>`."""
    return PREFIX + ":".join((kind, *parts))


def archived_key(caller: str, job_id: str) -> str:
    """Where it says which artifact has the record of a finished job; as the scripts do."""
    return key("archived", caller, job_id[:8])


def short_key(artifact: str) -> str:
    """An artifact's key, `kind/ab/<64 hexadecimal digits>`, as its digest in 43 letters, for where millions are kept.

    What is no such key stays as it is.
    """
    if not _ARTIFACT.fullmatch(artifact):
        return artifact
    return base64.urlsafe_b64encode(bytes.fromhex(artifact.rpartition("/")[2])).rstrip(b"=").decode()


def long_key(kind: str, short: str) -> str:
    """The artifact's key that `short_key` made short; what it left as it was stays so."""
    if not _SHORT.fullmatch(short):
        return short
    digest = base64.urlsafe_b64decode(short + "=").hex()
    return f"{kind}/{digest[:2]}/{digest}"


def idempotency_key(caller: str, sent: str) -> str:
    """The key of an Idempotency-Key header; hashed, because a caller chooses it and may put anything into it."""
    return key("idempotency", caller, hashlib.sha256(sent.encode("utf-8", "surrogatepass")).hexdigest())
