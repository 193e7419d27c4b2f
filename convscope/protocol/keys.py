"""Every Redis key, with its type and lifetime. Nothing else builds a key.

All keys share one hash tag, so that one script may touch several of them. Lifetimes: `kept` is the setting that keeps
finished jobs (24 h by default), counted from the last write; `none` stays.

| key | type | lifetime | what |
| --- | --- | --- | --- |
| job:{id} | hash | kept after the end | what a client sees: state, request, progress, times, result, error |
| events:{id} | stream | kept after the end | state, progress, preview, done; at most EVENTS_KEPT entries |
| run:{id} | hash | kept after the end | what a worker sees: lane, owner, epoch, lease, crashes, checkpoint, members |
| members:{run} | set | as run | jobs that share this computation |
| lane:{lane} | sorted set | none | runs waiting, by the time they may be claimed, ms |
| leases | sorted set | none | runs being computed, by lease expiry, ms |
| deadlines | sorted set | none | jobs with a deadline, by deadline, ms |
| computation:{digest} | string | with the run | the run in flight for an identical request |
| cached:{digest} | string | kept | the result manifest of an identical request |
| idempotency:{caller}:{key} | hash | kept | job id and request fingerprint |
| caller:{caller} | set | none | unfinished jobs of a caller, for the quota |
| index:{caller} | sorted set | none | all jobs of a caller by creation time, for listing |
| image:{caller}:{id} | string | images kept | an image as its caller sees it, JSON |
| images:{caller} | sorted set | images kept | image ids of a caller by the time of their last upload, ms |
| image_set:{caller}:{id} | string | images kept | an image set as its caller sees it, JSON |
| image_sets:{caller} | sorted set | images kept | set ids of a caller by the time of their last upload, ms |
| card:{model} | string | none | a model card, JSON |
| catalogue | hash | none | model id → summary, JSON |
| wanted | sorted set | none | models whose card a request waits for, by the time it was asked for, ms |
| worker:{id} | hash | 10 s | a live worker: host, device, operations, when started |
| workers | sorted set | none | live workers by last heartbeat, ms |
| changes | stream | none | job ids that changed, for waiting API processes; at most CHANGES_KEPT entries |
| doorbell | stream | none | rings when there is new work for workers; at most DOORBELL_KEPT entries |
| counters | hash | none | totals for /metrics: submitted, finished by outcome, crashes, fenced writes, … |
"""

from __future__ import annotations

PREFIX = "{convscope}:"

EVENTS_KEPT = 1000
CHANGES_KEPT = 10_000
DOORBELL_KEPT = 100


def key(kind: str, *parts: str) -> str:
    """The key of that kind: `key("job", id)` → `{convscope}:job:<id>`."""
    return PREFIX + ":".join((kind, *parts))
