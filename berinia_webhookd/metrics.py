"""The Prometheus metrics of one process. Names and labels are part of the public contract; no
caller can choose the value of a label.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from berinia_webhookd import __version__

PREFIX: Final = "berinia_webhookd"
# From a single request on an idle machine to the longest that a provider waits.
ANSWER_BUCKETS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
ATTEMPT_BUCKETS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0)
BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Timed(Collector):
    """What ends often, counted by whose it is and how it ended, and timed by the former. It is
    counted in plain numbers, by the thread that also shows it, as the library's own metrics cost a
    request more than its signature.
    """

    def __init__(
        self,
        total: tuple[str, str],
        seconds: tuple[str, str],
        labels: tuple[str, str],
        buckets: tuple[float, ...],
    ) -> None:
        """`total` and `seconds` are names and descriptions."""
        self._names = total, seconds
        self._labels = labels
        self._buckets = buckets
        self._total: Tally[tuple[str, object]] = Tally()
        self._in_bucket: dict[str, list[int]] = {}  # by whose it is
        self._seconds: dict[str, float] = {}  # likewise

    def untimed(self, of: str, how: object) -> None:
        """Count one that ended before it began, such as a request that is none."""
        self._total[of, how] += 1

    def ended(self, of: str, how: object, seconds: float) -> None:
        """Count one that ended after so long."""
        self._total[of, how] += 1
        in_bucket = self._in_bucket.get(of)
        if in_bucket is None:
            in_bucket = self._in_bucket[of] = [0] * (len(self._buckets) + 1)
            self._seconds[of] = 0.0
        in_bucket[bisect_left(self._buckets, seconds)] += 1
        self._seconds[of] += seconds

    def collect(self) -> Iterable[Metric]:
        """Return both metrics."""
        (total_name, total_text), (seconds_name, seconds_text) = self._names
        total = CounterMetricFamily(f"{PREFIX}_{total_name}", total_text, labels=self._labels)
        for (of, how), count in self._total.items():
            total.add_metric((of, str(how)), count)
        seconds = HistogramMetricFamily(
            f"{PREFIX}_{seconds_name}", seconds_text, labels=self._labels[:1]
        )
        bounds = [*map(str, self._buckets), "+Inf"]
        for of, in_bucket in self._in_bucket.items():
            buckets = zip(bounds, accumulate(in_bucket), strict=True)
            seconds.add_metric((of,), list(buckets), self._seconds[of])
        return total, seconds


class Metrics:
    """One attribute per metric, named as the metric without its prefix, but for the two that are
    timed.
    """

    def __init__(self) -> None:
        # Each counter would have a time stamp beside it, which is no part of the contract.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.requests = self._timed(
            ("requests_total", "Requests answered."),
            ("answer_seconds", "From request to answer."),
            ("channel", "status"),
            ANSWER_BUCKETS,
        )
        self.attempts = self._timed(
            ("attempts_total", "Attempts ended."),
            ("attempt_seconds", "One attempt."),
            ("agent", "outcome"),
            ATTEMPT_BUCKETS,
        )
        self.commit_seconds = self._histogram(
            "commit_seconds", "One transaction of the journal, flushed.", ANSWER_BUCKETS
        )
        self.commit_batch_size = self._histogram(
            "commit_batch_size", "What one transaction of the journal held.", BATCH_BUCKETS
        )
        self.signature_failures_total = self._counter(
            "signature_failures_total", "Requests whose signature proved nothing.", "channel"
        )
        self.provider_refused = self._gauge(
            "provider_refused",
            "Refused requests that resemble the provider's, since its last accepted one.",
            "channel",
        )
        self.ignored_total = self._counter(
            "ignored_total", "Events that a channel names as nothing to keep.", "channel"
        )
        self.handshakes_total = self._counter(
            "handshakes_total", "Questions of providers before they send, answered.", "channel"
        )
        self.rate_limited_total = self._counter(
            "rate_limited_total", "Requests over their address' limit.", "channel"
        )
        self.duplicates_total = self._counter(
            "duplicates_total", "Events that had been received before.", "channel"
        )
        self.skipped_total = self._counter(
            "skipped_total", "Events that a rule of their channel skips.", "channel", "reason"
        )
        self.receipts_total = self._counter(
            "receipts_total", "Receipts of messages that were sent.", "channel", "status"
        )
        self.rejected_total = self._counter(
            "rejected_total",
            "Verified deliveries that failed validation, and were kept.",
            "channel",
        )
        self.entries = self._gauge("entries", "Entries in the journal.", "state")
        self.oldest_ready_seconds = self._gauge(
            "oldest_ready_seconds", "How long the oldest ready entry has been waiting.", "agent"
        )
        self.held_conversations = self._gauge(
            "held_conversations", "Conversations that a guard holds back.", "reason"
        )
        self.agent_available = self._gauge(
            "agent_available", "1 if the agent is loaded, 0 if its entries wait.", "agent"
        )
        self.agent_host_restarts_total = self._counter(
            "agent_host_restarts_total", "Agent hosts that ended before their time.", "reason"
        )
        self.last_accepted_seconds = self._gauge(
            "last_accepted_seconds", "Since the last accepted delivery.", "channel"
        )
        self.channel_silent = self._gauge(
            "channel_silent", "1 while a channel is silent far beyond its habit.", "channel"
        )
        self.journal_up = self._gauge("journal_up", "1 if the journal answers.")
        self.loopback_locked = self._gauge(
            "loopback_locked", "1 while no loopback address is believed."
        )
        self._gauge("build_info", "The program that runs.", "version").labels(__version__).set(1)

    def _timed(
        self,
        total: tuple[str, str],
        seconds: tuple[str, str],
        labels: tuple[str, str],
        buckets: tuple[float, ...],
    ) -> Timed:
        made = Timed(total, seconds, labels, buckets)
        self.registry.register(made)
        return made

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", text, labels, buckets=buckets, registry=self.registry)
