"""The order of delivery. A line is what waits in one conversation for one agent (late replies have
lines of their own); this module alone decides which entry of a line is next, and from when.

The answer is written on that entry as `startable_at`, which no other of its line has. Whoever
changes an entry calls `advance` for its line in the same transaction, so claiming never has to look
behind entries that may not start.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence, Set
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    column,
    exists,
    func,
    literal_column,
    not_,
    or_,
    select,
    union_all,
    update,
)

from berinia_webhookd.journal.engine import Transaction
from berinia_webhookd.journal.event_text import to_text
from berinia_webhookd.journal.prepared import VALUES, AnyOf, Batch, Question
from berinia_webhookd.journal.schema import AT_ONCE, Instant, conversations, entries, state_is
from berinia_webhookd.model import EntryState

READY: Final = EntryState.READY
WAITING: Final = EntryState.WAITING


class Line(NamedTuple):
    """One conversation's entries of one kind for one agent."""

    conversation: int
    kind: str
    agent: str


_ready = entries.alias("ready")
_opt_out = entries.alias("first_opt_out")
_waiting = entries.alias("waiting")
_earlier = entries.alias("earlier")
_running = entries.alias("running")
_AT_ONCE: Final = literal_column("0", Instant)


def _in_line(table: FromClause) -> ColumnElement[bool]:
    return and_(
        table.c.conversation == bindparam("line_conversation"),
        table.c.kind == bindparam("line_kind"),
        table.c.agent == bindparam("line_agent"),
    )


def _held_until(table: FromClause) -> ColumnElement[object]:
    """Until when earlier entries that wait for their retry hold this one back."""
    latest = (
        select(func.max(_earlier.c.hold_until))
        .where(
            _in_line(_earlier),
            state_is(WAITING, _earlier),
            _earlier.c.place < table.c.place,
        )
        .scalar_subquery()
    )
    return func.coalesce(latest, _AT_ONCE)


def _first_ready() -> Select[object]:
    """The first ready one holds back all that are behind it."""
    first = (
        select(_ready.c.id, _ready.c.place)
        .where(_in_line(_ready), state_is(READY, _ready))
        .order_by(_ready.c.place)
        .limit(1)
        .subquery("first_ready")
    )
    return select(first.c.id, first.c.place, _held_until(first).label("at"))


def _first_opt_out() -> Select[object]:
    """STOP and the like wait for a running entry only."""
    first = (
        select(_opt_out.c.id, _opt_out.c.place)
        .where(_in_line(_opt_out), state_is(READY, _opt_out), _opt_out.c.opt_out)
        .order_by(_opt_out.c.place)
        .limit(1)
        .subquery("ready_opt_out")
    )
    return select(first.c.id, first.c.place, _AT_ONCE.label("at"))


def _waiting_ones() -> Select[object]:
    ready_before = exists().where(
        _in_line(_ready), state_is(READY, _ready), _ready.c.place < _waiting.c.place
    )
    held, due = _held_until(_waiting), _waiting.c.due_at
    at = case((and_(not_(_waiting.c.opt_out), held > due), held), else_=due)
    return select(_waiting.c.id, _waiting.c.place, at.label("at")).where(
        _in_line(_waiting),
        state_is(WAITING, _waiting),
        or_(_waiting.c.opt_out, not_(ready_before)),
    )


_candidates = union_all(_first_ready(), _first_opt_out(), _waiting_ones()).subquery("candidates")
_next = select(_candidates).order_by(_candidates.c.at, _candidates.c.place).limit(1).subquery("nxt")

CLEAR: Final = Batch(
    update(entries)
    .where(_in_line(entries), entries.c.startable_at.is_not(None))
    .values(startable_at=None)
)
SET_NEXT: Final = Batch(
    update(entries)
    .where(
        entries.c.id == _next.c.id,
        not_(exists().where(_in_line(_running), state_is(EntryState.RUNNING, _running))),
    )
    .values(startable_at=_next.c.at)
)


# In the order of their ids, so that two transactions never wait for each other.
HOLD: Final = (
    select(conversations.c.id)
    .where(conversations.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(conversations.c.id)
    .with_for_update(key_share=True)
)


# What each line waits for: the one that runs, or else the next one. Each part has its index, and
# finds one entry however many wait.
HEADS: Final = AnyOf(
    union_all(
        *(
            select(
                *(entries.c.conversation, entries.c.kind, entries.c.agent, entries.c.state)
            ).where(is_head, entries.c.conversation.in_(bindparam(VALUES, expanding=True)))
            for is_head in (entries.c.startable_at.is_not(None), state_is(EntryState.RUNNING))
        )
    )
)


def _left_in(conversation: ColumnElement[int]) -> Select[Any]:
    """In which of the conversations something of an agent's line is open and does not run."""
    line = and_(
        entries.c.conversation == conversation,
        entries.c.kind == bindparam("line_kind"),
        entries.c.agent == bindparam("line_agent"),
    )
    open_ones = (exists().where(line, state_is(state)) for state in (READY, WAITING))
    return select(conversation.label("conversation")).where(or_(*open_ones))


_ids: Final = bindparam("ids", type_=Text)
LEFT: Final = Question(
    _left_in(func.json_each(_ids).table_valued(column("value", Integer), name="wanted").c.value),
    postgresql=_left_in(
        cast(
            func.json_array_elements_text(cast(_ids, JSON)).column_valued("wanted"),
            BigInteger,
        )
    ),
)


def begin(transaction: Transaction, rows: Sequence[dict[str, Any]], empty: Set[int]) -> list[Line]:
    """Mark new entries that may start at once because nothing else waits in their lines; returns
    the lines that are to be advanced when the rows are inserted: behind one that runs or is ready,
    a plain one changes nothing. In the conversations that are `empty` nothing was until now.
    """
    ids = {row["conversation"] for row in rows} - empty
    heads = {Line(*line): state for *line, state in HEADS.execute(transaction.connection, ids)}
    changed: list[Line] = []
    for row in rows:
        line = Line(row["conversation"], row["kind"], row["agent"])
        head = heads.get(line)
        if head is None:
            heads[line] = READY
            row["startable_at"] = AT_ONCE
            transaction.news.work = True
        elif head == WAITING or (head == READY and row["opt_out"]):
            changed.append(line)
    return changed


def advance(transaction: Transaction, lines: Iterable[Line]) -> None:
    """Write down which entry of each line is next. Call it after the last change of a line."""
    rows = [
        {"line_conversation": line.conversation, "line_kind": line.kind, "line_agent": line.agent}
        for line in sorted(set(lines))
    ]
    if rows:
        transaction.news.work = True
        CLEAR.execute(transaction.connection, rows)
        SET_NEXT.execute(transaction.connection, rows)


def advance_open(transaction: Transaction, lines: Collection[Line]) -> None:
    """The same where what changed was running, and so was not marked as next: only a line in which
    something is left has a next one.
    """
    ids: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for line in lines:
        ids[line.kind, line.agent].append(line.conversation)
    left: list[Line] = []
    for (kind, agent), some in ids.items():
        asked = {"ids": to_text(some), "line_kind": kind, "line_agent": agent}
        found = LEFT.execute(transaction.connection, **asked)
        left += [Line(row.conversation, kind, agent) for row in found]
    advance(transaction, left)


def hold(transaction: Transaction, conversation_ids: Iterable[int]) -> None:
    """Keep others out of these conversations until the commit, so that no two transactions each
    miss what the other put into a line. Call it before reading a line's entries.
    """
    if not transaction.locks_rows:
        return
    if ids := sorted(set(conversation_ids) - transaction.held):
        transaction.connection.execute(HOLD, {"ids": ids})
        transaction.held.update(ids)
