"""Every Redis key, with its type and lifetime. Nothing else builds a key: the scripts get PREFIX and do the same.

All keys share one hash tag, so that one script may touch several of them. Lifetimes: `kept` is the setting that keeps
finished jobs (24 h by default), counted from the job's end; `none` stays.

| key | type | lifetime | what |
| --- | --- | --- | --- |
| job:{id} | hash | kept after the end | what a client sees: state, request, progress, times, result, error |
| events:{id} | stream | kept after the end | state, progress, preview, done; ids 1-0, 2-0, …; at most EVENTS_KEPT |
| run:{id} | hash | RUN_KEPT_MS after the end | a computation: lane, owner, epoch, checkpoints; id of its first job |
| members:{run} | set | while the run is unfinished | unfinished jobs that share this computation |
| lane:{lane} | sorted set | none | runs waiting, by the time they were submitted, ms |
| alone | sorted set | none | those of them that must run with nothing beside them, by the time they began to wait, ms |
| leases | sorted set | none | runs being computed, by lease expiry, ms |
| held:{worker} | set | none | runs that a worker holds a lease of |
| claimed:{worker} | hash | CLAIM_KEPT_MS | the answer to a worker's last claim, for a claim that is sent twice |
| draining | string | DRAINING_MS | the worker that makes room, because a run has to be alone: its long work goes back |
| turns | string | none | counts claims, for ageing |
| active | sorted set | none | unfinished jobs by creation, ms; what the sweep goes round |
| deadlines | sorted set | none | unfinished jobs with a deadline, by deadline, ms |
| computation:{digest} | string | while the run is unfinished | the run in flight for an identical request |
| cached:{digest} | hash | kept | result manifest and its compute time, for an identical request |
| idempotency:{caller}:{sha256 of key} | hash | kept after the end | job id and request fingerprint |
| caller:{caller} | set | none | unfinished jobs of a caller, for the quota |
| index:{caller} | sorted set | twice kept, from the last use | all jobs of a caller by creation time, ms, for listing |
| image:{caller}:{id} | string | images kept | an upload as its caller sees it, JSON |
| images:{caller} | sorted set | images kept | a caller's uploads by time, for listing |
| image_set:{caller}:{id} | string | images kept | an image set as its caller sees it, JSON |
| image_sets:{caller} | sorted set | images kept | a caller's sets by time, for listing |
| card:{model} | hash | none | a model card: `json`, and `digest` to know a newer one by |
| catalogue | hash | none | model id → summary, JSON |
| deployment | hash | none | what the workers say of themselves: environment, default_model |
| wanted | sorted set | none | models whose card a request waits for, by the time it was asked for, ms |
| worker:{id} | string | WORKER_KEPT_MS | a live worker: host, device, operations, when started; JSON |
| workers | sorted set | none | workers by last heartbeat, ms; the sweep drops the dead |
| changes | stream | none | job ids that changed, for waiting API processes; about CHANGES_KEPT entries |
| doorbell | stream | none | rings when there is something to do for workers; about DOORBELL_KEPT entries |
| counters | hash | none | totals for /metrics: submitted, finished by outcome, crashes, fenced writes, … |
| probe | string | 10 s | written by /readyz, to see that it can be written |
| sweeper | hash | none | which server run the leases were given under, and where the sweep's round goes on |
"""

from __future__ import annotations

import hashlib

PREFIX = "{convscope}:"

EVENTS_KEPT = 1000
CHANGES_KEPT = 10_000
DOORBELL_KEPT = 100
RUN_KEPT_MS = 600_000
CLAIM_KEPT_MS = 60_000
DRAINING_MS = 5_000
SAVED_WITHIN_MS = 5_000
"""Long work that was asked for a checkpoint and has not made one by then can make none, or not soon."""
WORKER_KEPT_MS = 10_000

LANES = ("interactive", "batch")


def key(kind: str, *parts: str) -> str:
    """The key of that kind: `key("job", id)` → `{convscope}:job:<id>`."""
    return PREFIX + ":".join((kind, *parts))


def idempotency_key(caller: str, sent: str) -> str:
    """The key of an Idempotency-Key header; hashed, because a caller chooses it and may put anything into it."""
    return key("idempotency", caller, hashlib.sha256(sent.encode("utf-8", "surrogatepass")).hexdigest())
