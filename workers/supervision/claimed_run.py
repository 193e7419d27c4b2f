"""A run as its supervisor holds it, with the newest word of the engine on it. Old progress makes way for new."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from convscope.queue.jobs import Claim
from convscope.store.image_sets import ImageSetMember
from workers.wire import Frame


@dataclass
class ClaimedRun:
    """One claimed run.

    Args:
        claim: as the queue gave it.
        members: images of the set that it goes through.
        checkpoints: artifact keys to go on from, the best first; those found wanting are gone from the list.
        sent: the engine has it.
        final: the engine's last word on it, `result` or `failed`.
        letting_go: nobody wants it from us any more; its lifecycle has been stopped.
        asking: the engine is being asked for a checkpoint.
    """

    claim: Claim
    claimed_at: float = field(default_factory=time.monotonic)
    members: list[ImageSetMember] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)
    sent: bool = False
    progress: Frame | None = None
    preview: Frame | None = None
    checkpoint: Frame | None = None
    final: Frame | None = None
    refused: bool = False
    letting_go: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    dropped: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    asking: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        found = (self.claim.checkpoint, self.claim.previous_checkpoint)
        self.checkpoints = [key for key in found if key]

    @property
    def run(self) -> str:
        """The run's id."""
        return self.claim.run

    @property
    def token(self) -> str:
        """What the engine calls it: this attempt, so that its words are never taken for those of another."""
        return f"{self.claim.run}/{self.claim.epoch}"

    @property
    def epoch(self) -> int:
        """The epoch that every report must carry."""
        return self.claim.epoch

    def hear(self, frame: Frame) -> None:
        """A word of the engine on this run."""
        if frame.type == "progress":
            self.progress = frame
            if "preview" in frame.header:
                self.preview = frame
        elif frame.type == "checkpoint":
            self.checkpoint = frame
        elif frame.type in ("result", "failed"):
            self.final = frame
        elif frame.type == "refused-checkpoint":
            self.refused = True
        elif frame.type == "dropped":
            self.dropped.set()
        self.wake.set()

    def deadline_s(self) -> float | None:
        """Seconds until its deadline; None where it has none."""
        if self.claim.deadline_in_s is None:
            return None
        return max(0.0, self.claim.deadline_in_s - (time.monotonic() - self.claimed_at))
