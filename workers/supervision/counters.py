"""What happened since this supervisor started, for its heartbeat and so for /metrics."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Counters:
    """Counters by name."""

    counts: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, by: float = 1) -> None:
        """Count something."""
        self.counts[name] = self.counts.get(name, 0) + by
