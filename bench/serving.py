"""A whole Convscope as a process of its own, for benches that measure through HTTP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def served(**settings: str) -> Iterator[str]:
    """`convscope serve` on a fresh data folder; gives its address and stops it afterwards.

    Args:
        settings: names of settings without the prefix, in lower case, and their values.
    """
    environment = {**os.environ, **{f"CONVSCOPE_{name.upper()}": value for name, value in settings.items()}}
    with tempfile.TemporaryDirectory(prefix="convscope-bench-") as folder:
        command = [sys.executable, "-P", "-m", "convscope.cli", "serve", "--data", folder, "--port", "0"]
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            address = next(
                (line.split()[-1] for line in process.stdout if line.startswith("Convscope listens on")), None
            )
            if address is None:
                raise RuntimeError("the service did not start")
            # The pipe must not fill up while the bench runs.
            drain = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
            yield address
            process.send_signal(signal.SIGINT)
            process.wait(20)
            drain.wait(5)
        finally:
            process.kill()
            process.wait()
