"""What of a `traceparent` is believed, and the one that an event has of its own."""

from __future__ import annotations

import pytest

from berinia_webhookd.trace_context import traceparent_of, valid_traceparent

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("header", "means"),
    [
        (GIVEN, GIVEN),
        (f" {GIVEN} ", GIVEN),
        (GIVEN[:-2] + "00", GIVEN[:-2] + "00"),  # what is not sampled stays so
        (f"cc{GIVEN[2:]}", GIVEN),  # of a later version, what is known
        (f"cc{GIVEN[2:]}-more", GIVEN),
        (f"cc{GIVEN[2:-2]}0e", GIVEN[:-2] + "00"),
        (f"{GIVEN}-more", None),
        (f"cc{GIVEN[2:]}more", None),
        (f"ff{GIVEN[2:]}", None),
        (GIVEN.upper(), None),
        (GIVEN.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32), None),
        (GIVEN.replace("00f067aa0ba902b7", "0" * 16), None),
        (GIVEN[:-1], None),
        (GIVEN.replace("-", "_"), None),
        ("", None),
        ("x" * 10_000, None),
    ],
)
def test_a_header_is_taken_if_it_is_valid(header: str, means: str | None) -> None:
    """By the rules of the recommendation, version by version."""
    assert valid_traceparent(header) == means


def test_an_event_without_one_gets_its_own_id_as_its_trace() -> None:
    """The same for every attempt and every message of it in a log."""
    made = traceparent_of("019cfee1-bb35-7a73-8f0d-54a8a5174af1")
    assert made == "00-019cfee1bb357a738f0d54a8a5174af1-8f0d54a8a5174af1-01"
    assert valid_traceparent(made) == made
