"""A soak: two workers, mixed load and faults for minutes or hours; nothing may be lost, nothing may end twice.

Workers are killed (every 20 s), the queue's server is killed and started again on its append-only file (every 5 min),
1 % of the jobs cost an engine its life, 5 % are cancelled, 5 % are sent twice with one idempotency key, and clients
lose their event streams and come back. Every 40 s one client sends 36 dear requests at once and lets go of them later;
another one asks the same as fast as it is answered. Long jobs are a few ascents asked for again and again: all must
come to the same bits, those that were never disturbed and those that were resumed.

Run: python -m bench.soak --minutes 5 --seed 0
Ends with status 1 when a job was lost, ended twice, came to different results or a key got two jobs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.report import RESULTS, machine
from bench.soaking.faults import Faults
from bench.soaking.figures import Memory, Recorder, judge
from bench.soaking.load import Load
from bench.soaking.processes import Processes

LAST_JOBS_S = 240.0
WRONG = ("lost", "twice", "different_results", "keys_with_two_jobs", "gaps_in_events", "steps_back", "refused")


async def soak(
    minutes: float,
    seed: int,
    folder: Path,
    *,
    worker_every_s: float = 20.0,
    server_every_s: float = 300.0,
    steps: int = 300,
    clients: tuple[int, int] = (3, 6),
) -> dict[str, Any]:
    """Run it and return its figures.

    Args:
        minutes: of load, without start and end.
        seed: of load and faults.
        folder: data and logs; its path must be short.
        worker_every_s, server_every_s: time between kills.
        steps: of the long jobs.
        clients: how many at once for quick and for long jobs.
    """
    choice = random.Random(seed)
    processes = Processes(folder, threads=1)
    await processes.start()
    load = Load(processes.url, choice, steps)
    faults = Faults(processes, load, choice, worker_every_s, server_every_s)
    memory = Memory(processes)
    recorder = Recorder(processes, load)
    try:
        await load.prepare()
        began = time.monotonic()
        at_work = asyncio.create_task(load.clients(*clients))
        greedy = [asyncio.create_task(each) for each in (load.floods(), load.again())]
        troubles = [
            asyncio.create_task(each)
            for each in (
                faults.workers(),
                faults.engines(),
                faults.server(),
                memory.watch(),
                recorder.watch(),
            )
        ]
        done, _ = await asyncio.wait([at_work, *troubles], timeout=60 * minutes, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        load.stopping.set()
        for task in troubles[:3]:
            await _ended(task)
        await processes.start_missing()
        with suppress(TimeoutError):
            await asyncio.wait_for(at_work, LAST_JOBS_S)
        for task in [*greedy, *troubles[3:]]:
            await _ended(task)
        figures = await judge(processes, load, faults, recorder)
        return {
            "minutes": minutes,
            "seed": seed,
            "seconds": round(time.monotonic() - began, 1),
            "wrong": [name for name in WRONG if figures[name]],
            **figures,
            "memory": memory.report(),
        }
    finally:
        await load.http.aclose()
        await processes.close()


async def _ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})


def main() -> int:
    """Run it and report; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker-every-s", type=float, default=20.0, help="seconds between two kills of a worker")
    parser.add_argument("--server-every-s", type=float, help="of the server; 300, or half the time where that is less")
    parser.add_argument("--steps", type=int, default=300, help="of the long jobs")
    parser.add_argument("--keep", action="store_true", help="keep logs and data")
    parser.add_argument("--out", type=Path, default=RESULTS / "soak.json")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    server_every_s = given.server_every_s or min(300.0, 30 * given.minutes)
    figures = asyncio.run(
        soak(
            given.minutes,
            given.seed,
            folder,
            worker_every_s=given.worker_every_s,
            server_every_s=server_every_s,
            steps=given.steps,
        )
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"bench": "soak", "machine": machine(), **figures}, indent=1) + "\n")
    shown = {name: value for name, value in figures.items() if name != "memory"}
    print(json.dumps({**shown, "memory_mib": figures["memory"]["mib"]}, indent=1))
    if figures["wrong"]:
        print(f"wrong: {', '.join(figures['wrong'])}; logs and data are in {folder}", file=sys.stderr)
        return 1
    if given.keep:
        print(f"logs and data are in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
