"""What the service measures about itself, for Prometheus: one registry an application."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from convscope import logs

_METHODS = frozenset({"GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"})
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class _DroppedLines(Collector):
    def collect(self) -> Iterator[CounterMetricFamily]:
        """As many as have been dropped by now."""
        yield CounterMetricFamily("convscope_log_lines_dropped", "Log lines that nobody read.", value=logs.dropped())


class Metrics:
    """Requests, pictures, waiting and listening clients."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_DroppedLines())
        self._requests = Histogram(
            "convscope_http_request_seconds",
            "Time from a request to the end of its answer.",
            ("method", "route", "status"),
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.rendered = Histogram(
            "convscope_render_seconds", "Time to draw one picture.", ("operation",), registry=self.registry
        )
        self.pictures_cached = Counter(
            "convscope_pictures_cached_total", "Pictures answered without drawing.", registry=self.registry
        )
        self.pictures_unwanted = Counter(
            "convscope_pictures_unwanted_total",
            "Pictures whose client left while they were drawn.",
            registry=self.registry,
        )
        self.drawing = Gauge(
            "convscope_pictures_drawing", "Pictures being drawn, or waiting for it.", registry=self.registry
        )
        self.sse_clients = Gauge("convscope_sse_clients", "Open event streams.", registry=self.registry)
        self.waiting = Gauge("convscope_waiting_requests", "Requests held until a job changes.", registry=self.registry)
        self.cancelled_by_disconnect = Counter(
            "convscope_jobs_cancelled_by_disconnect_total", "Jobs whose client left.", registry=self.registry
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request. A client chooses its method freely, so unknown ones share a label."""
        label = method if method in _METHODS else "other"
        self._requests.labels(label, route, str(status)).observe(seconds)

    def text(self) -> bytes:
        """Everything in the text format of Prometheus."""
        return generate_latest(self.registry)
