"""A process that is to end with its parent, as a child of a parent that dies before or after it asks."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from convscope.parent import ASKED

# Prints its id and what the call said, then waits for ever. With ORPHAN it first waits until its parent has died.
CHILD = """
import os, time
from convscope.parent import die_with_parent_if_asked
while os.environ.get("ORPHAN") and os.getppid() == int(os.environ["PARENT"]):
    time.sleep(0.01)
print(os.getpid(), die_with_parent_if_asked(), flush=True)
time.sleep(600)
"""
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=dict(os.environ, PARENT=str(os.getpid())))
{then}
"""


def started(then: str, **environment: str) -> tuple[subprocess.Popen[str], psutil.Process, str]:
    """A parent, its child, and what the child says."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(then=then), CHILD],
        env={**{name: value for name, value in os.environ.items() if name != ASKED}, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    number, said = parent.stdout.readline().split()
    return parent, psutil.Process(int(number)), said


@pytest.mark.parametrize("asked", [True, False])
def test_it_ends_with_its_parent_only_when_asked(asked: bool) -> None:
    parent, child, said = started("child.wait()", **({ASKED: "1"} if asked else {}))
    try:
        assert said == "True"
        parent.kill()
        parent.wait()
        if asked:
            child.wait(20)
        else:
            assert child.is_running()
    finally:
        if child.is_running():
            child.kill()


@pytest.mark.parametrize(("asked", "said"), [("1", "False"), ("0", "True")])
def test_a_parent_that_died_before(asked: str, said: str) -> None:
    parent, child, told = started("", ORPHAN="1", **{ASKED: asked})
    try:
        parent.wait()
        if child.ppid() != 1 and asked == "1":
            said = "True"  # another process adopts orphans here: nothing tells it from a parent
        assert told == said
    finally:
        child.kill()
