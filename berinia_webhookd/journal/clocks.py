"""Two clocks: this machine's, by which the daemon sleeps and stamps, and the database's, by which
leases and retries run on every node alike. What crosses over is told in the other's time, so that
clocks which differ cost neither order nor rest. On SQLite both are one.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from berinia_webhookd.journal.contract import Claimed
from berinia_webhookd.model import Entry, Settlement

SAME: timedelta = timedelta(0)


def moved(instant: datetime | None, by: timedelta) -> datetime | None:
    """The same instant on the other clock."""
    return None if instant is None else instant + by


def settlement_there(settlement: Settlement, ahead: timedelta) -> Settlement:
    """In the database's time, which is `ahead` of ours."""
    if ahead == SAME:
        return settlement
    return replace(
        settlement,
        started_at=settlement.started_at + ahead,
        ended_at=settlement.ended_at + ahead,
        due_at=moved(settlement.due_at, ahead),
        hold_until=moved(settlement.hold_until, ahead),
    )


def claimed_here(claimed: Claimed, ahead: timedelta) -> Claimed:
    """In our time."""
    if ahead == SAME:
        return claimed
    entries = [_entry_here(entry, ahead) for entry in claimed.entries]
    return Claimed(entries, moved(claimed.next_due_at, -ahead))


def _entry_here(entry: Entry, ahead: timedelta) -> Entry:
    if entry.hold_until is None and entry.replied_at is None:
        return entry
    return replace(
        entry,
        hold_until=moved(entry.hold_until, -ahead),
        replied_at=moved(entry.replied_at, -ahead),
    )
