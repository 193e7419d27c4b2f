"""What a quick request costs beyond its compute: HTTP, upload, queue, worker, store and back, on one connection.

Run: python -m bench.latency
"""

from __future__ import annotations

import io
import json
import statistics
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
import skimage.data
from PIL import Image

from bench.report import report
from bench.serving import served

JSON, PNG = "application/json", "image/png"
Bodies = Sequence[tuple[bytes, str]]
REQUESTS = 100
WARM_UP = 10
TARGET_MS = 15.0


class Client:
    """One kept connection of the standard library, whose own cost is a fraction of a millisecond."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        assert parts.hostname is not None
        self._connection = HTTPConnection(parts.hostname, parts.port, timeout=60)

    def post(self, path: str, body: bytes, content_type: str, accept: str) -> tuple[bytes, str]:
        """The answer's body and the path of its result."""
        headers = {"Content-Type": content_type, "Accept": accept, "Cache-Control": "no-cache"}
        self._connection.request("POST", path, body, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status not in (200, 201, 202):
            raise RuntimeError(f"{path} answered {answer.status}: {text[:500]!r}")
        return text, answer.headers.get("Content-Location", "")

    def get(self, path: str) -> bytes:
        """The body at a path, as JSON."""
        self._connection.request("GET", path, headers={"Accept": JSON})
        return self._connection.getresponse().read()


def photograph(number: int) -> bytes:
    """A JPEG file of about 50 kB, another one for each number."""
    buffer = io.BytesIO()
    Image.fromarray(np.roll(skimage.data.coffee(), number, axis=1)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def form(image: bytes, fields: dict[str, str]) -> tuple[bytes, str]:
    """A multipart body with the file in it, and its content type."""
    request = httpx2.Request("POST", "http://-/", files={"image": ("a.jpg", image, "image/jpeg")}, data=fields)
    return request.read(), request.headers["content-type"]


def measure(client: Client, work: str, path: str, bodies: Bodies, accept: str = JSON) -> dict[str, Any]:
    """Median and 99th percentile of total minus computed over fresh requests, the bodies (with types) taking turns."""
    totals, beyond = [], []
    for turn in range(REQUESTS + WARM_UP):
        body, content_type = bodies[turn % len(bodies)]
        began = time.perf_counter()
        text, result = client.post(path, body, content_type, accept)
        total_ms = (time.perf_counter() - began) * 1000
        job = json.loads(text if accept == JSON else client.get(result))
        if turn >= WARM_UP:
            totals.append(total_ms)
            beyond.append(total_ms - job["timings_ms"]["computed"])
    return {
        "work": work,
        "requests": REQUESTS,
        "total_median_ms": statistics.median(totals),
        "beyond_compute_median_ms": statistics.median(beyond),
        "beyond_compute_p99_ms": sorted(beyond)[int(0.99 * len(beyond))],
        "target_ms": TARGET_MS,
    }


def main() -> None:
    """Measure and report."""
    photographs = [photograph(number) for number in range(REQUESTS + WARM_UP)]
    maps = {"layer": "blocks.3", "channels": "first:8"}
    with served() as address:
        client = Client(address)
        uploaded = json.loads(client.post("/v1/images", *form(photographs[0], {}), JSON)[0])
        known = {"image": {"id": uploaded["id"]}}
        by_id = [[(json.dumps(known | more).encode(), JSON)] for more in ({}, maps)]
        again = [form(photographs[0], maps)]
        rows = [
            measure(client, "classify, image by id", "/v1/classify", by_id[0]),
            measure(client, "feature-maps, image by id", "/v1/feature-maps", by_id[1]),
            measure(client, "classify, image sent again", "/v1/classify", [form(photographs[0], {})]),
            measure(client, "feature-maps, image sent again", "/v1/feature-maps", again),
            measure(client, "feature-maps, image sent again, as PNG", "/v1/feature-maps", again, PNG),
            measure(client, "cam, image sent again", "/v1/cam", [form(photographs[0], {})]),
            measure(client, "classify, new image each time", "/v1/classify", [form(each, {}) for each in photographs]),
        ]
    report("latency", rows)


if __name__ == "__main__":
    main()
