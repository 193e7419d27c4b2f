"""Whoever should read the lines of our processes stops reading them: nothing waits, and what is lost is counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import httpx2
import psutil

from tests.convscope.cli.launched import WITH_STANDINS, wait_until
from tests.servers import PrivateServer

REQUESTS = 1500
"""Their lines are far more than what a pipe and a process keep."""


class Paused:
    """A pipe whose reader reads nothing until it is told to."""

    def __init__(self) -> None:
        self.end, self.written = os.pipe()
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)

    def until(self, word: str) -> str:
        """Read the next lines up to one with that word, byte for byte, and no further."""
        line = b""
        while True:
            line += os.read(self.end, 1)
            if line.endswith(b"\n"):
                self.lines.append(line.decode().strip())
                if word in self.lines[-1]:
                    return self.lines[-1]
                line = b""

    def resume(self) -> None:
        """Read everything from now on."""
        self._thread.start()

    def _read(self) -> None:
        with os.fdopen(self.end) as lines:
            for line in lines:
                self.lines.append(line.strip())


def test_row_51_a_service_whose_log_nobody_reads_answers_and_counts_what_is_lost(tmp_path: Path) -> None:
    pipe = Paused()
    with PrivateServer() as queue:
        environment = {
            **os.environ,
            "CONVSCOPE_REDIS_URL": queue.url,
            "CONVSCOPE_DATA": str(tmp_path),
            "CONVSCOPE_PORT": "0",
            "CONVSCOPE_LOG_FORMAT": "json",
        }
        process = subprocess.Popen([sys.executable, "-m", "service"], env=environment, stderr=pipe.written)
        os.close(pipe.written)
        try:
            address = json.loads(pipe.until("listening on"))["address"]
            with httpx2.Client(base_url=address, trust_env=False, timeout=20) as client:
                paths = [f"/v1/jobs/{'x' * 1200}-{number}" for number in range(REQUESTS)]
                assert {client.get(path).status_code for path in paths} == {404}
                assert client.get("/livez").status_code == 200
                pipe.resume()
                told = wait_until(lambda: [line for line in pipe.lines if "log_lines_dropped" in line], what="the word")
                figures = client.get("/metrics").text
            lost = sum(json.loads(line)["lines"] for line in told)
            assert lost > 0 and f"convscope_log_lines_dropped_total {float(lost)}" in figures
            process.terminate()
            assert process.wait(10) == 0
            wait_until(lambda: any("stopping" in line for line in pipe.lines), what="the last line")
            events = [json.loads(line)["event"] for line in pipe.lines]
            assert events.count("request") + lost == REQUESTS, "every line is read or counted, none is torn"
        finally:
            process.kill()
            process.wait()


def test_row_51_a_launcher_whose_output_nobody_reads_goes_on(tmp_path: Path) -> None:
    pipe = Paused()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CONVSCOPE_")}
    command = [sys.executable, "-P", "-m", "convscope.cli", "serve", "--data", str(tmp_path), "--port", "0"]
    environment |= {"PYTHONPATH": WITH_STANDINS, "STANDIN_SERVICE": "talks"}
    process = subprocess.Popen(command, env=environment, stdout=pipe.written, stderr=pipe.written)
    os.close(pipe.written)
    try:
        address = pipe.until("Convscope listens on").split()[-1]
        with httpx2.Client(base_url=address, trust_env=False, timeout=20) as client:
            # Each answer comes after 100 kB of lines from the part that gives it.
            assert [client.get("/readyz").status_code for _ in range(60)] == [200] * 60
        pipe.resume()
        wait_until(lambda: any("lines were dropped here" in line for line in pipe.lines), what="the word")
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        assert process.wait(15) == 0
        assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    finally:
        process.kill()
        process.wait()
