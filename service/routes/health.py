"""Whether the service lives and can work, its figures for Prometheus, and its pages for people."""

from __future__ import annotations

import asyncio
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry
from pydantic import BaseModel, Field
from redis.exceptions import RedisError
from starlette.responses import HTMLResponse, RedirectResponse, Response

from convscope.protocol.jobs import QueueStats
from convscope.protocol.keys import key
from convscope.protocol.problems import PROBLEMS, ProblemError
from service import openapi
from service.context import Context
from service.dependencies import ContextDependency
from service.negotiation import JSON, accepted
from service.pages import ADDRESS, docs_page, problem_page
from service.problems import documented
from service.views import workers_online

router = APIRouter(tags=["health"])

PROBE_S = 2.0
_PROBE_KEPT_S = 10


class Alive(BaseModel):
    """The process answers."""

    status: str = "ok"


class Ready(BaseModel):
    """The service can take work."""

    status: str = "ok"
    redis: str = "ok"
    store: str = "ok"
    workers: int = Field(description="Live workers. Without one, work waits; the service is ready all the same.")


@router.get("/livez", operation_id="live")
async def live() -> Alive:
    """Whether the process answers; asks nobody else."""
    return Alive()


@router.get("/readyz", operation_id="ready", responses=documented("queue-unavailable", "store-unavailable"))
async def ready(context: ContextDependency) -> Ready:
    """Whether the queue and the artifact store can be written, and how many workers live."""
    online, _ = await asyncio.gather(_probe_queue(context), context.artifacts.check_writable())
    return Ready(workers=online)


async def _probe_queue(context: Context) -> int:
    try:
        async with asyncio.timeout(PROBE_S):
            await context.redis.set(key("probe"), "1", ex=_PROBE_KEPT_S)
            return await workers_online(context)
    except TimeoutError as error:
        raise ProblemError(
            "queue-unavailable", f"The queue did not answer within {PROBE_S:g} s.", retry_after_s=2
        ) from error


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


_PAGE: dict[int | str, dict[str, Any]] = {200: openapi.answer("A page.", {"text/html": {"schema": {"type": "string"}}})}


@router.get("/docs", operation_id="docs", response_class=HTMLResponse, responses=_PAGE)
async def docs(request: Request) -> HTMLResponse:
    """What there is, for people; made of the OpenAPI document, without anything from elsewhere."""
    if not hasattr(request.app.state, "docs_page"):
        request.app.state.docs_page = docs_page(request.app.openapi())
    page: str = request.app.state.docs_page
    return HTMLResponse(page.replace(ADDRESS, escape(str(request.base_url).rstrip("/"))), headers={"Vary": "Host"})


@router.get("/", include_in_schema=False)
async def front() -> RedirectResponse:
    """To the page for people."""
    return RedirectResponse("/docs")


@router.get(
    "/problems/{name}",
    operation_id="read-problem",
    response_class=HTMLResponse,
    responses={
        200: openapi.answer(
            "What the problem means and what to do.",
            {"text/html": {"schema": {"type": "string"}}, **openapi.json_content({"type": "object"})},
        ),
        **documented("not-found", "not-acceptable"),
    },
)
async def problem(request: Request, name: str) -> Response:
    """The page of a type of problem."""
    found = PROBLEMS.get(name)
    if found is None:
        raise ProblemError("not-found", f"There is no problem {escape(name[:100])!r}.", possible=sorted(PROBLEMS))
    if accepted(request.headers.get("accept"), ["text/html", JSON]) == JSON:
        return openapi_json(found)
    return HTMLResponse(problem_page(found))


def openapi_json(found: Any) -> Response:
    """A type of problem as JSON."""
    from service.results import json_bytes

    body = {"type": found.path, "title": found.title, "status": found.status, "advice": found.advice}
    return Response(json_bytes(body), media_type=JSON)
