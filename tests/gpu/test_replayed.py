"""CUDA graphs of steps: their memory, and what other threads do meanwhile."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.workers.methods import cases
from workers.networks.build import LoadedNetwork, load
from workers.passes.replay import COMES_BACK, OTHERS_GO_ON, drop_replays, replay_bytes

if not torch.cuda.is_available():
    pytest.skip("no CUDA device: torch.cuda.is_available() is False", allow_module_level=True)

pytestmark = pytest.mark.gpu


def climbed(network: LoadedNetwork, device: torch.device) -> None:
    """A `fast` job long enough for a graph."""
    changes = {**cases.LOADED_ASCENT.changes, "precision": "fast", "steps": COMES_BACK + 4}
    cases.ascend(replace(cases.LOADED_ASCENT, changes=changes), device, lambda _: network)


def test_memory_of_graphs_counts_as_the_networks_and_comes_back(
    device: torch.device, recorded: list[tuple[int, ...]]
) -> None:
    network = load("squeezenet1_1-random", device)
    network.lean_module(True)
    weights = network.nbytes
    climbed(network, device)
    assert len(recorded) == 1 and network.nbytes > weights
    held = torch.cuda.memory_reserved(device)
    drop_replays()
    torch.cuda.empty_cache()
    assert network.nbytes == weights
    assert torch.cuda.memory_reserved(device) < held


def test_a_network_that_is_let_go_takes_its_graphs_along(device: torch.device, recorded: list[tuple[int, ...]]) -> None:
    climbed(load("squeezenet1_1-random", device), device)  # the libraries' own workspaces come with the first
    recorded.clear()
    gc.collect()
    before = torch.cuda.memory_allocated(device)
    network = load("squeezenet1_1-random", device)
    climbed(network, device)
    assert len(recorded) == 1 and replay_bytes(network.lean_module(True)) > 0
    del network
    gc.collect()
    assert torch.cuda.memory_allocated(device) <= before + 1024**2


@pytest.mark.skipif(not OTHERS_GO_ON, reason="this torch captures for the whole process; 2.15 does not")
def test_a_step_is_recorded_while_another_thread_loads_a_network(
    device: torch.device, recorded: list[tuple[int, ...]]
) -> None:
    over, failed = threading.Event(), []

    def load_on() -> None:
        try:
            while not over.is_set():
                nn.Linear(512, 512).to(device)
                torch.ones(1000, device=device).cpu()
        except RuntimeError as error:
            failed.append(error)

    loader = threading.Thread(target=load_on)
    loader.start()
    try:
        climbed(load("squeezenet1_1-random", device), device)
    finally:
        over.set()
        loader.join()
    assert not failed
    assert len(recorded) == 1
