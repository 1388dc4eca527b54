"""The metrics are those that are promised, by name, type and label."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from berinia_webhookd import __version__
from berinia_webhookd.metrics import ANSWER_BUCKETS, Metrics

PROMISED = {
    "requests_total": ("counter", ("channel", "status")),
    "answer_seconds": ("histogram", ("channel",)),
    "commit_seconds": ("histogram", ()),
    "commit_batch_size": ("histogram", ()),
    "signature_failures_total": ("counter", ("channel",)),
    "provider_refused": ("gauge", ("channel",)),
    "ignored_total": ("counter", ("channel",)),
    "handshakes_total": ("counter", ("channel",)),
    "rate_limited_total": ("counter", ("channel",)),
    "duplicates_total": ("counter", ("channel",)),
    "skipped_total": ("counter", ("channel", "reason")),
    "receipts_total": ("counter", ("channel", "status")),
    "rejected_total": ("counter", ("channel",)),
    "entries": ("gauge", ("state",)),
    "oldest_ready_seconds": ("gauge", ("agent",)),
    "held_conversations": ("gauge", ("reason",)),
    "attempts_total": ("counter", ("agent", "outcome")),
    "attempt_seconds": ("histogram", ("agent",)),
    "agent_available": ("gauge", ("agent",)),
    "agent_host_restarts_total": ("counter", ("reason",)),
    "last_accepted_seconds": ("gauge", ("channel",)),
    "channel_silent": ("gauge", ("channel",)),
    "journal_up": ("gauge", ()),
    "loopback_locked": ("gauge", ()),
    "build_info": ("gauge", ("version",)),
}
# The attribute of those that are counted and timed at once.
TIMED = {
    "requests_total": "requests",
    "answer_seconds": "requests",
    "attempts_total": "attempts",
    "attempt_seconds": "attempts",
}


@pytest.fixture
def metrics() -> Metrics:
    """The metrics of one process."""
    return Metrics()


def test_there_is_exactly_what_is_promised(metrics: Metrics) -> None:
    """Nothing missing, nothing besides, nothing of the library's own."""
    metrics.requests.ended("sms", 200, 1)
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    found = {
        family.name + "_total" * (family.type == "counter"): family.type for family in families
    }
    assert found == {f"berinia_webhookd_{name}": kind for name, (kind, _) in PROMISED.items()}


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_each_has_its_labels(metrics: Metrics, name: str) -> None:
    """As the page shows them."""
    kind, labels = PROMISED[name]
    values: tuple[str, ...]
    if name == "build_info":
        values = (__version__,)
    elif name in TIMED:
        values = ("x", "200")[: len(labels)]
        getattr(metrics, TIMED[name]).ended("x", 200, 1)
    else:
        metric = getattr(metrics, name)
        values = tuple(f"a_{label}" for label in labels)
        child = metric.labels(*values) if labels else metric
        (child.observe if kind == "histogram" else child.inc)(1)
    wanted = ",".join(f'{label}="{value}"' for label, value in zip(labels, values, strict=True))
    suffix = "_count" if kind == "histogram" else ""
    shown = f"berinia_webhookd_{name}{suffix}" + (f"{{{wanted}}}" if wanted else "") + " 1.0"
    assert shown in generate_latest(metrics.registry).decode().splitlines()


def test_the_running_version_is_shown(metrics: Metrics) -> None:
    """So that a forgotten restart can be seen."""
    shown = metrics.registry.get_sample_value(
        "berinia_webhookd_build_info", {"version": __version__}
    )
    assert shown == 1


@pytest.mark.parametrize(
    ("name", "slowest"),
    [("answer_seconds", 30.0), ("commit_seconds", 30.0), ("attempt_seconds", 300.0)],
)
def test_what_takes_long_has_a_bucket(metrics: Metrics, name: str, slowest: float) -> None:
    """Up to the longest a provider waits, or an attempt takes."""
    labels = dict.fromkeys(PROMISED[name][1], "x")
    if name in TIMED:
        getattr(metrics, TIMED[name]).ended("x", 200, slowest)
    else:
        metric = getattr(metrics, name)
        (metric.labels(**labels) if labels else metric).observe(slowest)
    in_bucket = metrics.registry.get_sample_value(
        f"berinia_webhookd_{name}_bucket", {**labels, "le": str(slowest)}
    )
    assert in_bucket == 1


def test_two_sets_are_apart(metrics: Metrics) -> None:
    """Each process of a test, or of a reload, counts for itself."""
    metrics.requests.ended("sms", 200, 1)
    labels = {"channel": "sms", "status": "200"}
    assert Metrics().registry.get_sample_value("berinia_webhookd_requests_total", labels) is None


def test_requests_are_counted_as_the_library_counts(metrics: Metrics) -> None:
    """Each bucket holds what took at most so long, also the faster ones, and the sum is exact."""
    seconds = (0.0005, 0.001, 0.0011, 0.25, 31.0)
    library = CollectorRegistry()
    theirs = Histogram("answer_seconds", "", buckets=ANSWER_BUCKETS, registry=library)
    for one in seconds:
        metrics.requests.ended("sms", 200, one)
        theirs.observe(one)
    shown = {}
    for registry in (metrics.registry, library):
        shown[registry] = {
            (sample.name.removeprefix("berinia_webhookd_"), sample.labels.get("le")): sample.value
            for family in registry.collect()
            for sample in family.samples
            if "answer_seconds" in sample.name
        }
    assert shown[metrics.registry] == shown[library]
    assert len(shown[library]) == len(ANSWER_BUCKETS) + 3
