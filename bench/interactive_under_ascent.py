"""How long quick requests wait while sixteen ascents saturate the one worker, in slices of those ascents.

Run: python -m bench.interactive_under_ascent

A slice is one step of one picture (`exact` on a CPU steps one at a time); what it takes is seen from outside, by the
steps that all jobs make in some seconds without other work. What a quick request waits beyond its own compute is said
for the idle and for the busy worker: the first is the way through HTTP, queue and store. Under load the processes of
service and queue also share the processor with the ascents, and with whatever else the machine does (`load_average`).
"""

from __future__ import annotations

import io
import json
import os
import statistics
import time
from typing import Any

import skimage.data
from PIL import Image

from bench.latency import JSON, Client, form
from bench.report import report
from bench.serving import served

JOBS = 16
IDLE, BUSY = 40, 150
WATCH_S = 15.0
TARGET_SLICES = 2.0
START_DEADLINE_S = 120.0


def quick(client: Client, image: str, count: int) -> dict[str, list[float]]:
    """Milliseconds beyond their own compute of `count` requests of each kind, one after another."""
    bodies: dict[str, dict[str, Any]] = {"classify": {}, "feature-maps": {"layer": "blocks.3", "channels": "first:8"}}
    beyond: dict[str, list[float]] = {name: [] for name in bodies}
    for turn in range(count + 5):
        for name, body in bodies.items():
            asked = json.dumps({"image": {"id": image}} | body).encode()
            began = time.perf_counter()
            text, _ = client.post(f"/v1/{name}", asked, JSON, JSON)
            total_ms = 1000 * (time.perf_counter() - began)
            if turn >= 5:
                beyond[name].append(total_ms - json.loads(text)["timings_ms"]["computed"])
    return beyond


def steps_done(client: Client, jobs: list[str]) -> list[float]:
    """Steps that each ascent has made."""
    return [float(json.loads(client.get(f"/v1/jobs/{job}"))["progress"]["done"]) for job in jobs]


def slice_ms(client: Client, jobs: list[str]) -> float:
    """Milliseconds of a slice, from the steps of some seconds without other work; first waits until all move."""
    deadline = time.monotonic() + START_DEADLINE_S
    while not all(steps_done(client, jobs)):
        if time.monotonic() > deadline:
            raise RuntimeError("not every ascent began")
        time.sleep(0.5)
    before, began = sum(steps_done(client, jobs)), time.perf_counter()
    time.sleep(WATCH_S)
    return 1000 * (time.perf_counter() - began) / (sum(steps_done(client, jobs)) - before)


def main() -> None:
    """Measure and report."""
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.coffee()).save(buffer, "JPEG", quality=90)
    with served() as address:
        client = Client(address)
        uploaded = json.loads(client.post("/v1/images", *form(buffer.getvalue(), {}), JSON)[0])
        idle = quick(client, uploaded["id"], IDLE)
        jobs = []
        for channel in range(JOBS):
            asked = {"objective": {"layer": "blocks.4", "channel": channel}, "steps": 10_000}
            jobs.append(json.loads(client.post("/v1/maximize", json.dumps(asked).encode(), JSON, JSON)[0])["id"])
        slices = [slice_ms(client, jobs)]
        busy = quick(client, uploaded["id"], BUSY)
        slices.append(slice_ms(client, jobs))
    one = statistics.median(slices)
    rows = []
    for name, waits in busy.items():
        waits.sort()
        row: dict[str, Any] = {
            "work": f"{name} beside {JOBS} ascents",
            "requests": len(waits),
            "slice_ms": one,
            "idle_beyond_compute_median_ms": statistics.median(idle[name]),
            "idle_beyond_compute_p99_ms": sorted(idle[name])[int(0.99 * len(idle[name]))],
            "beyond_compute_median_ms": statistics.median(waits),
            "beyond_compute_p99_ms": waits[int(0.99 * len(waits))],
        }
        row["slices_median"] = row["beyond_compute_median_ms"] / one
        row["slices_p99"] = row["beyond_compute_p99_ms"] / one
        row["share_within_target"] = sum(wait <= TARGET_SLICES * one for wait in waits) / len(waits)
        row["load_average"] = os.getloadavg()[0]
        rows.append(row | {"target_slices": TARGET_SLICES})
    report("interactive_under_ascent", rows)


if __name__ == "__main__":
    main()
