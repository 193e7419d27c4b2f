"""Says through the embedded server that it lives; STANDIN_WORKER says how it misbehaves."""

import os
import signal
import subprocess
import sys
import time

import redis

mode = os.environ.get("STANDIN_WORKER", "")
queue = redis.Redis.from_url(os.environ["CONVSCOPE_REDIS_URL"])
queue.rpush("standin:starts", os.getpid())
if mode == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode == "child":
    # Like the engine of a worker: another process of the same session.
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    queue.set("standin:engine", engine.pid)
queue.set("standin:worker", os.getpid())
print("standin worker: living", flush=True)
while True:
    time.sleep(60)
