"""What a run is told when its method failed for a reason that is not its own."""

from __future__ import annotations

import logging

from workers.contract import MethodError
from workers.engine.runs import Run

log = logging.getLogger(__name__)


def internal(run: Run, error: Exception) -> MethodError:
    """The answer to an error that no method is meant to raise; the log has it under the run's id."""
    log.error("a job failed", exc_info=error, extra={"run": run.id, "operation": run.operation})
    return MethodError(
        "internal-error", "The computation failed for a reason of ours; the worker's log has it under the job's id."
    )


def out_of_memory(what: str) -> MethodError:
    """The answer where the device has too little memory for `what`."""
    return MethodError("out-of-memory", f"The device has too little memory for {what}.")
