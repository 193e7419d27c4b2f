"""Runs iterative groups: starts or loads states, steps tiles, makes checkpoints and results, contains failures."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from convscope.recent import Recent
from workers.contract import Grant, IterativeMethod, MethodError, Outcome, Progress
from workers.engine import checkpoints
from workers.engine.device import see_that_it_answers
from workers.engine.failures import internal, out_of_memory
from workers.engine.memory import Meter, is_out_of_memory, release_memory
from workers.engine.plan import FinishTask, StartTask, StepTile, Work
from workers.engine.randomness import own_randomness
from workers.engine.reports import Reports
from workers.engine.runs import Run
from workers.engine.scheduler import Scheduler
from workers.engine.tiles import Tiles, clones
from workers.engine_config import EngineConfig

log = logging.getLogger(__name__)

T = TypeVar("T")

PADS_KEPT = 64
LONGEST_INTERVAL_S = 60.0
SUSPECT_CHECKPOINT_S = 0.5
"""A run that has to be alone shows this soon that it gets on; until then all others wait for it. Its next checkpoints
come after twice that, four times, and so on: what crashes at one place gets there in few attempts, and then counts."""
UNFIT = (LookupError, ValueError, RuntimeError, TypeError)
"""What a method raises when it loads what it has not saved."""
SAVE_SHARE = 50.0
"""A checkpoint may cost a fiftieth of the time since the last one."""


class Iteratives:
    """The iterative runs that have been admitted.

    Args:
        scheduler: told what becomes of tasks and states.
        reports: told about runs.
        leave: called with each run that has ended.
        grant: grants for a run.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        reports: Reports,
        meter: Meter,
        tiles: Tiles,
        config: EngineConfig,
        leave: Callable[[Run], None],
        grant: Callable[[Run], Grant],
    ) -> None:
        self._scheduler = scheduler
        self._reports = reports
        self._meter = meter
        self._tiles = tiles
        self._config = config
        self._leave = leave
        self._grant = grant
        self._pads: Recent[int, list[Any]] = Recent(PADS_KEPT)

    def slice(self, decision: StartTask | StepTile | FinishTask, runs: dict[str, Run]) -> None:
        """One slice of a group."""
        if isinstance(decision, StepTile):
            self._step(decision, runs)
            return
        run = runs[decision.task]
        answer: MethodError | None = None
        began = time.monotonic()
        try:
            if isinstance(decision, StartTask):
                self._start(run, decision, began)
            else:
                self._finish(run, decision, began)
        except MethodError as error:
            answer = error
        except Exception as error:  # noqa: BLE001  (whatever a method raises stays with its row)
            answer = self._internal(run, error)
        if answer is not None:
            self._ran(decision, began, [run])
            self._fail(run, answer)

    def save(self, runs: Iterable[Run]) -> None:
        """Checkpoint those that have moved since their last one: they, or this engine, are about to stop."""
        for run in runs:
            if run.states and run.steps > run.checkpointed_step:
                try:
                    self._checkpoint(run)
                except Exception as error:
                    log.error("a checkpoint that was asked for failed", exc_info=error, extra={"run": run.id})

    # Starting and finishing.

    def _start(self, run: Run, decision: StartTask, began: float) -> None:
        method, grant = _method(run), self._grant(run)
        self._reports.started(run)
        if run.checkpoint is not None:
            try:
                digest = checkpoints.request_digest(run.operation, run.request)
                saved = checkpoints.unpack(run.checkpoint, digest=digest)
                run.states = method.load(run.network, run.row, saved.tensors, grant)
            except (checkpoints.CheckpointError, MethodError, *UNFIT) as error:
                if is_out_of_memory(error):
                    raise
                self._ran(decision, began, [run])
                self._reports.refused_checkpoint(run, str(error))
                self._scheduler.remove(run.id)
                self._leave(run)
                return
            run.steps = run.checkpointed_step = saved.step
            run.checkpoint = None
        else:
            states = self._sliced(run, lambda: method.start(run.network, run.row, grant))
            if states is None:
                self._ran(decision, began, [run])
                return
            run.states = states
        self._choose_tile(run, grant)
        run.proving_s = SUSPECT_CHECKPOINT_S if run.alone else math.inf
        run.checkpoint_due = time.monotonic() + min(self._config.checkpoint_s, run.proving_s)
        self._ran(decision, began, [run])
        self._scheduler.started(run.id, len(run.states))
        for index, state in enumerate(run.states):
            if method.done(state):
                self._scheduler.state_done(run.id, index)

    def _sliced(self, run: Run, make: Callable[[], Generator[Progress, None, T]]) -> T | None:
        """What the generator that `make` gives returns, after its last slice; None until then."""
        if run.slices is None:
            run.slices = make()
        try:
            with own_randomness(run):
                progress = next(run.slices)
        except StopIteration as stop:
            run.slices = None
            value: T = stop.value
            return value
        self._reports.progress(run, progress, time.monotonic())
        return None

    def _choose_tile(self, run: Run, grant: Grant) -> None:
        """Give the group its tile, if it has none yet."""
        if run.precision != "exact":
            rows = min(self._tiles.fast.rows(run.key), self._fitting(run))
        elif run.tile:
            rows = run.tile
        elif run.states:
            rows = self._tiles.measure(run.base_key, run, run.states, grant)
        else:
            rows = 1
        run.tile = rows
        self._scheduler.set_tile(run.key, rows)

    def _finish(self, run: Run, decision: FinishTask, began: float) -> None:
        method, grant = _method(run), self._grant(run)
        result = self._sliced(run, lambda: method.finish(run.network, run.row, run.states, grant))
        self._ran(decision, began, [run])
        if result is None:
            return
        if isinstance(result, MethodError):
            self._fail(run, result)
            return
        assert isinstance(result, Outcome)
        self._reports.result(run, result)
        self._scheduler.remove(run.id)
        self._leave(run)

    # Stepping.

    def _step(self, decision: StepTile, runs: dict[str, Run]) -> None:
        involved = {task: runs[task] for task, _ in decision.states}
        first = next(iter(involved.values()))
        self._meter.begin()
        began = time.monotonic()
        failed: dict[str, MethodError] = {}
        try:
            failed = self._step_states(decision, involved)
        except Exception as error:  # noqa: BLE001  (contained, row by row)
            failed = self._contain(decision, involved, error)
        else:
            self._learn(first, len(decision.states), time.monotonic() - began)
        # The rows that were computed, with those that pad a tile.
        self._meter.end(first.memory_key, decision.tile if first.precision == "exact" else len(decision.states))
        self._ran(decision, began, list(involved.values()))
        for task, run in involved.items():
            if task in failed:
                self._fail(run, failed[task])
                continue
            try:
                for owner, index in decision.states:
                    if owner == task and _method(run).done(run.states[index]):
                        self._scheduler.state_done(task, index)
                self._report(run)
            except Exception as error:  # noqa: BLE001  (a preview or a checkpoint that cannot be made fails its own job)
                self._fail(run, self._internal(run, error))

    def _step_states(self, decision: StepTile, involved: dict[str, Run]) -> dict[str, MethodError]:
        """Step the states of a tile, padded to its size for `exact`; the errors by run."""
        run = next(iter(involved.values()))
        grant = self._grant(run)
        states = [involved[task].states[index] for task, index in decision.states]
        tile = decision.tile if run.precision == "exact" else len(states)
        pads = self._padding(decision.unit, run, states[0], tile - len(states), grant)
        with own_randomness(run):
            errors = _method(run).step(run.network, [*states, *pads], grant)
        if pads:
            kept = zip(pads, errors[len(states) :], strict=True)
            left = [pad for pad, error in kept if error is None and not _method(run).done(pad)]
            self._pads.put(decision.unit, left)
        failed = {}
        for (task, _), error in zip(decision.states, errors, strict=False):
            if error is not None:
                failed[task] = error
            else:
                involved[task].steps += 1
        return failed

    def _padding(self, unit: int, run: Run, state: Any, count: int, grant: Grant) -> list[Any]:
        """States that nobody wants, so that the tile has its one shape. Rows do not see each other."""
        if count <= 0:
            return []
        pads = self._pads.pop(unit) or []
        if len(pads) < count:
            pads = [*pads, *clones(run, state, count - len(pads), grant)]
        self._pads.put(unit, pads)
        return pads[:count]

    def _contain(self, decision: StepTile, involved: dict[str, Run], error: Exception) -> dict[str, MethodError]:
        """A tile failed as a whole: smaller next time, or run by run now; who fails alone fails."""
        run = next(iter(involved.values()))
        self._pads.pop(decision.unit)
        see_that_it_answers()
        if is_out_of_memory(error):
            release_memory(error)
            if decision.tile > 1:
                log.warning("a tile is too large for the memory", extra={"key": str(run.key), "tile": decision.tile})
                self._scheduler.set_tile(run.key, decision.tile // 2)
                self._tiles.limit(run.base_key, decision.tile // 2)
                self._tiles.fast.limit(run.key, decision.tile // 2)
                for other in involved.values():
                    other.tile = min(other.tile, decision.tile // 2)
                return {}
            return {run.id: out_of_memory("one row of this")}
        if len(involved) == 1:
            return {run.id: error if isinstance(error, MethodError) else self._internal(run, error)}
        failed: dict[str, MethodError] = {}
        for task in involved:
            own = StepTile(decision.unit, tuple(pair for pair in decision.states if pair[0] == task), decision.tile)
            try:
                failed.update(self._step_states(own, {task: involved[task]}))
            except Exception as alone:  # noqa: BLE001  (contained)
                log.warning("a row failed alone", extra={"run": task, "error": str(alone)})
                failed.update(self._contain(own, {task: involved[task]}, alone))
        return failed

    def _learn(self, run: Run, rows: int, seconds: float) -> None:
        """Fit the tile of a `fast` group to what its steps take."""
        if run.precision != "exact":
            learned = self._tiles.fast.learn(run.key, rows, seconds)
            self._scheduler.set_tile(run.key, min(learned, self._fitting(run)))

    def _fitting(self, run: Run) -> int:
        """How many rows of a `fast` group there is memory for."""
        return max(1, self._grant(run).memory_bytes // max(1, run.row_bytes))

    # Reports and ends.

    def _report(self, run: Run) -> None:
        now = time.monotonic()
        if now >= run.progress_due:
            self._reports.progress(run, _method(run).progress(run.states, now >= run.preview_due), now)
        if now >= run.checkpoint_due and run.steps > run.checkpointed_step:
            self._checkpoint(run)

    def _checkpoint(self, run: Run) -> None:
        began = time.monotonic()
        self._reports.checkpoint(run, _method(run).save(run.states))
        took = time.monotonic() - began
        # A fifth longer for each further task that is here: many jobs share one store and one device.
        load = 1.0 + 0.2 * (len(self._scheduler) - 1)
        interval = max(self._config.checkpoint_s * load, SAVE_SHARE * took)
        longest = max(LONGEST_INTERVAL_S, self._config.checkpoint_s)
        run.proving_s *= 2
        run.checkpoint_due = began + min(interval, longest, max(run.proving_s, SAVE_SHARE * took))

    def _ran(self, decision: Work, began: float, runs: list[Run]) -> None:
        now = time.monotonic()
        for run in runs:
            run.computed_s += now - began
        self._scheduler.ran(decision, now - began, now)

    def _internal(self, run: Run, error: Exception) -> MethodError:
        see_that_it_answers()
        if is_out_of_memory(error):
            release_memory(error)
            return out_of_memory("this request")
        return internal(run, error)

    def _fail(self, run: Run, error: MethodError) -> None:
        self._scheduler.remove(run.id)
        self._reports.failed(run, error)
        self._leave(run)


def _method(run: Run) -> IterativeMethod[Any, Any]:
    assert isinstance(run.method, IterativeMethod)
    return run.method
