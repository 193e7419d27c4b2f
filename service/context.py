"""Everything a route works with, made once when the service starts."""

from __future__ import annotations

from asyncio import Event
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convscope.queue.events import ChangeFeed, Events
    from convscope.queue.jobs import Jobs
    from convscope.settings import Settings
    from convscope.store.artifacts import Artifacts
    from convscope.store.card_store import CardStore
    from convscope.store.image_sets import ImageSets
    from convscope.store.images import Images
    from convscope.store.uploaded_networks import UploadedNetworks
    from service.http.auth import Callers
    from service.http.metrics import Metrics
    from service.memory import Memory
    from service.results.arrays import Results
    from service.results.rendering import Renderer


@dataclass
class LastSeen:
    """What the queue last said, for answers that it cannot be asked for."""

    workers: int = 0


@dataclass(frozen=True)
class Context:
    """The parts of a running service, shared by all requests.

    `stopping` is set when the service begins to stop: what waits or streams then comes to its end.
    """

    settings: Settings
    artifacts: Artifacts
    images: Images
    image_sets: ImageSets
    jobs: Jobs
    events: Events
    changes: ChangeFeed
    cards: CardStore
    networks: UploadedNetworks
    callers: Callers
    metrics: Metrics
    results: Results
    renderer: Renderer
    memory: Memory
    seen: LastSeen = field(default_factory=LastSeen)
    stopping: Event = field(default_factory=Event)
