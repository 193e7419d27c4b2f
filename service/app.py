"""Wiring: settings in, application out. Every module of service/routes with a `router` is part of it."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import structlog
from fastapi import Depends, FastAPI
from fastapi.routing import APIRouter
from redis.asyncio import Redis
from starlette.middleware.cors import CORSMiddleware

from convscope import __version__
from convscope.protocol.problems import ProblemError
from convscope.queue.connection import connect
from convscope.queue.events import ChangeFeed, Events
from convscope.queue.jobs import JobLimits, Jobs
from convscope.queue.server_version import read_version
from convscope.settings import Settings
from convscope.store.archive import Archive
from convscope.store.artifacts import Artifacts
from convscope.store.card_store import CardStore
from convscope.store.image_sets import ImageSets
from convscope.store.images import Images
from convscope.store.uploaded_networks import UploadedNetworks
from service import routes
from service.context import Context
from service.dependencies import no_repeats
from service.http import problems
from service.http.auth import Callers
from service.http.methods import HeadAndOptions
from service.http.metrics import Metrics
from service.http.request_log import RequestLog
from service.http.strangers import Strangers
from service.http.tokens import Tokens
from service.memory import Memory
from service.openapi import document
from service.results.arrays import Results
from service.results.rendering import Renderer

log = structlog.get_logger("service")

LOOK_AGAIN_S = 2.0
DESCRIPTION = """What a convolutional network sees, over HTTP: feature maps, kernels, deconvnet projections, saliency,
class activation maps, images that maximize a channel, CKA matrices; as pictures, numbers or raw arrays.

Short work is answered in the same request; long work is a job to be polled, followed live and cancelled."""


READABLE = (
    "Accept-Ranges", "Allow", "Content-Location", "Content-Range", "ETag", "Link", "Location", "Preference-Applied",
    "RateLimit", "RateLimit-Policy", "Retry-After", "Server-Timing", "X-Request-ID",
)  # fmt: skip
"""Headers that pages of other origins may read."""


def routers() -> list[APIRouter]:
    """The router of every module in service/routes, by the modules' names."""
    found = []
    for module in sorted(pkgutil.iter_modules(routes.__path__), key=lambda each: each.name):
        router = getattr(importlib.import_module(f"{routes.__name__}.{module.name}"), "router", None)
        if router is not None:
            found.append(router)
    return found


def create_app(settings: Settings) -> FastAPI:
    """The application; it connects when it starts, not before.

    Raises:
        ValueError, OSError: the key file cannot be used.
    """
    metrics = Metrics()
    callers = Callers.read(settings.api_keys_file, _tokens(settings))
    app = FastAPI(
        title="Convscope",
        version=__version__,
        description=DESCRIPTION,
        lifespan=partial(_lifespan, settings=settings, metrics=metrics, callers=callers),
        redirect_slashes=False,
        dependencies=[Depends(no_repeats)],
        redoc_url=None,
        docs_url=None,
    )
    problems.install(app)
    for router in routers():
        app.include_router(router)
    app.add_middleware(HeadAndOptions)
    origins = settings.origins
    if origins:
        # No credentials: a key is a header that the page itself sets, not a cookie that its visitor's browser adds.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST", "PUT", "DELETE"),
            allow_headers=("*",),
            expose_headers=READABLE,
            max_age=600,
        )
    app.add_middleware(Strangers, hosts=settings.host_names, origins=origins)
    app.add_middleware(RequestLog, metrics=metrics)  # the last one added is the outermost
    app.openapi = partial(document, app)  # type: ignore[method-assign]
    return app


def _tokens(settings: Settings) -> Tokens | None:
    if settings.oidc_issuer is None or settings.oidc_audience is None:
        return None
    return Tokens(settings.oidc_issuer, settings.oidc_audience)


@asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings, metrics: Metrics, callers: Callers) -> AsyncIterator[None]:
    if settings.redis_url is None:
        raise ValueError("CONVSCOPE_REDIS_URL is not set; `convscope serve` starts a server of its own")
    async with AsyncExitStack() as stack:
        redis: Any = connect(settings.redis_url)
        stack.push_async_callback(redis.aclose)
        artifacts = Artifacts.open(settings.artifacts_location, **settings.store_bounds)
        changes = await stack.enter_async_context(ChangeFeed(settings.redis_url))
        results = Results(artifacts)
        renderer = Renderer(results, metrics)
        stack.callback(renderer.close)
        app.state.context = Context(
            settings=settings,
            artifacts=artifacts,
            images=Images(redis, artifacts, settings.keep_images_s, round(settings.caller_store_gib * 2**30)),
            image_sets=ImageSets(redis, artifacts, settings.keep_images_s),
            jobs=Jobs(redis, JobLimits.from_settings(settings), Archive(artifacts)),
            events=Events(redis),
            changes=changes,
            cards=CardStore(redis),
            networks=UploadedNetworks(
                redis, artifacts, settings.caller_networks, round(settings.caller_networks_gib * 2**30)
            ),
            callers=callers,
            metrics=metrics,
            results=results,
            renderer=renderer,
            memory=Memory(settings.service_memory_mib << 20),
            stopping=asyncio.Event(),
        )
        look = asyncio.create_task(_look_at_server(redis))
        stack.callback(look.cancel)
        yield


async def _look_at_server(redis: Redis) -> None:
    """Say in the log which server the queue speaks to, as soon as it answers."""
    while True:
        try:
            found = await read_version(redis)
        except ProblemError:
            await asyncio.sleep(LOOK_AGAIN_S)
            continue
        if found is not None and not found.enough:
            log.error("queue_server_too_old", found=str(found), detail=found.trouble)
        else:
            log.info("queue_server", found=str(found or "unknown"))
        return
