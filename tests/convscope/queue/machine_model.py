"""The queue as plain Python, written from the design and not from the scripts: what every move must come to."""

from __future__ import annotations

from dataclasses import dataclass, field

TERMINAL = {"succeeded", "failed", "cancelled", "expired"}


@dataclass
class ModelJob:
    """What a client should see."""

    id: str
    caller: str
    run: str
    lane: str = "interactive"
    state: str = "queued"
    cached: bool = False
    cancelling: bool = False
    previews: list[str] = field(default_factory=list)

    @property
    def active(self) -> bool:
        return self.state not in TERMINAL


@dataclass
class ModelRun:
    """One computation; `place` orders it in its lane."""

    id: str
    lane: str
    digest: str
    place: tuple[float, str]
    state: str = "queued"
    epoch: int = 0
    worker: str = ""
    cancelling: bool = False
    alone: bool = False
    park: bool = False
    crashes: int = 0
    lost: int = 0
    checkpoint: str = ""


@dataclass
class Model:
    """All jobs, runs, keys and stored results, and the moves between them."""

    crash_limit: int
    caller_jobs: int
    lane_depth: int
    jobs: dict[str, ModelJob] = field(default_factory=dict)
    runs: dict[str, ModelRun] = field(default_factory=dict)
    idempotency: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    cached: dict[str, str] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    answered: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    clocks: dict[str, float] = field(default_factory=dict)
    shares: dict[tuple[str, str], float] = field(default_factory=dict)

    def counted(self, caller: str, lane: str) -> list[ModelJob]:
        """The jobs that count in a caller's quota; those that were cancelled still do (for a minute)."""
        quick = lane == "quick"
        mine = [job for job in self.jobs.values() if job.caller == caller and (job.lane == "quick") == quick]
        return [job for job in mine if job.active or job.state == "cancelled"]

    def place(self, caller: str, lane: str) -> float:
        """Start-time fair queueing with costs of one: where the lane stands, or where the caller's last one ends."""
        if not self.lane(lane):
            self.shares = {who: share for who, share in self.shares.items() if who[0] != lane}
        start = max(self.clocks.get(lane, 0.0), self.shares.get((lane, caller), 0.0))
        self.shares[lane, caller] = start + 1
        return start

    def members(self, run: str) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.run == run and job.active]

    def lane(self, lane: str) -> list[ModelRun]:
        waiting = [run for run in self.runs.values() if run.state == "queued" and run.lane == lane]
        return sorted(waiting, key=lambda run: run.place)

    def held(self, worker: str) -> list[ModelRun]:
        return [run for run in self.runs.values() if run.state == "running" and run.worker == worker]

    # What a submission should come to: a name, and the job, run or manifest it concerns.
    def plan(self, caller: str, lane: str, digest: str, no_cache: bool, key: str, fingerprint: str) -> tuple[str, str]:
        if key and (caller, key) in self.idempotency:
            job, known = self.idempotency[caller, key]
            return ("same", job) if known == fingerprint else ("mismatch", job)
        may_share = bool(digest) and not no_cache
        if may_share and digest in self.cached:
            job, manifest = self.answered.get((digest, caller), ("", ""))
            if manifest == self.cached[digest]:
                return "same", job
        counted = self.counted(caller, lane)
        active = sum(job.active for job in counted)
        if len(counted) - active >= max(self.caller_jobs, 10) or active >= self.caller_jobs:
            return "quota", ""
        if may_share and digest in self.cached:
            return "cached", self.cached[digest]
        if may_share and digest in self.shared:
            return "join", self.shared[digest]
        if len(self.lane(lane)) >= self.lane_depth:
            return "full", ""
        return "run", ""

    def claim(self, worker: str, quick: int, interactive: int, batch: int) -> list[str]:
        held = self.held(worker)
        if any(run.alone or run.park for run in held):
            return []
        given: list[str] = []
        idle = not held
        for lane, wanted, suspects in (
            ("quick", quick, False),
            ("interactive", interactive, False),
            ("batch", batch, True),
            ("batch", batch, False),
        ):
            for run in self.lane(lane):
                if suspects and not (idle and not given and run.alone):
                    continue
                if given and self.runs[given[-1]].alone:
                    return given
                if wanted == 0:
                    break
                if run.alone and (held or given):
                    continue
                self.take(run, worker)
                given.append(run.id)
                wanted -= 1
        return given

    def take(self, run: ModelRun, worker: str) -> None:
        self.clocks[run.lane] = max(self.clocks.get(run.lane, 0.0), run.place[0])
        run.state, run.worker, run.park = "running", worker, False
        run.epoch += 1
        for job in self.members(run.id):
            job.state = "running"

    def checkpoint(self, run: ModelRun, name: str) -> str:
        run.park = run.alone and any(other.alone and other.state == "queued" for other in self.runs.values())
        run.checkpoint, run.crashes, run.lost, run.alone = name, 0, 0, False
        return "cancelled" if run.cancelling else "park" if run.park else "go-on"

    def owned(self, run_id: str, epoch: int) -> ModelRun | None:
        run = self.runs.get(run_id)
        return run if run and run.state == "running" and run.epoch == epoch else None

    def end_jobs(self, run: ModelRun, state: str, passing: bool = False) -> None:
        for job in self.members(run.id):
            job.state, job.cancelling = state, False
            if passing:
                self.free_key(job)

    def free_key(self, job: ModelJob) -> None:
        """After a failure that may pass, its key stands for it no more."""
        self.idempotency = {sent: known for sent, known in self.idempotency.items() if known[0] != job.id}

    def end(self, run: ModelRun) -> None:
        run.state, run.worker = "ended", ""
        self.unshare(run)

    def unshare(self, run: ModelRun) -> None:
        if self.shared.get(run.digest) == run.id:
            del self.shared[run.digest]

    def queue(self, run: ModelRun) -> None:
        run.state, run.worker = "queued", ""
        for job in self.members(run.id):
            job.state = "queued"

    def settle(self, run: ModelRun) -> bool:
        """A worker lets the run go: over, where nobody wants it."""
        if run.cancelling:
            self.end_jobs(run, "cancelled")
        if self.members(run.id):
            return False
        self.end(run)
        return True

    def abandon(self, run: ModelRun) -> None:
        """A job has left the run by itself."""
        if self.members(run.id):
            return
        if run.state == "running":
            run.cancelling = True
            self.unshare(run)
        elif run.state == "queued":
            self.end(run)

    def finish(self, run: ModelRun, manifest: str) -> str:
        if manifest and run.digest:
            self.cached[run.digest] = manifest
        if self.settle(run):
            return "cancelled"
        self.end_jobs(run, "succeeded" if manifest else "failed")
        self.end(run)
        return "go-on"

    def requeue(self, run: ModelRun, crashed: bool) -> str:
        if self.settle(run):
            return "cancelled"
        if crashed:
            run.crashes += run.alone
            if run.crashes >= self.crash_limit:
                self.end_jobs(run, "failed", passing=True)
                self.end(run)
                return "cancelled"
            run.alone = True
        self.queue(run)
        return "go-on"

    def lose(self, run: ModelRun) -> None:
        if self.settle(run):
            return
        run.lost += 1
        if run.lost >= 3 * self.crash_limit:
            self.end_jobs(run, "failed", passing=True)
            self.end(run)
            return
        run.alone = run.alone or run.lost >= self.crash_limit
        self.queue(run)

    def cancel(self, job: ModelJob) -> str:
        """The state that a client should be answered, or `finished`."""
        if not job.active:
            return "cancelled" if job.state == "cancelled" else "finished"
        run = self.runs[job.run]
        if run.state == "running" and len(self.members(run.id)) == 1:
            job.cancelling = run.cancelling = True
            self.unshare(run)
            return "running"
        job.state = "cancelled"
        self.abandon(run)
        return "cancelled"

    def expire(self, job: ModelJob) -> None:
        job.state, job.cancelling = "expired", False
        self.free_key(job)
        self.abandon(self.runs[job.run])
