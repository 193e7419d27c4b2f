"""What a quick request costs beyond its compute: HTTP, upload, queue, worker, store and back, on one connection.

Run: python -m bench.latency
"""

from __future__ import annotations

import io
import statistics
import time
from typing import Any

import httpx2
import skimage.data
from PIL import Image

from bench.report import report
from bench.serving import served

REQUESTS = 100
TARGET_MS = 15.0


def measure(client: httpx2.Client, operation: str, photograph: bytes, accept: str, **fields: str) -> dict[str, Any]:
    """Median and 99th percentile of total minus computed, over fresh requests with the upload in each."""
    totals, beyond = [], []
    for turn in range(REQUESTS + 10):
        began = time.perf_counter()
        answer = client.post(
            f"/v1/{operation}",
            files={"image": ("image.jpg", photograph, "image/jpeg")},
            data=fields,
            headers={"Cache-Control": "no-cache", "Accept": accept},
        )
        total_ms = (time.perf_counter() - began) * 1000
        answer.raise_for_status()
        job = client.get(answer.headers["content-location"]).json() if accept != "application/json" else answer.json()
        if turn >= 10:
            totals.append(total_ms)
            beyond.append(total_ms - job["timings_ms"]["computed"])
    ordered = sorted(beyond)
    return {
        "work": f"{operation} as {accept.partition('/')[2]}",
        "requests": REQUESTS,
        "total_median_ms": statistics.median(totals),
        "beyond_compute_median_ms": statistics.median(beyond),
        "beyond_compute_p99_ms": ordered[int(0.99 * len(ordered))],
        "target_ms": TARGET_MS,
    }


def main() -> None:
    """Measure and report."""
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.coffee()).save(buffer, "JPEG", quality=90)
    photograph = buffer.getvalue()
    with served() as address, httpx2.Client(base_url=address, timeout=60, trust_env=False) as client:
        rows = [
            measure(client, "classify", photograph, "application/json"),
            measure(client, "feature-maps", photograph, "application/json", layer="blocks.3", channels="first:8"),
            measure(client, "cam", photograph, "application/json"),
        ]
    report("latency", rows)


if __name__ == "__main__":
    main()
