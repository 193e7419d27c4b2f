"""Networks of somebody's own code that exit, hang, eat memory or crash hurt themselves only."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from convscope.protocol.problems import ProblemError
from convscope.queue.jobs import JobState
from convscope.store.card_store import CardStore
from tests.faults.conftest import Start
from tests.workers.harness import ROOT, Client

MODULE = """
import ctypes, os, sys, time
import torch
from torch import nn


class Good(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.one(x).mean((2, 3))


def good():
    return Good()


def exits():
    sys.exit(3)


def ends():
    os._exit(7)


def crashes():
    ctypes.string_at(0)


def hangs():
    while True:
        time.sleep(1)


def eats():
    held = []
    while True:
        held.append(torch.ones(64 * 2**20))


class Falls(Good):
    def forward(self, x):
        os.kill(os.getpid(), 11)


def falls():
    return Falls()


def raises():
    raise RuntimeError("no such file: my-backbone.cfg")
"""

REASONS = {
    "exits": "it ended its process with exit 3",
    "ends": "it ended its process with exit 7",
    "crashes": "it ended its process with signal 11",
    "falls": "it ended its process with signal 11",
    "eats": "MiB that it may",
}


def catalogue(folder: Path, *factories: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "bad_networks_of_a_test.py").write_text(MODULE)
    (folder / "bad_module_of_a_test.py").write_text("import os\nos._exit(9)\n")
    text = "".join(
        f'[networks.{name}]\nsource = "python:bad_networks_of_a_test:{name}"\nweights = "random"\n'
        f"[networks.{name}.preprocess]\nsize = 16\nresize = 16\n"
        for name in factories
    )
    text += '[networks.module]\nsource = "python:bad_module_of_a_test:network"\nweights = "random"\n'
    (folder / "catalogue.toml").write_text(text)
    return folder / "catalogue.toml"


async def classified(client: Client) -> float:
    """A stranger's job; how long it took, s."""
    began = time.monotonic()
    request = {"model": "efficientnet_lite0", "top": 1, "preprocess": None}
    job = await client.end(
        await client.submit("classify", lane="interactive", images=[await client.image()], **request)
    )
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.attempt == 1
    return time.monotonic() - began


@pytest.mark.timeout(400)
async def test_they_are_refused_with_their_reason_while_others_are_served(
    start: Start, client: Client, tmp_path: Path
) -> None:
    names = [*REASONS, "good", "raises", "hangs"]
    path = catalogue(tmp_path / "mine", *names)
    paths = os.pathsep.join([str(tmp_path / "mine"), str(ROOT)])
    worker = start(
        module="workers",
        catalogue=path,
        environment={"PYTHONPATH": paths},
        stall_s=60,
        networks_mib=256,
        memory_mib=512,
    )
    cards = CardStore(client.redis)
    await worker.said("catalogue_published")
    await classified(client)  # loads the default network, which is no bad network's doing

    async def told(name: str) -> str:
        with pytest.raises(ProblemError) as caught:
            await cards.get(name, 60.0)
        assert caught.value.name == ("weights-unavailable" if name == "raises" else "network-does-not-run"), name
        return caught.value.detail

    async def served() -> None:
        for _ in range(8):
            await classified(client)
            await asyncio.sleep(0.5)

    found = dict(zip(REASONS, (await asyncio.gather(served(), *map(told, REASONS)))[1:], strict=True))
    for name, reason in REASONS.items():
        assert reason in str(found[name]), found[name]
    assert "no such file: my-backbone.cfg" in await told("raises")
    assert (await cards.get("good", 60.0)).layer("one").shape == (4, 14, 14)

    async def hung() -> str:
        return await told("hangs")

    reason, *_ = await asyncio.gather(hung(), classified(client))
    assert "it took longer than 25 s" in reason

    with pytest.raises(ProblemError, match="imported in a process apart, and it ended its process with exit 9"):
        await cards.get("module", 0.0)

    # Not one engine has ended, and what is known is said at once.
    assert len(worker.lines("engine_ready")) == 1 and not worker.lines("engine_ended")
    for name in (*REASONS, "hangs"):
        with pytest.raises(ProblemError, match="built in a process apart"):
            await cards.get(name, 0.0)
    lines = {summary.id: summary.problem for summary in await cards.summaries()}
    assert all(lines[name] for name in (*REASONS, "hangs", "raises")) and lines["good"] is None
