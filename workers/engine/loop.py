"""The engine's one loop: take what arrived, drop what is cancelled or late, compute one slice, report."""

from __future__ import annotations

import json
import logging
import os
import queue
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch

from workers.contract import Grant, IterativeMethod, Method, MethodError, Network, OneShotMethod
from workers.engine import checkpoints
from workers.engine.iterative import Iteratives
from workers.engine.loader import Loader, NetworkSource
from workers.engine.memory import Meter, estimate_row_bytes
from workers.engine.oneshot import OneShots
from workers.engine.outbox import Outbox
from workers.engine.plan import Idle, Lane, RunBatch, SliceLimits, Task
from workers.engine.reports import Reports
from workers.engine.runs import Run, read_run
from workers.engine.scheduler import Scheduler
from workers.engine.tiles import Tiles
from workers.engine_config import EngineConfig
from workers.wire import Frame

log = logging.getLogger(__name__)

BEAT_S = 0.25
LONGEST_WAIT_S = 1.0
SHARES: dict[Lane, float] = {"quick": 0.125, "interactive": 0.25, "batch": 0.625}
"""Parts of the working memory kept for each lane."""
DEADLINE = MethodError("deadline-exceeded", "The deadline passed before the job finished.")


class Engine:
    """All runs of this process and the loop that computes them.

    Args:
        config: as the supervisor gave it.
        device: chosen from it.
        source: the networks.
        methods: by operation.
        outbox: to the supervisor.
    """

    def __init__(
        self,
        config: EngineConfig,
        device: torch.device,
        source: NetworkSource,
        methods: dict[str, Method],
        outbox: Outbox,
    ) -> None:
        total = config.memory_mib * 1024**2
        self._config = config
        self._methods = methods
        self._oneshot_methods = {name: one for name, one in methods.items() if isinstance(one, OneShotMethod)}
        self._outbox = outbox
        self._limits = SliceLimits(
            memory={lane: int(total * share) for lane, share in SHARES.items()},
            slice_s=config.slice_s,
            window_s=config.window_s,
        )
        self.inbox: queue.SimpleQueue[Frame | tuple[str, str, Any]] = queue.SimpleQueue()
        self._loader = Loader(source.networks, lambda *answer: self.inbox.put(answer))
        self._scheduler = Scheduler(self._limits)
        self._reports = Reports(outbox, source, config, device)
        self._meter = Meter(device)
        self._tiles = Tiles(config, device)
        self._oneshots = OneShots(self._scheduler, self._reports, self._meter, self._leave, self._grant)
        self._iteratives = Iteratives(
            self._scheduler, self._reports, self._meter, self._tiles, config, self._leave, self._grant
        )
        self._runs: dict[str, Run] = {}
        self._loading: dict[str, Run] = {}
        self._slices = 0
        self._beat_due = 0.0

    def forever(self) -> None:
        """Work until the process ends."""
        # Nobody should have to wait for the network that most requests are about.
        self._loader.load(self._config.default_model)
        wait_s: float | None = 0.0
        while True:
            self._receive(wait_s)
            self._expire()
            wait_s = self.turn()
            self._beat()

    def close(self) -> None:
        """Let go of all runs and of the threads."""
        for run in list(self._runs.values()):
            self._leave(run)
        self._loader.close()

    def turn(self) -> float | None:
        """One slice; how long the loop may wait before the next."""
        decision = self._scheduler.next(time.monotonic())
        if isinstance(decision, Idle):
            return LONGEST_WAIT_S if decision.seconds is None else min(decision.seconds, LONGEST_WAIT_S)
        self._slices += 1
        if isinstance(decision, RunBatch):
            self._oneshots.slice(decision, [self._runs[task] for task in decision.tasks])
        else:
            self._iteratives.slice(decision, self._runs)
        return 0.0

    # What arrives.

    def _receive(self, wait_s: float | None) -> None:
        """Everything in the inbox; waits for a first message while there is nothing to compute."""
        try:
            message = self.inbox.get(timeout=wait_s) if wait_s else self.inbox.get_nowait()
            while True:
                self._handle(message)
                message = self.inbox.get_nowait()
        except queue.Empty:
            return

    def _handle(self, message: Frame | tuple[str, str, Any]) -> None:
        if isinstance(message, tuple):
            self._answered(*message)
        elif message.type == "run":
            self._arrive(message)
        elif message.type == "cancel":
            self._cancel(str(message.header["run"]))
        elif message.type == "describe":
            self._loader.describe(str(message.header["model"]))
        elif message.type == "catalogue":
            self._loader.list()
        elif message.type == "save":
            self._iteratives.save([run for run in self._runs.values() if run.id == str(message.header["run"])])
        elif message.type == "drain":
            self._iteratives.save(self._runs.values())
            self._outbox.say("drained")
        else:
            log.warning("a message is not understood", extra={"kind": message.type})

    def _arrive(self, frame: Frame) -> None:
        run_id = str(frame.header["run"])
        if run_id in self._runs:
            log.warning("a run arrived twice", extra={"run": run_id})
            return
        try:
            run = read_run(frame, self._methods, self._config.default_model, time.monotonic())
        except MethodError as error:
            self._outbox.say("failed", run=run_id, problem=error.problem, detail=error.detail, computed_ms=0.0)
            return
        self._runs[run.id] = self._loading[run.id] = run
        for name in run.loads:
            self._loader.load(name)

    def _answered(self, question: str, model: str, answer: Any) -> None:
        """The loader has an answer: for runs that wait for a network, or for the supervisor."""
        if question == "network":
            for run in [run for run in self._loading.values() if model in run.loads]:
                self._network_came(run, run.needs[run.loads.index(model)], answer)
        elif isinstance(answer, MethodError):
            self._outbox.say(question, model=model, problem=answer.problem, detail=answer.detail)
        else:
            self._outbox.say(question, model=model, **{question: answer})

    def _network_came(self, run: Run, model: str, answer: Network | MethodError) -> None:
        if isinstance(answer, MethodError):
            self._reports.failed(run, answer)
            self._leave(run)
            return
        run.networks[model] = answer
        if len(run.networks) < len(run.needs):
            return
        del self._loading[run.id]
        try:
            self._schedule(run)
        except Exception as error:
            log.exception("a run cannot be scheduled", extra={"run": run.id, "operation": run.operation})
            failure = error if isinstance(error, MethodError) else MethodError("internal-error", "The run is broken.")
            self._reports.failed(run, failure)
            self._leave(run)

    def _schedule(self, run: Run) -> None:
        """Hand a run whose networks are there to the scheduler."""
        method = run.method
        size = json.dumps(run.request.get("preprocess"), sort_keys=True)
        base: tuple[Hashable, ...] = (run.operation, run.loads, run.precision, size)
        run.memory_key = (*base, run.pixels)
        alone = run.alone
        # Runs that began with a network that was replaced share nothing with later ones.
        same = tuple(id(run.networks[name]) for name in run.needs)
        if isinstance(method, IterativeMethod):
            run.base_key = (*base, method.group_key(run.network, run.row.request))
            if run.precision == "exact":
                saved = checkpoints.tile_of(run.checkpoint) if run.checkpoint is not None else None
                run.tile = saved or self._tiles.known(run.base_key) or 0
                run.key = (run.base_key, run.tile, same)
            else:
                run.key = (run.base_key, same)
        else:
            shared = method.group_key(run.row.request)
            alone = alone or shared is None
            run.base_key = (*base, shared)
            run.key = (run.base_key, same)
        # What a network draws at random belongs to one job.
        alone = alone or any(network.random for network in run.networks.values())
        run.row_bytes = self._meter.row_bytes(run.memory_key, estimate_row_bytes(run.network, run.pixels))
        tile = self._tiles.fast.rows(run.key) if run.precision == "fast" else max(1, run.tile)
        self._scheduler.add(
            Task(
                id=run.id,
                lane=run.lane,
                caller=run.caller,
                key=run.key,
                iterative=isinstance(method, IterativeMethod),
                rows=run.rows,
                bytes=run.bytes_wanted(tile, self._limits.memory[run.lane]),
                deadline=run.deadline,
                alone=alone,
            ),
            time.monotonic(),
        )

    # What leaves.

    def _cancel(self, run_id: str) -> None:
        run = self._runs.get(run_id)
        if run is not None:
            self._leave(run)
        self._reports.dropped(run_id)

    def _expire(self) -> None:
        now = time.monotonic()
        late = self._scheduler.expired(now)
        late += [run.id for run in self._loading.values() if run.deadline is not None and run.deadline <= now]
        for run_id in late:
            run = self._runs[run_id]
            self._reports.failed(run, DEADLINE)
            self._leave(run)

    def _leave(self, run: Run) -> None:
        """Forget a run and let go of whatever it holds."""
        self._runs.pop(run.id, None)
        self._loading.pop(run.id, None)
        abandoned = self._scheduler.remove(run.id)
        if abandoned is not None:
            self._oneshots.close(abandoned)
        if run.slices is not None:
            run.slices.close()
        run.states = []
        run.networks = {}

    # Small things.

    def _grant(self, run: Run) -> Grant:
        return Grant(
            memory_bytes=self._limits.memory[run.lane],
            slice_s=self._config.slice_s,
            networks=run.networks,
            methods=self._oneshot_methods,
        )

    def _beat(self) -> None:
        """Say that the loop turns: the supervisor renews leases by it, and kills an engine that falls silent."""
        now = time.monotonic()
        if now >= self._beat_due:
            self._beat_due = now + BEAT_S
            self._outbox.say("beat", slices=self._slices, runs=len(self._runs), rss=_resident_bytes())


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
