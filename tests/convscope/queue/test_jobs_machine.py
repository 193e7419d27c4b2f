"""Every move of the queue in every order, on a real server, against a model: Hypothesis looks for the order that fails.

Each script is sent twice with the same arguments, as a client does that lost the first answer.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from convscope.protocol.problems import ProblemError
from convscope.queue.connection import connect
from convscope.queue.jobs import JobLimits, JobProgress, Jobs, JobSpec
from convscope.queue.keys import LANES, key
from tests.convscope.queue.machine_model import TERMINAL, Model, ModelJob, ModelRun

T = TypeVar("T")

CALLERS = ["ada", "bob"]
WORKERS = ["w1", "w2"]
LIMITS = JobLimits(lane_depth=4, caller_jobs=6, crashes=2, lease_s=3600, aged_s=3600, alone_patience_s=3600)
"""Nothing happens by itself while the machine thinks, however long it takes: time is one of the moves."""
PAST_MS = 1
PROBLEMS = {"mismatch": "idempotency-mismatch", "quota": "quota-exceeded", "full": "queue-full"}

any_one = st.integers(min_value=0, max_value=10_000)


class QueueMachine(RuleBasedStateMachine):
    """Clients, two workers and accidents on one queue."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis = connect(url)
        self.run(self.redis.flushall())
        self.jobs = Jobs(self.redis, LIMITS)
        self._send_everything_twice()
        self.model = self._empty_model()
        self.claims: list[tuple[str, str, int]] = []
        self.fenced = 0
        self.serial = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def _empty_model(self) -> Model:
        return Model(crash_limit=LIMITS.crashes, caller_jobs=LIMITS.caller_jobs, lane_depth=LIMITS.lane_depth)

    def _send_everything_twice(self) -> None:
        once = self.jobs._scripts.run

        async def twice(name: str, **args: Any) -> Any:
            await once(name, **args)
            return await once(name, **args)

        self.jobs._scripts.run = twice  # type: ignore[method-assign]

    def teardown(self) -> None:
        self.run(self.redis.aclose())
        self.runner.close()

    # Clients.

    @rule(
        caller=st.sampled_from(CALLERS),
        lane=st.sampled_from(["quick", "interactive", "batch"]),
        digest=st.sampled_from(["", "d1", "d2"]),
        no_cache=st.booleans(),
        sent_key=st.sampled_from(["", "", "k1", "k2"]),
        fingerprint=st.sampled_from(["f1", "f1", "f2"]),
    )
    def submit(self, caller: str, lane: str, digest: str, no_cache: bool, sent_key: str, fingerprint: str) -> None:
        outcome, about = self.model.plan(caller, lane, digest, no_cache, sent_key, fingerprint)
        spec = JobSpec(
            operation="classify",
            request={"model": "m"},
            lane=lane,
            caller=caller,
            digest=digest,
            no_cache=no_cache,
            idempotency_key=sent_key or None,
            fingerprint=fingerprint,
        )
        try:
            job, new = self.run(self.jobs.enqueue(spec))
        except ProblemError as problem:
            assert PROBLEMS.get(outcome) == problem.name, (outcome, problem)
            return
        assert outcome not in PROBLEMS, outcome
        assert new == (outcome != "same")
        if outcome == "same":
            assert job.id == about
            if sent_key:
                self.model.idempotency[caller, sent_key] = (job.id, fingerprint)
            return
        assert job.id not in self.model.jobs
        if sent_key:
            self.model.idempotency[caller, sent_key] = (job.id, fingerprint)
        made = self.model.jobs[job.id] = ModelJob(id=job.id, caller=caller, run=job.run, lane=lane)
        if outcome == "cached":
            made.state, made.cached = "succeeded", True
            self.model.answered[digest, caller] = (job.id, about)
            assert job.manifest == about
        elif outcome == "join":
            assert job.run == about
            made.state = self.model.runs[about].state
        else:
            assert job.run == job.id
            place = (self.model.place(caller, lane), job.id)
            self.model.runs[job.id] = ModelRun(id=job.id, lane=lane, digest=digest, place=place)
            if digest:
                self.model.shared.setdefault(digest, job.id)

    @precondition(lambda self: self.model.jobs)
    @rule(which=any_one, stranger=st.sampled_from([False, False, False, True]))
    def cancel(self, which: int, stranger: bool) -> None:
        job = self._job(which)
        if stranger:
            assert self._refused(self.jobs.cancel(job.id, "mallory")) == "not-found"
            return
        expected = self.model.cancel(job)
        if expected == "finished":
            assert self._refused(self.jobs.cancel(job.id, job.caller)) == "already-finished"
        else:
            assert self.run(self.jobs.cancel(job.id, job.caller)).state == expected

    def _job(self, which: int) -> ModelJob:
        jobs = list(self.model.jobs.values())
        return jobs[which % len(jobs)]

    def _refused(self, work: Coroutine[Any, Any, Any]) -> str:
        try:
            answer = self.run(work)
        except ProblemError as problem:
            return problem.name
        raise AssertionError(f"not refused: {answer}")

    # Workers. They also report on what is no longer theirs: any claim that was ever given.

    @rule(
        worker=st.sampled_from(WORKERS), room=st.sampled_from([(2, 3, 3), (0, 2, 1), (1, 1, 2), (3, 3, 0), (0, 0, 3)])
    )
    def claim(self, worker: str, room: tuple[int, int, int]) -> None:
        quick, interactive, batch = room
        expected = self.model.claim(worker, *room)
        claims = self.run(
            self.jobs.claim(worker, quick=quick, interactive=interactive, batch=batch, operations=["classify", "cam"])
        )
        assert [claim.run for claim in claims] == expected
        for claim in claims:
            run = self.model.runs[claim.run]
            assert claim.epoch == run.epoch
            assert claim.alone == run.alone
            assert (claim.checkpoint or "") == run.checkpoint
            assert claim.members == sorted(job.id for job in self.model.members(run.id))
            self.claims.append((worker, claim.run, claim.epoch))

    def _claim(self, which: int) -> tuple[str, str, int, ModelRun | None]:
        # Three times of four one that holds, where there is one: histories of stale reports alone lead nowhere.
        current = [claim for claim in self.claims if self.model.owned(claim[1], claim[2])]
        claims = current if current and which % 4 else self.claims
        worker, run, epoch = claims[which // 4 % len(claims)]
        return worker, run, epoch, self.model.owned(run, epoch)

    def _is(self, verdict: str, expected: str) -> None:
        assert verdict == expected, (verdict, expected)
        self.fenced += verdict == "fenced"

    @precondition(lambda self: self.claims)
    @rule(which=any_one)
    def renew(self, which: int) -> None:
        worker, run_id, epoch, run = self._claim(which)
        other = WORKERS[1 - WORKERS.index(worker)]
        self._is(self.run(self.jobs.renew(other, [(run_id, epoch)]))[run_id], "fenced")
        verdicts = self.run(self.jobs.renew(worker, [(run_id, epoch)]))
        expected = "fenced" if run is None else "cancelled" if run.cancelling else "park" if run.park else "go-on"
        self._is(verdicts[run_id], expected)

    @precondition(lambda self: self.claims)
    @rule(which=any_one, preview=st.booleans())
    def progress(self, which: int, preview: bool) -> None:
        _, run_id, epoch, run = self._claim(which)
        self.serial += 1
        picture = f"previews/{self.serial}" if preview else None
        verdict = self.run(self.jobs.progress(run_id, epoch, JobProgress(done=self.serial, total=9999), picture))
        self._is(verdict, "fenced" if run is None else "cancelled" if run.cancelling else "go-on")
        if run is not None and not run.cancelling and picture:
            for job in self.model.members(run_id):
                job.previews.append(picture)

    @precondition(lambda self: self.claims)
    @rule(which=any_one)
    def checkpoint(self, which: int) -> None:
        _, run_id, epoch, run = self._claim(which)
        self.serial += 1
        name = f"checkpoints/{self.serial}"
        verdict = self.run(self.jobs.checkpointed(run_id, epoch, name, self.serial))
        self._is(verdict, "fenced" if run is None else self.model.checkpoint(run, name))

    @precondition(lambda self: self.claims)
    @rule(which=any_one, good=st.booleans())
    def finish(self, which: int, good: bool) -> None:
        _, run_id, epoch, run = self._claim(which)
        if run is None and self._over_under(run_id, epoch):
            return
        manifest = f"results/{run_id}" if good else None
        error = None if good else {"name": "numerical-error", "detail": "NaN", "extra": {}}
        verdict = self.run(self.jobs.finish(run_id, epoch, manifest=manifest, error=error, computed_ms=1.5))
        self._is(verdict, "fenced" if run is None else self.model.finish(run, manifest or ""))

    @precondition(lambda self: self.claims)
    @rule(which=any_one, crashed=st.booleans())
    def requeue(self, which: int, crashed: bool) -> None:
        _, run_id, epoch, run = self._claim(which)
        if run is None and self._over_under(run_id, epoch):
            return
        verdict = self.run(self.jobs.requeue(run_id, epoch, crashed=crashed, reason="signal 11"))
        self._is(verdict, "fenced" if run is None else self.model.requeue(run, crashed))

    def _over_under(self, run_id: str, epoch: int) -> bool:
        """Whether this epoch itself let the run go: a repeated report of that is answered as the first one."""
        run = self.model.runs.get(run_id)
        return run is not None and run.epoch == epoch

    # Accidents and time.

    def running(self) -> list[ModelRun]:
        return [run for run in self.model.runs.values() if run.state == "running"]

    def unfinished(self) -> list[ModelJob]:
        return [job for job in self.model.jobs.values() if job.active]

    @precondition(lambda self: self.running())
    @rule(which=any_one)
    def lose_lease(self, which: int) -> None:
        running = self.running()
        run = running[which % len(running)]
        self.run(self.redis.zadd(key("leases"), {run.id: PAST_MS}))
        report = self.run(self.jobs.sweep())
        assert report.repaired == 0
        self.model.lose(run)

    @precondition(lambda self: self.unfinished())
    @rule(which=any_one)
    def pass_deadline(self, which: int) -> None:
        active = self.unfinished()
        job = active[which % len(active)]
        self.run(self.redis.hset(key("job", job.id), "deadline_ms", str(PAST_MS)))
        self.run(self.redis.zadd(key("deadlines"), {job.id: PAST_MS}))
        self.run(self.jobs.sweep())
        self.model.expire(job)

    @rule(worker=st.sampled_from(WORKERS))
    def nothing_to_do(self, worker: str) -> None:
        """No run of an unknown operation is given, and nothing is put right where nothing went wrong."""
        assert self.run(self.jobs.claim(worker, quick=3, interactive=3, batch=3, operations=["cam"])) == []
        assert not any(self.run(self.jobs.sweep()).model_dump().values())

    @rule(really=st.integers(0, 19))
    def wipe(self, really: int) -> None:
        if really == 0:
            self.run(self.redis.flushall())
            self.model = self._empty_model()
            self.fenced = 0

    # What must hold after every move.

    @invariant()
    def server_and_model_agree(self) -> None:
        self.run(self._compare())

    async def _compare(self) -> None:
        model = self.model
        pipe = self.redis.pipeline(transaction=False)
        for lane in LANES:
            pipe.zrange(key("lane", lane), 0, -1)
            pipe.zrange(key("waiting", lane), 0, -1)
        pipe.zrange(key("leases"), 0, -1)
        pipe.zrange(key("alone"), 0, -1)
        pipe.zrange(key("active"), 0, -1)
        for worker in WORKERS:
            pipe.smembers(key("held", worker))
        for caller in CALLERS:
            pipe.zrange(key("unfinished", "quick", caller), 0, -1)
            pipe.zrange(key("unfinished", "long", caller), 0, -1)
        for digest in ("d1", "d2"):
            pipe.get(key("computation", digest))
        pipe.hget(key("counters"), "fenced_writes")
        (*lanes, leases, alone, active, w1, w2, ada_quick, ada, bob_quick, bob, d1, d2, fenced) = await pipe.execute()
        runs = list(model.runs.values())
        for lane, in_order, waiting in zip(LANES, lanes[::2], lanes[1::2], strict=True):
            assert in_order == [run.id for run in model.lane(lane)]
            assert set(waiting) == set(in_order)
        assert set(leases) == {run.id for run in runs if run.state == "running"}
        assert set(alone) == {run.id for run in runs if run.state == "queued" and run.alone}
        assert set(active) == {job.id for job in model.jobs.values() if job.active}
        for worker, held in (("w1", w1), ("w2", w2)):
            assert held == {run.id for run in model.held(worker)}
        for caller, lane, counted in (
            ("ada", "quick", ada_quick),
            ("ada", "batch", ada),
            ("bob", "quick", bob_quick),
            ("bob", "batch", bob),
        ):
            assert set(counted) == {job.id for job in model.counted(caller, lane)}
        for digest, run_id in (("d1", d1), ("d2", d2)):
            assert run_id == model.shared.get(digest)
        assert int(fenced or 0) >= self.fenced
        await self._compare_runs(runs)
        await self._compare_jobs(list(model.jobs.values()))

    async def _compare_runs(self, runs: list[ModelRun]) -> None:
        pipe = self.redis.pipeline(transaction=False)
        for run in runs:
            pipe.hgetall(key("run", run.id))
            pipe.smembers(key("members", run.id))
        replies = await pipe.execute()
        for run, held, members in zip(runs, replies[::2], replies[1::2], strict=True):
            assert (held["state"], int(held["epoch"])) == (run.state, run.epoch)
            assert members == {job.id for job in self.model.members(run.id)}
            if run.state != "ended":
                assert held["owner"] == run.worker
                assert held["lane"] == run.lane
                assert (held["cancelling"] == "1", held["alone"] == "1") == (run.cancelling, run.alone)
                assert (int(held["crashes"]), int(held["lost"])) == (run.crashes, run.lost)

    async def _compare_jobs(self, jobs: list[ModelJob]) -> None:
        pipe = self.redis.pipeline(transaction=False)
        for job in jobs:
            pipe.hgetall(key("job", job.id))
            pipe.xrange(key("events", job.id))
            pipe.pttl(key("job", job.id))
        replies = await pipe.execute()
        for job, held, events, lifetime in zip(jobs, replies[::3], replies[1::3], replies[2::3], strict=True):
            assert (held["state"], held["cancelling"] == "1") == (job.state, job.cancelling)
            assert (lifetime > 0) == (job.state in TERMINAL)
            assert ("manifest" in held) == (job.state == "succeeded")
            assert ("error" in held) == (job.state in ("failed", "expired"))
            if job.cached:
                assert events == [] and held["cached"] == "1"
                continue
            names = [fields["name"] for _, fields in events]
            data = [json.loads(fields["data"]) for _, fields in events]
            assert [entry_id for entry_id, _ in events] == [f"{number}-0" for number in range(1, len(events) + 1)]
            states = [entry["state"] for name, entry in zip(names, data, strict=True) if name == "state"]
            assert states[-1] == job.state
            assert sum(state in TERMINAL for state in states) == names.count("done") == (job.state in TERMINAL)
            assert not job.active or names[-1] != "done"
            assert names[-1] == "done" or job.active
            assert [entry["key"] for name, entry in zip(names, data, strict=True) if name == "preview"] == job.previews


def test_every_order_of_moves(valkey_url: str) -> None:
    run_state_machine_as_test(
        lambda: QueueMachine(valkey_url),
        settings=settings(
            max_examples=40,
            stateful_step_count=50,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("seed", range(16))
def test_long_histories(valkey_url: str, seed: int) -> None:
    """The same moves at random, weighted so that runs crash, resume and crash again: short histories rarely do."""
    rng = random.Random(seed)
    machine = QueueMachine(valkey_url)

    def one() -> int:
        return rng.randrange(10_000)

    def submit() -> None:
        machine.submit(
            caller=rng.choice(CALLERS),
            lane=rng.choice(["quick", "interactive", "batch"]),
            digest=rng.choice(["", "", "", "d1", "d2"]),
            no_cache=rng.random() < 0.5,
            sent_key=rng.choice(["", "", "", "", "k1"]),
            fingerprint=rng.choice(["f1", "f2"]),
        )

    moves: list[tuple[int, Callable[[], None], Callable[[], object]]] = [
        (6, submit, lambda: True),
        (
            8,
            lambda: machine.claim(rng.choice(WORKERS), rng.choice([(1, 3, 3), (1, 1, 1), (2, 3, 0), (0, 0, 2)])),
            lambda: True,
        ),
        (2, lambda: machine.renew(one()), lambda: machine.claims),
        (2, lambda: machine.progress(one(), rng.random() < 0.5), lambda: machine.claims),
        (1, lambda: machine.checkpoint(one()), lambda: machine.claims),
        (3, lambda: machine.finish(one(), rng.random() < 0.7), lambda: machine.claims),
        (5, lambda: machine.requeue(one(), rng.random() < 0.8), lambda: machine.claims),
        (2, lambda: machine.cancel(one(), rng.random() < 0.1), lambda: machine.model.jobs),
        (3, lambda: machine.lose_lease(one()), machine.running),
        (1, lambda: machine.pass_deadline(one()), machine.unfinished),
        (1, lambda: machine.nothing_to_do(rng.choice(WORKERS)), lambda: True),
    ]
    weights = [weight for weight, _, _ in moves]
    try:
        for _ in range(200):
            ((_, move, possible),) = rng.choices(moves, weights)
            if possible():
                move()
                machine.server_and_model_agree()
    finally:
        machine.teardown()
