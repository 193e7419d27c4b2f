"""`python -m workers`: one worker as a process of its own, by the settings in the environment."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import structlog
import uvloop
from pydantic import ValidationError
from redis.asyncio import Redis

from convscope import catalogue_file, logs
from convscope.parent import die_with_parent_if_asked
from convscope.protocol.problems import ProblemError
from convscope.queue.connection import connect
from convscope.queue.server_version import read_version
from convscope.settings import SETTINGS_REFUSED, Settings, said
from convscope.store.artifacts import Artifacts
from workers.engine_config import EngineConfig
from workers.supervision.publishing import NoDefaultModelError
from workers.supervision.supervisor import Supervisor

log = structlog.get_logger("workers")


def engine_config(settings: Settings) -> EngineConfig:
    """The engine's part of the settings."""
    catalogue = catalogue_file.ensure(settings)
    return EngineConfig(
        device=settings.device,
        threads=settings.threads,
        memory_mib=settings.memory_mib,
        networks_mib=settings.networks_mib,
        result_mib=settings.result_mib,
        tile=settings.tile,
        default_model=settings.default_model,
        weights_folder=str(settings.weights_location),
        catalogue=str(catalogue) if catalogue is not None else None,
        state_folder=str(settings.data / "worker"),
    )


class OldServerError(Exception):
    """The queue's server cannot run the scripts."""


async def work(settings: Settings, config: EngineConfig) -> None:
    """Run a supervisor until SIGTERM or SIGINT."""
    assert settings.redis_url is not None
    redis = connect(settings.redis_url)
    try:
        await _look_at_server(redis)
        supervisor = Supervisor(
            settings,
            config,
            redis=redis,
            redis_url=settings.redis_url,
            artifacts=Artifacts.open(
                settings.artifacts_location,
                **settings.store_bounds,
                patience_s=min(15.0, settings.store_patience_s / 4),
            ),
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, supervisor.stop)
        await supervisor.run()
    finally:
        await redis.aclose()


async def _look_at_server(redis: Redis) -> None:
    """Say in the log which server the queue speaks to; one that is away is looked for later, by whatever needs it.

    Raises:
        OldServerError: its version is too old for any work.
    """
    try:
        found = await read_version(redis)
    except ProblemError as problem:
        log.warning("queue_unavailable", detail=problem.detail)
        return
    if found is not None and not found.enough:
        log.error("queue_server_too_old", found=str(found), detail=found.trouble)
        raise OldServerError(found.trouble)
    log.info("queue_server", found=str(found or "unknown"))


def main(config: EngineConfig | None = None) -> int:
    """Work until told to stop; the exit status. `config` replaces the engine's settings, for tests."""
    if not die_with_parent_if_asked():
        return 1
    os.umask(0o077)  # what it stores is for its user
    try:
        settings = Settings()
    except ValidationError as error:
        print(f"convscope worker: {said(error)}", file=sys.stderr)
        return SETTINGS_REFUSED
    if settings.redis_url is None:
        print("convscope worker: CONVSCOPE_REDIS_URL is needed", file=sys.stderr)
        return SETTINGS_REFUSED
    if (trouble := settings.catalogue_trouble) is not None:
        print(f"convscope worker: {trouble}", file=sys.stderr)
        return SETTINGS_REFUSED
    logs.configure(settings.log_level, settings.log_format)
    try:
        uvloop.run(work(settings, config or engine_config(settings)))
    except (NoDefaultModelError, OldServerError) as error:
        print(f"convscope worker: {error}", file=sys.stderr)
        return SETTINGS_REFUSED
    except Exception:
        log.exception("worker_failed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
