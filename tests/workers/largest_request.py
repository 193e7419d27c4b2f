"""`python -m tests.workers.largest_request OPERATION REQUEST MEMORY_MIB`: the largest admitted such request, run.

Looks for the most images (64 at most) with which the service admits the request under that setting, computes it as the
engine does, and prints, as JSON, how many there were, what was counted, and by how much the process grew at its peak.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations import operations
from convscope.protocol.operations.base import Operation
from convscope.protocol.problems import ProblemError
from convscope.settings import Settings
from service.intake.limits import check_cost
from workers.contract import Grant, IterativeMethod, OneShotMethod, Row, params
from workers.engine.loop import SHARES
from workers.engine.registry import find_methods
from workers.networks.build import load
from workers.networks.card import make_card
from workers.networks.catalogue import find_entry

MODEL = "efficientnet_lite0"
SIDE = 640


def _admitted(operation: Operation[Any], asked: dict[str, Any], card: ModelCard, settings: Settings) -> Any:
    """The resolved request with the most images that is admitted."""
    found = None
    for images in range(1, min(64, max(operation.max_images, 1)) + 1):
        named = [{"id": f"img-{number}"} for number in range(images)] if operation.max_images else []
        request = operation.request.model_validate({**asked, **({"images": named} if named else {})})
        try:
            resolved = operation.resolve(request, card)
            check_cost(resolved, operation, card, len(named), settings, operation.lane)
        except ProblemError as problem:
            if problem.name == "not-applicable" and found is None:
                continue  # it needs more images
            if problem.name != "too-expensive" or "MiB" not in problem.detail:
                raise
            break
        found = (resolved, len(named))
    assert found is not None, "not even one image is admitted"
    return found


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(field)


def _drain(work: Any) -> Any:
    """What a generator of slices comes to."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value


def _run(method: Any, network: Any, row: Row, grant: Grant) -> Any:
    if not isinstance(method, IterativeMethod):
        (result,) = _drain(method.run(network, [row], grant))
        return result
    states = method.start(network, row, grant)
    states = _drain(states) if hasattr(states, "send") else states
    while left := [state for state in states if not method.done(state)]:
        failed = [error for error in method.step(network, left[:1], grant) if error is not None]
        assert not failed, failed
    result = method.finish(network, row, states, grant)
    return _drain(result) if hasattr(result, "send") else result


def main() -> None:
    """Run it."""
    name, asked, memory_mib = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    os.environ["MALLOC_ARENA_MAX"] = "1"
    network = load(MODEL)
    card = ModelCard.model_validate(make_card(find_entry(MODEL), "0" * 64))
    operation = operations()[name]
    settings = Settings(memory_mib=memory_mib)
    resolved, images = _admitted(operation, asked, card, settings)
    counted = operation.working_bytes(resolved, card, images, operation.cost(resolved, card, images).result_bytes)
    generator = torch.Generator().manual_seed(0)
    uploads = [torch.randint(0, 256, (SIDE, SIDE, 3), generator=generator, dtype=torch.uint8) for _ in range(images)]
    row = Row(params(resolved.model_dump(mode="json")), uploads)
    with torch.inference_mode():
        network.module(torch.zeros(1, 3, *network.input_size))
    methods = find_methods()
    others = {name: one for name, one in methods.items() if isinstance(one, OneShotMethod)}
    grant = Grant(memory_bytes=int(memory_mib * 2**20 * SHARES[operation.lane]), slice_s=0.25, methods=others)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    result = _run(methods[name], network, row, grant)
    grew = _resident("VmHWM") - before
    assert hasattr(result, "arrays"), result
    print(json.dumps({"images": images, "counted_mib": counted >> 20, "grew_mib": grew >> 20}))


if __name__ == "__main__":
    main()
