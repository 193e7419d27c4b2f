"""Runs one-shot batches slice by slice, and contains their failures."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

from workers.contract import Grant, MethodError, OneShotMethod, Progress, Result
from workers.engine.device import see_that_it_answers
from workers.engine.failures import internal, out_of_memory
from workers.engine.memory import Meter, is_out_of_memory, release_memory
from workers.engine.plan import RunBatch
from workers.engine.randomness import own_randomness
from workers.engine.reports import Reports
from workers.engine.runs import Run
from workers.engine.scheduler import Scheduler

log = logging.getLogger(__name__)


@dataclass
class _Batch:
    runs: list[Run]
    slices: Generator[Progress, None, list[Result]]


class OneShots:
    """The batches that are under way.

    Args:
        scheduler: told how each batch ends.
        reports: told about rows.
        leave: called with each run that has ended.
        grant: grants for a run.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        reports: Reports,
        meter: Meter,
        leave: Callable[[Run], None],
        grant: Callable[[Run], Grant],
    ) -> None:
        self._scheduler = scheduler
        self._reports = reports
        self._meter = meter
        self._leave = leave
        self._grant = grant
        self._open: dict[int, _Batch] = {}

    def close(self, unit: int) -> None:
        """Everybody in that batch is gone: let its method release what it holds."""
        batch = self._open.pop(unit, None)
        if batch is not None:
            try:
                batch.slices.close()
            except Exception:
                log.exception("a method failed while it was stopped", extra={"runs": [run.id for run in batch.runs]})

    def slice(self, decision: RunBatch, runs: list[Run]) -> None:
        """One slice of a batch; `runs` are those still wanted."""
        batch = self._open.get(decision.unit)
        if batch is None:
            method = runs[0].method
            assert isinstance(method, OneShotMethod)
            for run in runs:
                self._reports.started(run)
            slices = method.run(runs[0].network, [run.row for run in runs], self._grant(runs[0]))
            batch = self._open[decision.unit] = _Batch(runs, slices)
        progress, results, error = self._advance(batch, decision, runs)
        if progress is not None:
            now = time.monotonic()
            for run in runs:
                self._reports.progress(run, progress, now)
            return
        del self._open[decision.unit]
        if error is not None:
            self._contain(decision, runs, error)
            return
        assert results is not None
        self._scheduler.finished(decision.unit)
        wanted = {run.id for run in runs}
        for run, result in zip(batch.runs, results, strict=True):
            if run.id in wanted:
                if isinstance(result, MethodError):
                    self._reports.failed(run, result)
                else:
                    self._reports.result(run, result)
                self._leave(run)

    def _advance(
        self, batch: _Batch, decision: RunBatch, runs: list[Run]
    ) -> tuple[Progress | None, list[Result] | None, Exception | None]:
        """One slice and its account: progress, or the results, or why there is neither."""
        progress: Progress | None = None
        results: list[Result] | None = None
        failure: Exception | None = None
        self._meter.begin()
        began = time.monotonic()
        try:
            with own_randomness(runs[0]):
                progress = next(batch.slices)
        except StopIteration as stop:
            results = stop.value
            if not isinstance(results, list) or len(results) != len(batch.runs):
                failure = TypeError("a method must return one result for each row")
        except Exception as error:
            log.warning("a batch failed", exc_info=error, extra={"runs": [run.id for run in runs]})
            failure = error
        now = time.monotonic()
        self._meter.end(runs[0].memory_key, sum(run.rows_at_once for run in batch.runs))
        for run in runs:
            run.computed_s += now - began
        self._scheduler.ran(decision, now - began, now)
        return progress, results, failure

    def _contain(self, decision: RunBatch, runs: list[Run], error: Exception) -> None:
        """A whole batch failed: do it again in halves or row by row; who fails alone fails."""
        see_that_it_answers()
        if is_out_of_memory(error):
            release_memory(error)
            if len(runs) > 1 or not runs[0].tried_alone:
                runs[0].tried_alone = len(runs) == 1
                rows = sum(run.rows for run in runs) if len(runs) > 1 else 1
                self._scheduler.requeue(decision.unit, max(1, rows // 2), out_of_memory=True)
                return
            answer = out_of_memory("this request, even alone")
        elif len(runs) > 1:
            self._scheduler.requeue(decision.unit, 1, out_of_memory=False)
            return
        elif isinstance(error, MethodError):
            answer = error
        else:
            answer = internal(runs[0], error)
        self._scheduler.finished(decision.unit)
        self._reports.failed(runs[0], answer)
        self._leave(runs[0])
