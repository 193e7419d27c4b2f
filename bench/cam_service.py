"""Sixteen clients that want Grad-CAM overlays: Convscope with one worker, and a plain FastAPI endpoint, on one machine.

Run: python -m bench.cam_service

Every request carries a photograph that nobody has sent before (a crop), so that nothing comes from a cache. Both sides
answer with the overlay as PNG at the photograph's size, from the same network.
"""

from __future__ import annotations

import io
import itertools
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import skimage.data
from PIL import Image

from bench.report import report
from bench.serving import served

CLIENTS = 16
SECONDS = 20.0
WARMUP_S = 4.0


def photographs() -> Iterator[bytes]:
    """JPEG files of 400×300 crops, no two alike."""
    whole = Image.fromarray(skimage.data.coffee())
    for turn in itertools.count():
        left, top = turn % 200, (turn // 200) % 100
        buffer = io.BytesIO()
        whole.crop((left, top, left + 400, top + 300)).save(buffer, "JPEG", quality=90 + (turn // 20_000) % 8)
        yield buffer.getvalue()


def drive(address: str, path: str, headers: dict[str, str]) -> dict[str, float]:
    """Sixteen clients, each sending its next request when the last is answered: requests a second and latencies."""
    files = photographs()
    turn = threading.Lock()
    times: list[tuple[float, float]] = []
    failures: list[str] = []
    began = time.perf_counter()
    end = began + WARMUP_S + SECONDS

    def client() -> None:
        with httpx2.Client(base_url=address, timeout=60, trust_env=False) as connection:
            while (start := time.perf_counter()) < end:
                with turn:
                    photograph = next(files)
                answer = connection.post(path, files={"image": ("a.jpg", photograph, "image/jpeg")}, headers=headers)
                if answer.status_code != 200 or not answer.content.startswith(b"\x89PNG"):
                    failures.append(f"{answer.status_code} {answer.text[:200]}")
                times.append((start, time.perf_counter()))

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError(f"{len(failures)} requests failed, the first with {failures[0]}")
    measured = [(start, stop) for start, stop in times if began + WARMUP_S <= stop <= end]
    latencies = sorted(stop - start for start, stop in measured)
    return {
        "requests_per_s": len(measured) / SECONDS,
        "median_ms": 1000 * statistics.median(latencies),
        "p99_ms": 1000 * latencies[int(0.99 * len(latencies))],
    }


@contextmanager
def plain_service() -> Iterator[str]:
    """The endpoint of bench/plain_cam_service.py in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "bench.plain_cam_service:app",
        "--port",
        str(port),
        "--log-level",
        "error",
    ]
    process = subprocess.Popen(command, env=os.environ.copy())
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the plain service did not start") from None
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def main() -> None:
    """Measure and report."""
    with plain_service() as address:
        theirs = drive(address, "/cam", {})
    with served() as address:
        ours = drive(address, "/v1/cam?view=overlay", {"Accept": "image/png", "Prefer": "wait=50"})
    row: dict[str, Any] = {
        "work": f"cam overlays, {CLIENTS} clients, efficientnet_lite0",
        "ours_s": 1 / ours["requests_per_s"],
        "peer": "plain FastAPI + pytorch-grad-cam",
        "peer_s": 1 / theirs["requests_per_s"],
        "target": 2.0,
    }
    row |= {f"ours_{name}": value for name, value in ours.items()}
    row |= {f"peer_{name}": value for name, value in theirs.items()}
    report("cam_service", [row])


if __name__ == "__main__":
    main()
