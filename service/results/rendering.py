"""Pictures of stored results: which ones, drawn in threads, kept while they are asked for."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import partial

from convscope import __version__
from convscope.protocol.operations import operations
from convscope.protocol.pictures import Picture
from convscope.protocol.problems import ProblemError, invalid_field
from convscope.protocol.results import Manifest
from convscope.recent import Recent
from convscope.render import MOST_STACKED, RenderOptions, stack
from convscope.render.options import plan
from service.http.metrics import Metrics
from service.results.arrays import Results, array_infos

PICK = "/query/pick"
"""Where a request names one picture of a result."""
CACHE_BYTES = 64 * 1024 * 1024
_TIMES_KEPT = 1024


@dataclass(frozen=True)
class Drawing:
    """A finished picture; `ms` is the time it took to draw, also where it was drawn earlier."""

    png: bytes
    ms: float


class Renderer:
    """Draws results when somebody reads them."""

    def __init__(self, results: Results, metrics: Metrics) -> None:
        self._results = results
        self._metrics = metrics
        self._threads = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="render")
        # Arrays are read before a thread is free to draw them; this bounds how many lie in memory.
        self._room = asyncio.Semaphore(2 * self._threads)
        self._drawn: Recent[tuple[object, ...], Drawing] = Recent(CACHE_BYTES)
        self._times: Recent[str, float] = Recent(_TIMES_KEPT)

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def rendered_ms(self, manifest_key: str | None) -> float | None:
        """How long the last picture of that result took here, ms; None where none was drawn."""
        return self._times.get(manifest_key) if manifest_key is not None else None

    async def draw(self, key: str, manifest: Manifest, pick: str | None, options: RenderOptions) -> Drawing:
        """The picture of a result, by its manifest and the manifest's key.

        Raises:
            ProblemError: `invalid-request`, `too-expensive`, `gone`, `store-unavailable`.
        """
        identity = (key, pick, *asdict(options).values())
        found = self._drawn.get(identity)
        if found is not None:
            self._metrics.pictures_cached.inc()
            return found
        chosen = choose(manifest, pick)
        shown = chosen[:MOST_STACKED]
        overlaid = {each.image for each in shown if plan(each, options).view == "overlay"} - {None}
        async with self._room:
            arrays = await self._results.drawn(manifest, shown)
            uploads = {image: await self._results.upload(manifest, image) for image in overlaid if image is not None}
            started = time.perf_counter()
            work = partial(stack, chosen, arrays.__getitem__, uploads.get, options)
            png = await asyncio.get_running_loop().run_in_executor(self._pool, work)
        seconds = time.perf_counter() - started
        drawing = Drawing(png, round(1000 * seconds, 1))
        self._metrics.rendered.labels(manifest.operation).observe(seconds)
        self._drawn.put(identity, drawing, len(png))
        self._times.put(key, drawing.ms)
        return drawing


def version() -> str:
    """What identifies the code that draws, for entity tags."""
    return __version__


def choose(manifest: Manifest, pick: str | None) -> list[Picture]:
    """The pictures of a result that are asked for: one item, one layer with all its images, or all.

    Raises:
        ProblemError: `not-acceptable` where the result has no picture; `invalid-request` where none has that name.
    """
    operation = operations().get(manifest.operation)
    infos = array_infos(manifest)
    drawable = [] if operation is None else operation.pictures(manifest.request, manifest.facts, infos)
    if not drawable:
        raise ProblemError("not-acceptable", f"There is no picture of this {manifest.operation}.", possible=[])
    if pick is None:
        return drawable
    chosen = [picture for picture in drawable if picture.name == pick]
    chosen = chosen or [picture for picture in drawable if picture.name.startswith(f"{pick}/")]
    if not chosen and pick.isdecimal() and int(pick) < len(drawable):
        chosen = [drawable[int(pick)]]
    if chosen:
        return chosen
    names = [picture.name for picture in drawable]
    near = get_close_matches(pick, names, n=5, cutoff=0.4)
    detail = f"There is no picture {pick[:100]!r}; possible: {', '.join((near or names)[:10])}."
    raise invalid_field(PICK, detail, possible=names[:256])
