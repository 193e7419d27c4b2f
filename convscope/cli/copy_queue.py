"""`convscope copy-queue`: takes the queue of a data folder, or of a server, to another server."""

from __future__ import annotations

import asyncio
import sys

from convscope.cli.data_folder import DataFolder, DataFolderError, DataFolderInUseError
from convscope.cli.embedded import EmbeddedServer, EmbeddedServerError
from convscope.cli.flags import Chosen
from convscope.protocol.problems import ProblemError
from convscope.queue.connection import connect
from convscope.queue.copying import QueueThereError, copy_queue
from convscope.queue.server_version import refuse_old_server

STOP_WITHIN_S = 30.0


def copy(chosen: Chosen, source_url: str | None, *, replace: bool) -> int:
    """Copy to the server of --redis-url what the one at `source_url` has, or the embedded server of the data folder.

    Returns:
        The exit status.
    """
    target_url = chosen.settings.redis_url
    if target_url is None:
        print("convscope copy-queue: --redis-url names the server that is to get the queue", file=sys.stderr)
        return 1
    try:
        if source_url is not None:
            copied = asyncio.run(_copy(source_url, target_url, replace))
        else:
            with DataFolder(chosen.settings.data) as folder:
                if not (folder.path / "valkey").is_dir():
                    raise EmbeddedServerError(f"{folder.path} has no queue of an embedded server")
                server = EmbeddedServer(folder.path / "valkey", chosen.settings.redis_mib, _say)
                copied = asyncio.run(_copy_embedded(server, target_url, replace))
    except DataFolderInUseError as error:
        print(f"convscope copy-queue: {error}; stop that one first", file=sys.stderr)
    except QueueThereError as error:
        print(f"convscope copy-queue: {error}; --replace removes that one first", file=sys.stderr)
    except (DataFolderError, EmbeddedServerError, OSError) as error:
        print(f"convscope copy-queue: {error}", file=sys.stderr)
    except ProblemError as problem:
        print(f"convscope copy-queue: {problem.detail}", file=sys.stderr)
    else:
        print(f"{copied} keys copied")
        return 0
    return 1


async def _copy_embedded(server: EmbeddedServer, target_url: str, replace: bool) -> int:
    await server.start()
    keeper = asyncio.create_task(server.child.keep_running())
    try:
        await server.wait_until_ready()
        return await _copy(server.url, target_url, replace)
    finally:
        await server.child.stop(STOP_WITHIN_S)
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        server.clean_up()


async def _copy(source_url: str, target_url: str, replace: bool) -> int:
    async with connect(source_url) as source, connect(target_url) as target:
        await refuse_old_server(source)
        await refuse_old_server(target)
        return await copy_queue(source, target, replace=replace)


def _say(name: str, line: str) -> None:
    print(f"{name}: {line}", file=sys.stderr, flush=True)
