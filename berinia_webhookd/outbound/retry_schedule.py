"""What becomes of an entry after an attempt: done, another try, or dead. Pure arithmetic; the
dispatcher brings the clock and the dice.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from berinia_webhookd.model import Entry, EntryState, Outcome, OutcomeKind, Settlement
from berinia_webhookd.outbound.terms import Terms

LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0
JITTER: Final = 0.2


def settle(
    entry: Entry,
    outcome: Outcome,
    terms: Terms,
    *,
    started_at: datetime,
    ended_at: datetime,
    random: Callable[[], float],
) -> Settlement:
    """The settlement of one attempt; `random` gives numbers in [0, 1)."""
    state, retries, due_at, hold_until = EntryState.DEAD, entry.retries, None, entry.hold_until
    if outcome.kind is OutcomeKind.SUCCESS:
        state = EntryState.DONE
    elif outcome.kind in terms.retry_on and retries < len(terms.retry_schedule_seconds):
        delay = terms.retry_schedule_seconds[retries] * (1 - JITTER + 2 * JITTER * random())
        if outcome.retry_after_seconds is not None:
            delay = max(delay, min(outcome.retry_after_seconds, LONGEST_RETRY_AFTER_SECONDS))
        state, retries, due_at = (
            EntryState.WAITING,
            retries + 1,
            ended_at + timedelta(seconds=delay),
        )
        # Counted from the first failure, so that no schedule holds a conversation back for longer.
        hold_until = hold_until or ended_at + timedelta(seconds=terms.order_hold_seconds)
    return Settlement(
        entry=entry,
        outcome=outcome,
        started_at=started_at,
        ended_at=ended_at,
        state=state,
        retries=retries,
        due_at=due_at,
        hold_until=hold_until,
        late=terms.late_replies,
        error_to_caller=terms.error_to_caller and outcome.kind is OutcomeKind.ERROR,
    )
