"""What the engine tells its supervisor about a run: progress, previews, checkpoints, results, failures."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor

from workers.contract import MethodError, Outcome, Progress
from workers.engine import checkpoints
from workers.engine.loader import NetworkSource
from workers.engine.outbox import Outbox
from workers.engine.randomness import seed_of
from workers.engine.runs import Run
from workers.engine_config import EngineConfig
from workers.wire import HEADER_LIMIT

log = logging.getLogger(__name__)

MOST_FACTS_BYTES = HEADER_LIMIT // 2
"""A result whose frame could not be sent would leave its job running for ever."""


def device_name(device: torch.device) -> str:
    """`cpu`, or the kind of the accelerator with its model."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


class Reports:
    """Makes frames of what happened and queues them.

    Args:
        outbox: where frames go.
        source: named in results: the code and its libraries.
        device: named in results.
    """

    def __init__(self, outbox: Outbox, source: NetworkSource, config: EngineConfig, device: torch.device) -> None:
        self._outbox = outbox
        self._source = source
        self._config = config
        self._device = device

    def started(self, run: Run) -> None:
        """The run is being computed from now on; said once."""
        if not run.said_started:
            run.said_started = True
            self._outbox.say("started", run=run.id)

    def progress(self, run: Run, progress: Progress, now: float) -> None:
        """Progress, at most once every `progress_s`; a preview is sent along where there is one."""
        if now < run.progress_due:
            return
        run.progress_due = now + self._config.progress_s
        done, total = float(progress.done), float(progress.total)
        if not math.isfinite(done) or not math.isfinite(total):
            return
        header: dict[str, Any] = {"run": run.id, "done": done, "total": total, "message": progress.message}
        if progress.losses:
            header["losses"] = [None if loss is None else float(f"{loss:.6g}") for loss in progress.losses]
        blobs: tuple[bytes, ...] = ()
        if progress.preview is not None:
            run.preview_due = now + self._config.preview_s
            picture = np.ascontiguousarray(progress.preview.detach().cpu().numpy())
            header["preview"] = list(picture.shape)
            blobs = (picture.tobytes(),)
        self._outbox.say("progress", blobs, **header)

    def checkpoint(self, run: Run, tensors: Mapping[str, Tensor]) -> None:
        """The states of an iterative run as they stand."""
        digest = checkpoints.request_digest(run.operation, run.request)
        data = checkpoints.pack(tensors, digest=digest, step=run.steps, tile=run.tile)
        run.checkpointed_step = run.steps
        self._outbox.say("checkpoint", (data,), run=run.id, step=run.steps)

    def refused_checkpoint(self, run: Run, reason: str) -> None:
        """The run cannot go on from the checkpoint it came with; the supervisor sends it again with another or none."""
        log.warning("a checkpoint was refused", extra={"run": run.id, "reason": reason})
        self._outbox.say("refused-checkpoint", run=run.id, reason=reason)

    def dropped(self, run_id: str) -> None:
        """The run is no longer here, as was asked."""
        self._outbox.say("dropped", run=run_id)

    def failed(self, run: Run, error: MethodError) -> None:
        """The run has failed; its caller is told why."""
        self._outbox.say(
            "failed", run=run.id, problem=error.problem, detail=error.detail, computed_ms=1000 * run.computed_s
        )

    def result(self, run: Run, outcome: Outcome) -> None:
        """The run has succeeded, unless its result cannot be handed over."""
        if aliases := aliases_of(run):
            outcome.facts["aliases"] = aliases
        try:
            arrays = {name: _as_numpy(tensor) for name, tensor in outcome.arrays.items()}
            size = sum(array.nbytes for array in arrays.values())
            if size > self._config.result_mib * 1024**2:
                raise MethodError(
                    "too-expensive",
                    f"The result has {size / 1024**2:.0f} MiB, more than the limit of {self._config.result_mib} MiB.",
                )
            try:
                length = len(json.dumps(outcome.facts, allow_nan=False))
            except ValueError as error:
                raise MethodError("numerical-error", "The facts of the result are not finite numbers.") from error
            if length > MOST_FACTS_BYTES:
                raise MethodError(
                    "too-expensive",
                    f"The facts of the result have {length / 1024**2:.0f} MiB, more than the limit of "
                    f"{MOST_FACTS_BYTES / 1024**2:.0f} MiB.",
                )
        except MethodError as error:
            self.failed(run, error)
            return
        blobs = (safetensors.numpy.save(arrays),) if arrays else ()
        self._outbox.say(
            "result",
            blobs,
            run=run.id,
            facts=outcome.facts,
            provenance=self._provenance(run, outcome.facts),
            computed_ms=1000 * run.computed_s,
        )

    def _provenance(self, run: Run, facts: Mapping[str, Any]) -> dict[str, Any]:
        model = run.needs[0]
        return {
            "model": model,
            "weights_sha256": getattr(run.network, "weights_sha256", None),
            "code": self._source.code,
            "torch": str(torch.__version__),
            "device": device_name(self._device),
            "precision": run.precision,
            "tile": run.tile,
            "seed": int(run.request.get("seed") or 0),
            "libraries": dict(self._source.libraries),
            "notes": _notes(run, answered=facts.get("output") is not None),
        }


def _notes(run: Run, *, answered: bool) -> list[str]:
    """What the networks are and do that matters for this result, a sentence each."""
    notes = [note for network in run.networks.values() for note in network.notes(run.precision, answered=answered)]
    if any(network.random for network in run.networks.values()):
        notes.append(f"The network's random numbers began with seed {seed_of(run)}.")
    return notes


def _as_numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    host = tensor.detach().cpu()
    return np.ascontiguousarray((host.float() if host.dtype == torch.bfloat16 else host).numpy())


def aliases_of(run: Run) -> dict[str, list[str]]:
    """Further names of the layers that a run's request names, of those that have any."""
    layers = run.network.layers if run.needs else {}
    named = {name: layers[name] for name in _names_of_layers(run.request) if name in layers}
    return {layer.name: list(layer.aliases) for layer in named.values() if layer.aliases}


def _names_of_layers(value: Any) -> Iterator[str]:
    """Every name of a layer in a request's JSON."""
    if isinstance(value, list):
        for item in value:
            yield from _names_of_layers(item)
    if not isinstance(value, Mapping):
        return
    for key, item in value.items():
        names = item if isinstance(item, list) else [item]
        if key in ("layer", "layers"):
            yield from (name for name in names if isinstance(name, str))
        else:
            yield from _names_of_layers(item)
