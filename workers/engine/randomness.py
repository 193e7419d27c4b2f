"""Networks that draw random numbers in evaluation: each job has its own stream of them, whoever computes in between."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from workers.engine.runs import Run


def seed_of(run: Run) -> int:
    """The seed of a job's random numbers: the same at every attempt, another for another job."""
    return int.from_bytes(hashlib.sha256(run.id.partition("/")[0].encode()).digest()[:4], "big")


@contextmanager
def own_randomness(run: Run) -> Iterator[None]:
    """While entered, torch's generators are the job's own, where its network draws from them.

    A job that is stepped goes by its number of steps, so that one that goes on from a checkpoint draws the same; one
    that runs once goes on where its last slice ended.
    """
    if not any(network.random for network in run.networks.values()):
        yield
        return
    device = run.network.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if run.random_states is None or run.steps:
            torch.manual_seed(seed_of(run) + run.steps)
        else:
            own, *others = run.random_states
            torch.set_rng_state(own)
            for state in others:
                torch.cuda.set_rng_state(state, device)
        try:
            yield
        finally:
            run.random_states = [torch.get_rng_state()]
            if device.type == "cuda":
                run.random_states.append(torch.cuda.get_rng_state(device))
