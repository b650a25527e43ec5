"""What /metrics tells, in Prometheus' text format; numbers only, nothing of a prompt."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        prefix, to = "megatron_dream_", self.registry
        self.requests = Counter(
            prefix + "requests", "Answers by path and status", ["path", "status"], registry=to
        )
        self.seconds = Histogram(
            prefix + "request_seconds", "From arrival to last byte", buckets=_SECONDS, registry=to
        )
        self.open_requests = Gauge(prefix + "open_requests", "Requests not answered", registry=to)
        self.queued_rows = Gauge(prefix + "queued_rows", "Rows that wait for a batch", registry=to)
        self.running_rows = Gauge(prefix + "running_rows", "Rows in the batch", registry=to)
        self.batch_rows = Histogram(
            prefix + "batch_rows", "Rows of a batch at its start", buckets=_ROWS, registry=to
        )
        self.tokens = Counter(prefix + "tokens", "Tokens of finished texts", registry=to)
        self.passes = Counter(prefix + "forward_passes", "Forward passes", registry=to)
        self.abandoned = Counter(
            prefix + "abandoned_rows", "Rows whose client left or ran out of time", registry=to
        )

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self.registry)
