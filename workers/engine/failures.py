"""What a run is told when its method failed for a reason that is not its own."""

from __future__ import annotations

import logging
import re

from workers.contract import MethodError
from workers.engine.runs import Run

log = logging.getLogger(__name__)


_WITHOUT_GRADIENT = re.compile(
    r"does not require grad and does not have a grad_fn|appears to not have been used in the graph"
)
_CHECKPOINTED = re.compile(r"torch\.utils\.checkpoint")


def internal(run: Run, error: Exception) -> MethodError:
    """The answer to an error that no method is meant to raise; the log has it under the run's id.

    What torch says where a network itself stands in the way of a gradient is for whoever wrote the network.
    """
    if isinstance(error, RuntimeError) and (reason := _of_gradient(str(error))) is not None:
        log.info("a network has no gradient", exc_info=error, extra={"run": run.id, "operation": run.operation})
        return MethodError("not-applicable", f"{run.operation} differentiates {run.needs[0]}, and {reason}.")
    log.error("a job failed", exc_info=error, extra={"run": run.id, "operation": run.operation})
    return MethodError(
        "internal-error", "The computation failed for a reason of ours; the worker's log has it under the job's id."
    )


def _of_gradient(said: str) -> str | None:
    """Why a network cannot be differentiated, in its author's words; None where torch says something else."""
    if _CHECKPOINTED.search(said):
        return "its gradient checkpointing is in the way, which saves nothing here: turn it off in evaluation"
    if _WITHOUT_GRADIENT.search(said):
        return (
            "no gradient comes through its forward: it computes under torch.no_grad(), detaches or rounds its numbers, "
            "or checkpoints them with use_reentrant=True"
        )
    return None


def out_of_memory(what: str) -> MethodError:
    """The answer where the device has too little memory for `what`."""
    return MethodError("out-of-memory", f"The device has too little memory for {what}.")
