"""Pictures of stored results: which ones, drawn in threads, kept while they are asked for."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
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
from convscope.render import Arrays, Format, RenderOptions, Upload, on_one_page, stack, vector
from convscope.render.extent import extent
from convscope.render.options import plan
from convscope.render.stopping import stops_when
from service.http.metrics import Metrics
from service.http.negotiation import JPEG, PNG, SVG, WEBP
from service.http.turns import Turns
from service.results.arrays import Results, array_infos, stored_array

PICK = "/query/pick"
"""Where a request names one picture of a result."""
CACHE_BYTES = 64 * 1024 * 1024
MOST_PIXELS = 128_000_000
"""Drawn at once, with the numbers that are read for it: twice the largest page, at about ten bytes each."""
LARGE_PIXELS = 4_000_000
"""A larger picture takes half a second or more."""
WAIT_S = 60.0
_FILES: dict[str, Format] = {PNG: "PNG", WEBP: "WEBP", JPEG: "JPEG"}
_TIMES_KEPT = 1024


@dataclass(frozen=True)
class Drawing:
    """A finished picture; `ms` is the time it took to draw, also where it was drawn earlier."""

    data: bytes
    ms: float


class Renderer:
    """Draws results when somebody reads them."""

    def __init__(self, results: Results, metrics: Metrics) -> None:
        self._results = results
        self._metrics = metrics
        threads = max(2, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="render")
        self._all = Turns(MOST_PIXELS, "being drawn", WAIT_S)
        # One thread stays for what is small, however many large pictures are asked for.
        self._large = Turns(threads - 1, "being drawn", WAIT_S)
        self._small = Turns(threads, "being drawn", WAIT_S)
        self._drawn: Recent[tuple[object, ...], Drawing] = Recent(CACHE_BYTES)
        self._times: Recent[str, float] = Recent(_TIMES_KEPT)

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def rendered_ms(self, manifest_key: str | None) -> float | None:
        """How long the last picture of that result took here, ms; None where none was drawn."""
        return self._times.get(manifest_key) if manifest_key is not None else None

    async def draw(
        self, key: str, manifest: Manifest, pick: str | None, options: RenderOptions, media: str = PNG
    ) -> Drawing:
        """The picture of a result, by its manifest and the manifest's key.

        Raises:
            ProblemError: `invalid-request`, `too-expensive`, `gone`, `store-unavailable`.
        """
        identity = (key, pick, media, *asdict(options).values())
        found = self._drawn.get(identity)
        if found is not None:
            self._metrics.pictures_cached.inc()
            return found
        chosen = choose(manifest, pick)
        shown = on_one_page(chosen, options)
        views = [plan(each, options).view for each in shown]
        overlaid = {each.image for each, view in zip(shown, views, strict=True) if view == "overlay"} - {None}
        pixels = _extent(manifest, shown, options)
        threads = self._large if pixels > LARGE_PIXELS else self._small
        with self._metrics.drawing.track_inprogress():
            try:
                async with self._all.turn(pixels), threads.turn(1):
                    arrays = await self._results.drawn(manifest, shown, views)
                    uploads = {
                        each: await self._results.upload(manifest, each) for each in overlaid if each is not None
                    }
                    work = _work(chosen, arrays.__getitem__, uploads.get, options, media)
                    data, seconds = await self._in_thread(work)
            except asyncio.CancelledError:
                self._metrics.pictures_unwanted.inc()
                raise
        drawing = Drawing(data, round(1000 * seconds, 1))
        self._metrics.rendered.labels(manifest.operation).observe(seconds)
        self._drawn.put(identity, drawing, len(data))
        self._times.put(key, drawing.ms)
        return drawing

    async def _in_thread(self, work: Callable[[], bytes]) -> tuple[bytes, float]:
        """What is drawn in a thread, and in how many seconds; cancelled, once the thread has stopped."""
        unwanted = threading.Event()

        def draw() -> tuple[bytes, float]:
            with stops_when(unwanted.is_set):
                started = time.perf_counter()
                return work(), time.perf_counter() - started

        drawing = asyncio.get_running_loop().run_in_executor(self._pool, draw)
        try:
            return await asyncio.shield(drawing)
        except asyncio.CancelledError:
            unwanted.set()
            # The turn is given back when memory and thread are: the last piece of it is short.
            await asyncio.wait({drawing})
            if not drawing.cancelled():
                drawing.exception()
            raise


def _work(
    pictures: Sequence[Picture],
    arrays: Arrays,
    uploads: Callable[[int], Upload | None],
    options: RenderOptions,
    media: str,
) -> Callable[[], bytes]:
    """What makes the file of that media type."""
    if media == SVG:
        return partial(vector, pictures, arrays, options)
    return partial(stack, pictures, arrays, uploads, options, _FILES[media])


def _extent(manifest: Manifest, pictures: Sequence[Picture], options: RenderOptions) -> int:
    return extent(
        pictures,
        lambda name: stored_array(manifest, name).shape,
        lambda image: (manifest.images[image].height, manifest.images[image].width),
        options,
    )


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
    chosen = [picture for picture in drawable if pick in (picture.name, *picture.also)]
    if not chosen:
        chosen = [one for one in drawable if any(name.startswith(f"{pick}/") for name in (one.name, *one.also))]
    if not chosen and pick.isdecimal() and int(pick) < len(drawable):
        chosen = [drawable[int(pick)]]
    if chosen:
        return chosen
    names = [picture.name for picture in drawable]
    near = get_close_matches(pick, names, n=5, cutoff=0.4)
    detail = f"There is no picture {pick[:100]!r}; possible: {', '.join((near or names)[:10])}."
    raise invalid_field(PICK, detail, possible=names[:256])
