"""The work of one transaction: the items of a batch, grouped by step, in a fixed order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from berinia_webhookd.journal import order
from berinia_webhookd.journal.database import Parties, Transaction

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
Touches = Callable[[Transaction, Sequence[ItemT]], Awaitable[Iterable[int | Parties]]]


@dataclass(frozen=True, slots=True)
class BatchStep(Generic[ItemT, ResultT]):
    """One kind of work: does all items of a batch at once, and returns a result for each. A result
    that is an exception is raised to the item's caller. Steps of a lower rank come first.
    """

    name: str
    rank: int
    apply: Callable[[Transaction, Sequence[ItemT]], Awaitable[Sequence[ResultT | Exception]]]
    bounded: bool = False  # whether a full queue refuses it
    # The conversations it will change, by id or parties. On PostgreSQL those of a whole batch are
    # locked at once and in order, to prevent deadlocks between nodes.
    touches: Touches[ItemT] | None = None


@dataclass(slots=True, eq=False)
class Work:
    """One queued item."""

    step: BatchStep[Any, Any]
    item: Any
    size_bytes: int
    done: asyncio.Future[Any]


# The items of one step in a batch, and their results.
Done = tuple[Sequence[Work], Sequence[Any]]


async def apply(transaction: Transaction, batch: Sequence[Work]) -> list[Done]:
    """Do a batch in one transaction, step by step."""
    by_step: dict[str, list[Work]] = {}
    for work in batch:
        by_step.setdefault(work.step.name, []).append(work)
    in_order = sorted(by_step.values(), key=lambda works: works[0].step.rank)
    if transaction.shared:
        await order.hold(transaction, await _touched(transaction, in_order))
    return [
        (works, await works[0].step.apply(transaction, [work.item for work in works]))
        for works in in_order
    ]


async def _touched(
    transaction: Transaction, by_step: Iterable[Sequence[Work]]
) -> set[int | Parties]:
    touched: set[int | Parties] = set()
    for works in by_step:
        touches = works[0].step.touches
        if touches is not None:
            touched.update(await touches(transaction, [work.item for work in works]))
    return touched
