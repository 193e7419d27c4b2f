"""Kinds of artifacts, and how long each must be kept."""

from __future__ import annotations

from typing import Literal

Kind = Literal["images", "results", "checkpoints", "previews", "records", "probes", "models"]
KINDS: tuple[Kind, ...] = ("images", "results", "checkpoints", "previews", "records", "probes", "models")


def retention_s(keep_images_s: float, keep_jobs_s: float) -> dict[Kind, float]:
    """How long artifacts of each kind must be kept since they were last put, seconds.

    An image may be used on its last day by a job that waits a day and whose result is kept one more.
    """
    return {
        "images": keep_images_s + 2 * keep_jobs_s,
        "results": 2 * keep_jobs_s,
        "checkpoints": keep_jobs_s,
        "previews": 2 * keep_jobs_s,
        "records": 2 * keep_jobs_s,
        "models": 2 * keep_jobs_s,  # of files that no network has any more
        "probes": 0.0,  # removed by those that put them, where the store lets them
    }
