"""Lists of events with contents: sender, text, error. Filters without an index are applied to one
event after another, from the newest on, in small pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from berinia_webhookd.journal import event_text, guards, queries
from berinia_webhookd.journal.database import Row, Transaction, in_batches, instant
from berinia_webhookd.journal.deliveries import EVENTS_EACH
from berinia_webhookd.journal.event_text import storable
from berinia_webhookd.journal.queries import ALL, Content, Filters, Listed
from berinia_webhookd.model import EntryKind, EntryState, OptOut

MOST_SEARCHED: Final = 100_000  # the most events searched without an index
FIRST_PAGE: Final = 100  # enough for common matches; each later page is four times larger
PAGE: Final = 1000
FEW_PAGE: Final = 10_000  # each page reads all of the few entries
NUMBERS_EACH: Final = 20  # delivery numbers scanned per row of the limit
BATCH: Final = 100
BATCH_BYTES: Final = 8 * 1024 * 1024
GATHERED: Final = "gathered"  # the reason shown for members of a burst
SHORTEST_ID: Final = 13  # the milliseconds of a UUIDv7: later ids have another prefix
_OPEN: Final = frozenset({EntryState.READY, EntryState.WAITING})
_OVERTAKES: Final = frozenset({OptOut.STOP, OptOut.START})


@dataclass(frozen=True, slots=True)
class Searched:
    """The matches; if the search stopped early, the number below which nothing was searched, and
    its time of receipt.
    """

    events: list[Listed]
    end: int | None = None
    reached_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """The matches of one page of a list."""

    found: list[Listed]
    looked_at: int
    end: int | None  # the start of the next page; None: this was the last one


async def page(
    transaction: Transaction,
    filters: Filters,
    *,
    first: int,
    end: int,
    limit: int,
    rows: int,
    described: bool,
) -> Page:
    """Return the newest matches among events in a range of numbers, with contents if these are
    wanted or filtered. Filters without an index read a limited number of rows.
    """
    if filters.state == "rejected":
        most = ALL if filters.by_content else limit
        rejected = await queries.list_rejected(transaction, filters, limit=most)
        found = [one for one in rejected if matches(filters, one)][:limit]
        return Page(found, len(rejected), None)
    if not await queries.is_counted(transaction, filters):
        return Page([], 0, None)
    begin = max(first, end - rows * NUMBERS_EACH * EVENTS_EACH) if filters.is_scan else first
    most = limit
    if filters.by_content:
        most = FEW_PAGE if filters.few else rows
    listed = await queries.list_entries(transaction, filters, first=begin, end=end, limit=most)
    whole, next_end = listed, begin if begin > first else None
    if filters.by_content and len(listed) == most:  # the last event may have more entries
        whole = [one for one in listed if one.event > listed[-1].event] or listed
        next_end = whole[-1].event
    if described or filters.by_content:
        whole = await with_contents(transaction, whole)
    found = [one for one in whole if matches(filters, one)][:limit]
    return Page(found, len(whole) if filters.by_content else 0, next_end)


async def range_of(
    transaction: Transaction, filters: Filters, *, first: int, end: int
) -> list[Listed]:
    """Return the matches among events in a range of numbers, newest first."""
    rows = await queries.list_entries(transaction, filters, first=first, end=end)
    if filters.by_content:
        rows = await with_contents(transaction, rows)
    return [one for one in rows if matches(filters, one)]


async def with_contents(transaction: Transaction, rows: Sequence[Listed]) -> list[Listed]:
    """Return the rows with their contents."""
    held = await guards.held_agents(transaction)
    missing = await queries.missing_agents(transaction)
    why = {one.agent: one.reason for one in missing if not one.goes_on}
    found: list[Listed] = []
    for some in in_batches(rows, BATCH):
        events = {one.event for one in some}
        contents: dict[int, Content] = {}
        sizes = await transaction.execute("sizes_of_events", events=list(events))
        for numbers in _batches_of(sizes):
            for row in await transaction.execute("contents_of_events", events=numbers):
                contents[row["number"]] = _content(row)
        places = [one.place for one in some]
        last = await transaction.execute("last_errors", places=places)
        errors = {row["entry"]: row["error"] for row in last}
        gathering = await transaction.execute("gathering", places=places)
        silence = {row["place"]: instant(row["until"]) for row in gathering}
        for one in some:
            content = replace(contents.get(one.event, Content()), error=errors.get(one.place))
            reason = _reason(one, content, held, why)
            if reason is None and one.place in silence:
                reason = f"gathers until {silence[one.place]:%T} UTC, longer if more is written"
            found.append(replace(one, content=content, reason=reason))
    return found


def _batches_of(sizes: Sequence[Row]) -> Iterator[list[int]]:
    """Yield numbers of events in batches, up to the size limit."""
    batch, total = list[int](), 0
    for row in sizes:
        if batch and total + row["size"] > BATCH_BYTES:
            yield batch
            batch, total = [], 0
        batch.append(row["number"])
        total += row["size"]
    yield batch


def _content(row: Row) -> Content:
    if row["data"] is None:
        return Content()
    fields = event_text.fields_of(row["data"], row["form"])
    return Content(
        **{name: fields[name] for name in ("sender", "recipient", "message_id", "group")},
        **{name: fields[name] for name in ("subject", "opt_out")},
        text=fields["body"],
        party=row["party"],
    )


def _reason(
    one: Listed,
    content: Content,
    held: Mapping[str, guards.HeldAgent],
    missing: Mapping[str, str],
) -> str | None:
    """Return why an entry is not dispatched: held, gathered, skipped, or agent not loaded."""
    if one.gathered_into is not None:
        return GATHERED
    if one.reason is not None or one.state not in _OPEN or one.entry == EntryKind.REPLY:
        return one.reason
    agent = one.agent or ""
    if agent in missing:
        return f"the agent cannot be loaded: {missing[agent]}"
    return held[agent].said if agent in held and content.opt_out not in _OVERTAKES else None


def matches(filters: Filters, one: Listed) -> bool:
    """Return whether the content matches the filters."""
    if not filters.by_content:
        return True
    content = one.content or Content()
    error = f"{content.error or ''} {one.reason or ''}"
    return (
        _has_words(filters.text, f"{content.subject or ''} {content.text or ''}")
        and _has_words(filters.error, error)
        and (filters.recipient is None or _is_to(filters.recipient, content))
        and (filters.message_id is None or _plain(filters.message_id) == _plain(content.message_id))
    )


def _has_words(words: str | None, text: str) -> bool:
    folded = text.casefold()
    return words is None or all(word in folded for word in words.casefold().split())


def _is_to(recipient: str, content: Content) -> bool:
    if content.group is None:
        return content.party == storable(recipient)
    return (content.recipient or "").casefold() == recipient


def _plain(message_id: str | None) -> str:
    return (message_id or "").strip().removeprefix("<").removesuffix(">")


async def short_ids(transaction: Transaction, ids: Sequence[str]) -> dict[str, str]:
    """Return for each id a unique prefix."""
    short: dict[str, str] = {}
    for id_ in ids:
        ((*beside,),) = await transaction.execute("ids_beside", id=id_)
        needed = 1 + max((_shared(id_, other) for other in beside if other), default=0)
        needed += id_[needed - 1 : needed] == "-"
        short[id_] = id_[: max(SHORTEST_ID, needed)]
    return short


def _shared(one: str, other: str) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
