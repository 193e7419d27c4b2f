"""Everything a route works with, made once when the service starts."""

from __future__ import annotations

from asyncio import Event
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from convscope.protocol.artifacts import Artifacts
    from convscope.protocol.card_store import CardStore
    from convscope.protocol.events import ChangeFeed, Events
    from convscope.protocol.images import Images
    from convscope.protocol.jobs import Jobs
    from convscope.settings import Settings
    from service.auth import Callers
    from service.metrics import Metrics
    from service.rendering import Renderer
    from service.results import Results


@dataclass
class Seen:
    """What the queue last said, for answers that it cannot be asked for."""

    workers: int = 0


@dataclass(frozen=True)
class Context:
    """The parts of a running service, shared by all requests.

    `stopping` is set when the service begins to stop: what waits or streams then comes to its end.
    """

    settings: Settings
    redis: Redis
    artifacts: Artifacts
    images: Images
    jobs: Jobs
    events: Events
    changes: ChangeFeed
    cards: CardStore
    callers: Callers
    metrics: Metrics
    results: Results
    renderer: Renderer
    seen: Seen = field(default_factory=Seen)
    stopping: Event = field(default_factory=Event)
