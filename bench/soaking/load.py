"""The load of a soak: clients that post, wait, follow, reconnect, cancel and post again, each with idempotency keys."""

from __future__ import annotations

import asyncio
import io
import json
import random
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2
import numpy as np
from PIL import Image

CANCELLED_SHARE, REPEATED_SHARE, CRASHED_SHARE, DROPPED_SHARE = 0.05, 0.05, 0.01, 0.3
FINISHED = ("succeeded", "failed", "cancelled", "expired")
QUICK: tuple[tuple[str, dict[str, Any]], ...] = (
    ("classify", {"top": 3}),
    ("feature-maps", {"layer": "blocks.2", "channels": [0, 1, 2]}),
    ("kernels", {"filters": [0, 1]}),
    ("saliency", {"method": "gradient"}),
    ("cam", {"methods": ["gradcam"]}),
)
PAUSE_S = 0.2
FLOOD, FLOOD_EVERY_S = 36, 20.0
SAME_EVERY_S = 0.05


@dataclass
class Ask:
    """One job as its client knows it; times by this process's monotonic clock."""

    operation: str
    body: dict[str, Any]
    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    job_id: str = ""
    asked: float = 0.0
    answered: float | None = None
    cancelled: float | None = None
    cancel_seen: float | None = None
    cancel_state: str = ""
    crash: bool = False
    problem: str = ""
    gaps: int = 0
    resets: int = 0
    steps_back: int = 0
    beside_flood: bool = False

    @property
    def same(self) -> str:
        """What has to give the same result."""
        return json.dumps([self.operation, self.body], sort_keys=True)


class Load:
    """Clients on one service, until told to stop.

    Args:
        url: the service.
        choice: decides everything, so that a seed repeats it.
        steps: of a long job.
    """

    def __init__(self, url: str, choice: random.Random, steps: int) -> None:
        limits = httpx2.Limits(max_connections=64, max_keepalive_connections=16)
        self.http = httpx2.AsyncClient(base_url=url, timeout=70, trust_env=False, limits=limits)
        self.asked: list[Ask] = []
        self.different_ids = 0
        self.retries = 0
        self.refused = 0
        self.reconnects = 0
        self.crash_wanted = asyncio.Event()
        self.flooded: list[str] = []
        self.same_again = 0
        self.same_ids: set[str] = set()
        self._flooding = False
        self.stopping = asyncio.Event()
        self._choice = choice
        self._steps = steps
        self._images: list[str] = []

    async def prepare(self) -> None:
        """Upload the images that all requests are about; also waits until the first one is answered."""
        for seed in range(4):
            pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC).save(buffer, "PNG")
            answer = await self.http.post("/v1/images", files={"image": ("a.png", buffer.getvalue(), "image/png")})
            answer.raise_for_status()
            self._images.append(answer.json()["id"])
        (await self.http.post("/v1/classify", json={"image": {"id": self._images[0]}})).raise_for_status()

    def quick(self) -> Ask:
        """Some interactive request."""
        operation, body = self._choice.choice(QUICK)
        if operation != "kernels":
            body = {**body, "image": {"id": self._choice.choice(self._images)}}
        return Ask(operation, body)

    def long(self) -> Ask:
        """One of a few ascents; each is asked for again and again, and must come to the same bits."""
        seed = self._choice.randrange(4)
        objective = {"layer": "blocks.2", "channel": seed}
        body = {"objective": objective, "size": 64, "steps": self._steps + 20 * seed, "seed": seed, "preset": "lucid"}
        return Ask("maximize", body)

    async def clients(self, quick: int, long: int) -> None:
        """So many clients of each kind, until `stopping` is set and the last is answered."""
        await asyncio.gather(
            *(self._go_on(self.quick) for _ in range(quick)), *(self._go_on(self.long) for _ in range(long))
        )

    async def floods(self) -> None:
        """Again and again many dear requests at once, each enough to keep a worker busy; cancelled after a while."""
        while not self.stopping.is_set():
            await self._pause(FLOOD_EVERY_S)
            body = {"stride": 4, "image": {"id": self._images[0]}}
            headers = {"Prefer": "respond-async", "Cache-Control": "no-cache"}
            answers = [
                await self._tried("POST", "/v1/occlusion", json={**body, "seed": seed}, headers=headers)
                for seed in range(FLOOD)
            ]
            ids = [str(answer.json()["id"]) for answer in answers if answer.status_code == 202]
            self.flooded += ids
            self._flooding = True
            await self._pause(FLOOD_EVERY_S)
            self._flooding = False
            for job_id in ids:
                await self._tried("POST", f"/v1/jobs/{job_id}/cancel")

    async def again(self) -> None:
        """The same request again and again, as fast as it is answered."""
        while not self.stopping.is_set():
            answer = await self._tried("POST", "/v1/classify", json={"image": {"id": self._images[0]}, "top": 2})
            if answer.status_code == 200:
                self.same_again += 1
                self.same_ids.add(str(answer.json()["id"]))
            await asyncio.sleep(SAME_EVERY_S)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    async def _go_on(self, kind: Any) -> None:
        while not self.stopping.is_set():
            ask = kind()
            self.asked.append(ask)
            await self.one(ask)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), self._choice.uniform(0, 2 * PAUSE_S))

    async def one(self, ask: Ask) -> None:
        """A job from its request to its end, with whatever its client does meanwhile."""
        ask.asked = time.monotonic()
        ask.beside_flood = self._flooding
        fate = self._choice.random()
        ask.crash = self._choice.random() < CRASHED_SHARE
        if fate < REPEATED_SHARE:
            first, second = await asyncio.gather(self._submit(ask), self._submit(ask))
            self.different_ids += first != second
        else:
            first = await self._submit(ask)
        ask.job_id = first
        if not first:
            return
        if ask.crash:
            self.crash_wanted.set()
        if fate > 1 - CANCELLED_SHARE:
            await asyncio.sleep(self._choice.uniform(0, 3))
            await self._cancel(ask)
        if ask.operation == "maximize":
            await self._follow(ask)
        await self._wait(ask)

    async def _submit(self, ask: Ask) -> str:
        """Post until something is said about the job; the same key each time."""
        headers = {"Idempotency-Key": f'"{ask.key}"', "Prefer": "respond-async", "Cache-Control": "no-cache"}
        while True:
            answer = await self._tried("POST", f"/v1/{ask.operation}", json=ask.body, headers=headers)
            if answer.status_code in (200, 202):
                return str(answer.json()["id"])
            ask.problem = answer.json().get("type", "")
            if answer.status_code not in (429, 503):
                self.refused += 1
                return ""
            await asyncio.sleep(PAUSE_S)

    async def _wait(self, ask: Ask) -> None:
        while True:
            answer = await self._tried("GET", f"/v1/jobs/{ask.job_id}", params={"wait": 20})
            if answer.status_code == 404:
                ask.problem = "forgotten"
                return
            state = answer.json().get("state")
            if state in FINISHED:
                ask.answered = time.monotonic()
                if ask.cancelled is not None and state == "cancelled":
                    ask.cancel_seen = ask.answered
                return
            if answer.status_code != 200:
                await asyncio.sleep(PAUSE_S)

    async def _cancel(self, ask: Ask) -> None:
        job = await self._tried("GET", f"/v1/jobs/{ask.job_id}")
        ask.cancel_state = str(job.json().get("state", ""))
        ask.cancelled = time.monotonic()
        answer = await self._tried("POST", f"/v1/jobs/{ask.job_id}/cancel")  # DELETE would remove one that has ended
        if answer.status_code == 409:
            ask.cancelled = None

    async def _follow(self, ask: Ask) -> None:
        """Read the events to the last, coming back with the id of the last one whenever the stream ends."""
        after: int | None = 0
        done, told = False, -1.0
        while not done:
            headers = {"Last-Event-ID": str(after)} if after else {}
            leave_after = self._choice.randrange(1, 20) if self._choice.random() < DROPPED_SHARE else 10**9
            try:
                async with self.http.stream("GET", f"/v1/jobs/{ask.job_id}/events", headers=headers) as answer:
                    if answer.status_code == 404:
                        return
                    async for number, name, data in _events(answer):
                        if name == "reset":  # the queue lost its last second, or trimmed what we have not seen
                            after = None
                            ask.resets += 1
                            continue
                        ask.gaps += after is not None and number != after + 1
                        after, done = number, name == "done"
                        if name == "progress":
                            ask.steps_back += data["done"] < told
                            told = data["done"]
                        leave_after -= 1
                        if done or leave_after <= 0:
                            break
            except httpx2.HTTPError:
                self.retries += 1
            self.reconnects += not done
            await asyncio.sleep(0 if done else PAUSE_S)

    async def _tried(self, method: str, path: str, **how: Any) -> httpx2.Response:
        """A request, again and again while the service or its queue is away."""
        while True:
            try:
                answer = await self.http.request(method, path, **how)
            except httpx2.HTTPError:
                self.retries += 1
            else:
                if answer.status_code not in (502, 503) or (method == "POST" and not path.endswith("/cancel")):
                    return answer
                self.retries += 1
            await asyncio.sleep(PAUSE_S)


async def _events(answer: httpx2.Response) -> AsyncIterator[tuple[int, str, dict[str, Any]]]:
    """Number, name and data of each event of a stream."""
    number, name, data = 0, "", ""
    async for line in answer.aiter_lines():
        label, _, value = line.partition(": ")
        if label == "id":
            number = int(value)
        elif label == "event":
            name = value
        elif label == "data":
            data = value
        elif line == "" and name:
            yield number, name, json.loads(data)
            name = ""
