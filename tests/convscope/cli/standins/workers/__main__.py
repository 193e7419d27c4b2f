"""Says through the embedded server that it lives; STANDIN_WORKER says how it misbehaves."""

import asyncio
import os
import signal
import socket
import sys

from convscope.queue.connection import connect
from convscope.queue.jobs import Jobs
from convscope.queue.records import JobLimits, WorkerInfo


async def main(mode: str) -> None:
    queue = connect(os.environ["CONVSCOPE_REDIS_URL"])
    await queue.rpush("standin:starts", os.getpid())
    if mode == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if mode == "child":
        # Like the engine of a worker: another process of the same session.
        await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(600)")
    await queue.set("standin:worker", os.getpid())
    print("standin worker: living", flush=True)
    jobs = Jobs(queue, JobLimits())
    info = WorkerInfo(id="standin", host=socket.gethostname(), pid=os.getpid(), ready=False, reason="loading a standin")
    await jobs.heartbeat(info)
    while mode != "never ready":
        await jobs.heartbeat(info.model_copy(update={"ready": True}))
        await asyncio.sleep(0.5)
    await asyncio.sleep(600)


asyncio.run(main(os.environ.get("STANDIN_WORKER", "")))
