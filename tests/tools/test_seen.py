"""What a list had already: found again by its digest, and not held in memory."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime, timedelta

from berinia_webhookd.tools.reconcile.seen import Listed, Seen

AT = datetime(2026, 11, 30, 10, 0, 0, 123_456, tzinfo=UTC)


def test_the_first_is_remembered() -> None:
    with Seen() as seen:
        assert seen.first(b"a", AT, ("https://x.example.com/\u00e9", "k")) is None
        assert seen.first(b"b", AT, ()) is None
        later = AT + timedelta(hours=1)
        assert seen.first(b"a", later, ("other",)) == Listed(
            AT, ("https://x.example.com/\u00e9", "k")
        )


def test_twenty_thousand_take_no_more_memory_than_a_thousand() -> None:
    """Of Python's: the database has a cache of its own, which is bounded."""
    with Seen() as seen:

        def remember(numbers: range) -> int:
            for number in numbers:
                seen.first(number.to_bytes(16, "big"), AT, ("https://x.example.com/" + "a" * 200,))
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            few = remember(range(1000))
            assert remember(range(1000, 20_000)) < few + 100_000
        finally:
            tracemalloc.stop()
