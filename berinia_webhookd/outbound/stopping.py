"""The end of runs that exceed the grace period when the daemon stops: entries that did not begin
are given back, the ends of the others are recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import structlog

from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal.contract import Outbox
from berinia_webhookd.model import Entry, Outcome, OutcomeKind
from berinia_webhookd.outbound.attempt import AttemptLog, Run

logger = structlog.get_logger()


async def end(runs: Sequence[Run], outbox: Outbox, log: AttemptLog) -> None:
    """End runs, and record the settlements that are known."""
    settling = [run for run in runs if run.settlement is not None]
    tasks = {run.task: run for run in runs if run.settlement is None and run.task is not None}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    ended = [run for task, run in tasks.items() if task.cancelled()]
    await release(outbox, [run.entry for run in ended if not run.begun])
    for run in settling + [run for run in ended if run.begun]:
        await _settle_at_last(run, outbox, log)


async def release(outbox: Outbox, entries: Sequence[Entry]) -> None:
    """Give entries back."""
    if not entries:
        return
    try:
        await outbox.release(entries)
    except JournalUnavailable as error:
        # They become ready again when their leases end, or at the next start.
        logger.warning("journal.degraded", detail=str(error))


async def _settle_at_last(run: Run, outbox: Outbox, log: AttemptLog) -> None:
    settlement = run.settlement
    if settlement is None:
        grace = run.policy.stop_grace_seconds
        why = f"the daemon stopped, and it had not ended within {grace:g} s"
        settlement = run.end(Outcome(OutcomeKind.STOPPED, error=why), 0.0)
    with contextlib.suppress(JournalUnavailable):
        if run.recording is not None:  # it may be on disk already: wait for the answer
            log.ended(settlement, await run.recording)
            return
    try:
        log.ended(settlement, await outbox.settle(settlement))
    except JournalUnavailable as error:
        # The next start finds it running, and marks it dead if it had begun.
        logger.warning("journal.degraded", detail=str(error))
