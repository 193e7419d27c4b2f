"""Figures for Prometheus: of the requests, the queue and its workers."""

from __future__ import annotations

import asyncio
from itertools import accumulate
from typing import Any

from fastapi import APIRouter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry
from redis.exceptions import RedisError
from starlette.responses import Response

from convscope.protocol.problems import ProblemError
from convscope.queue.jobs import QueueStats
from convscope.queue.keys import TIME_BUCKETS_MS
from service import openapi
from service.context import Context
from service.dependencies import ContextDependency
from service.routes.health import PROBE_S

router = APIRouter(tags=["health"])


class _QueueFigures(Collector):
    """The figures of the queue at the time of one reading."""

    def __init__(self, stats: QueueStats | None) -> None:
        self._stats = stats

    def collect(self) -> Any:
        """As Prometheus wants them."""
        stats = self._stats
        yield GaugeMetricFamily("convscope_queue_up", "Whether the queue answered.", value=float(stats is not None))
        if stats is None:
            return
        waiting = GaugeMetricFamily("convscope_queue_depth", "Waiting runs.", labels=["lane"])
        oldest = GaugeMetricFamily("convscope_queue_oldest_age_seconds", "Age of the oldest.", labels=["lane"])
        for lane in stats.waiting:
            waiting.add_metric([lane], stats.waiting[lane])
            oldest.add_metric([lane], stats.oldest_s.get(lane, 0.0))
        yield waiting
        yield oldest
        for name, what, value in (
            ("running", "Runs being computed.", stats.running),
            ("unfinished", "Unfinished jobs.", stats.unfinished),
            ("memory_bytes", "Memory the queue's server uses.", stats.memory_bytes),
            ("memory_limit_bytes", "Its maxmemory; 0: none.", stats.memory_limit_bytes),
        ):
            yield GaugeMetricFamily(f"convscope_queue_{name}", what, value=float(value))
        yield GaugeMetricFamily("convscope_workers", "Live workers.", value=float(stats.workers))
        totals = CounterMetricFamily("convscope_queue_events", "What happened to jobs and runs.", labels=["event"])
        for name, total in sorted(stats.counters.items()):
            totals.add_metric([name], total)
        yield totals
        for kind, what in (
            ("queued", "From a job's submission to its start."),
            ("computed", "On the device, of a run."),
        ):
            family = HistogramMetricFamily(f"convscope_job_{kind}_seconds", what, labels=["operation"])
            for operation, durations in sorted(stats.times.get(kind, {}).items()):
                below = accumulate(durations.counts)
                ends = [*(f"{end_ms / 1000:g}" for end_ms in TIME_BUCKETS_MS), "+Inf"]
                family.add_metric([operation], list(zip(ends, below, strict=True)), durations.sum_ms / 1000)
            yield family


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={200: openapi.answer("Figures.", {"text/plain": {"schema": {"type": "string"}}})},
)
async def metrics(context: ContextDependency) -> Response:
    """Figures in the text format of Prometheus; those of the queue are missing while it does not answer."""
    stats = None
    try:
        async with asyncio.timeout(PROBE_S):
            stats = await context.jobs.stats()
    except (ProblemError, RedisError, TimeoutError):
        stats = None
    figures = CollectorRegistry()
    figures.register(_QueueFigures(stats))
    workers = await _worker_figures(context) if stats is not None and stats.workers else b""
    return Response(context.metrics.text() + generate_latest(figures) + workers, media_type=CONTENT_TYPE_LATEST)


async def _worker_figures(context: Context) -> bytes:
    """The totals that workers tell of themselves with their heartbeats."""
    found: dict[str, GaugeMetricFamily] = {}
    for worker in await context.jobs.workers():
        for name, value in worker.metrics.items():
            family = found.setdefault(
                name, GaugeMetricFamily(f"convscope_worker_{name}", "As its worker says.", labels=["worker", "device"])
            )
            family.add_metric([worker.id, worker.device], value)
        ready = found.setdefault(
            "ready", GaugeMetricFamily("convscope_worker_ready", "Whether it can compute.", labels=["worker", "device"])
        )
        ready.add_metric([worker.id, worker.device], float(worker.ready))
    registry = CollectorRegistry()
    registry.register(_Families(list(found.values())))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: list[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> Any:
        """As they are."""
        return iter(self._families)
