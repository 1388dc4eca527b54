"""The order of delivery. A queue holds the open entries of one conversation for one agent (late
replies have queues of their own); this module alone decides which entry of a queue is next, and
from when.

It is stored on that entry as `startable_at`, which no other entry of the queue has. Code that
changes an entry calls `advance` for its queue in the same transaction, so that a claim never reads
past entries that may not start.

Two things hold a queue: a pause, stored on its conversation (`pause.py`), and a guard, stored on
the entry that it stopped (`hold_entries`). Opt-outs pass both. An entry held until an instant is
next from then on, so that the claim finds it like a retry that falls due; else it waits for
`release`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import Final, NamedTuple

from berinia_webhookd.journal import gather
from berinia_webhookd.journal.database import Parties, Row, Transaction, microseconds
from berinia_webhookd.model import AgentName, EntryState

READY, WAITING = EntryState.READY.value, EntryState.WAITING.value
RUNNING = EntryState.RUNNING.value
AT_ONCE: Final = 0  # the `startable_at` of an entry without a due time


# One conversation's entries of one kind for one agent.
Queue = tuple[int, str, str]


def queue_of(row: Row) -> Queue:
    """The queue of an entry's row."""
    return row["conversation"], row["kind"], row["agent"]


class NewEntry(NamedTuple):
    """An entry to insert."""

    place: int
    event: int
    kind: str
    agent: str
    conversation: int
    opt_out: int
    state: str
    startable_at: int | None = None
    loop_key: int | None = None  # a hash of its text, to detect loops
    quiet: int | None = None  # it is gathered until its conversation is silent for this time,
    gather: int | None = None  # but at most for this time
    wait: int | None = None  # how long a caller waits for its reply


class Startable(NamedTuple):
    """An entry that may start now, with its state before the claim."""

    place: int
    state: str
    kind: str
    agent: AgentName
    conversation: int
    quiet_at: int | None
    gather_by: int | None
    size_bytes: int | None  # the size of its events
    doubtful: int  # 1: it may belong to a loop


async def startable(
    transaction: Transaction, kind: str, agent: str, most: int
) -> dict[int, Startable]:
    """Return an agent's entries that may start now, by place; about as many as asked for."""
    return by_place(await transaction.execute("startable", kind=kind, agent=agent, most=most))


def by_place(rows: Iterable[Row]) -> dict[int, Startable]:
    """Return rows of `startable` by place."""
    return {found.place: found for found in map(Startable._make, rows)}


class Heads:
    """The first entries of queues that get new ones, which decide whether these may start at once:
    behind a running or ready entry, a plain one changes nothing.
    """

    def __init__(self, states: dict[Queue, str], paused: Set[int]) -> None:
        """The queues of `paused` conversations, which may be outdated, always need `advance`."""
        self._states = states
        self._paused = paused
        self.start = False  # whether any entry may start at once
        self.changed: list[Queue] = []  # those to `advance` once the entries are inserted

    @classmethod
    async def of(cls, transaction: Transaction, ids: Iterable[int], paused: Set[int]) -> Heads:
        """Read the queues of these conversations; all others are empty."""
        listed = sorted(ids)
        rows = await transaction.execute("heads", conversations=listed) if listed else ()
        return cls({(id_, kind, agent): state for id_, kind, agent, state in rows}, paused)

    def append(self, queue: Queue, overtakes: bool, gathers: bool) -> int | None:
        """Append a ready entry; returns its `startable_at`, or None if `advance` must decide."""
        head = self._states.get(queue)
        if queue[0] in self._paused:
            self.changed.append(queue)
        elif gathers:
            if head != RUNNING:
                self._states[queue] = READY
                self.changed.append(queue)  # the entries before it wait for silence, too
        elif head is None:
            self._states[queue] = READY
            self.start = True
            return AT_ONCE
        elif head == WAITING or (head == READY and overtakes):
            self.changed.append(queue)
        return None


async def advance(transaction: Transaction, queues: Iterable[Queue]) -> None:
    """Store which entry of each queue is next. Call it after the last change of a queue."""
    if rows := sorted(set(queues)):
        transaction.changes.work = True
        await transaction.many("clear_next", rows)
        await transaction.many("set_next", rows)


async def hold_entries(
    transaction: Transaction, rows: Sequence[Row], reason: str, seconds: float | None = None
) -> None:
    """Hold entries, and so those behind them, for some time or until they are released: they become
    ready, with the reason. Each row has the columns for a queue and `moved`; their conversations
    are locked by the transaction.
    """
    places = [row["place"] for row in rows]
    lasts = microseconds(seconds)
    await transaction.execute("hold_entries", places=places, reason=reason, lasts=lasts)
    for row in rows:
        transaction.moved(row, EntryState.READY.value)
    await gather.follow(transaction, rows, dict.fromkeys(places, EntryState.READY.value))
    await advance(transaction, map(queue_of, rows))


async def release(transaction: Transaction, conversations: Sequence[int]) -> set[int]:
    """Release the entries that guards hold in these conversations; returns the affected ones."""
    rows = await transaction.execute("release_entries", conversations=conversations)
    await transaction.execute("count_anew", conversations=conversations)
    await advance_all(transaction, conversations)
    return {row["conversation"] for row in rows}


async def discard(transaction: Transaction, rows: Sequence[Row]) -> None:
    """Discard entries that do not run. Each row has the columns for a queue and `moved`."""
    await transaction.many("discard_entry", [{"place": row["place"]} for row in rows])
    for row in rows:
        transaction.moved(row, EntryState.DISCARDED.value)
    transaction.changes.all_replies = True  # a caller may wait for that of one of them
    await advance(transaction, map(queue_of, rows))


async def advance_all(transaction: Transaction, conversations: Sequence[int]) -> None:
    """Store which entry is next in every queue of these conversations; also in queues whose first
    open entry was inserted in this transaction, which is counted at its end.
    """
    rows = await transaction.execute("open_queues", conversations=conversations)
    came = {
        (kind, agent)
        for (kind, _, agent, state), by in transaction.counts.items()
        if by > 0 and state in (READY, WAITING)
    }
    queues = [(id_, kind, agent) for id_ in conversations for kind, agent in came]
    await advance(transaction, [*map(queue_of, rows), *queues])


async def hold(transaction: Transaction, touched: Iterable[int | Parties]) -> None:
    """Lock these conversations until the commit, so that no two transactions each miss what the
    other put into a queue. Call it before reading a queue's entries. Those given by their parties
    are in `transaction.conversations` afterwards, if they exist.
    """
    if not transaction.shared:
        return  # SQLite: the writer has locked the whole file
    wanted = set(touched) - transaction.held - transaction.conversations.keys()
    ids = [one for one in wanted if isinstance(one, int)]
    if not wanted:
        return
    parties = [one for one in wanted if not isinstance(one, int)]
    channels, senders, others = zip(*parties, strict=True) if parties else ((), (), ())
    rows = await transaction.execute(
        "hold_conversations", ids=ids, channels=channels, senders=senders, parties=others
    )
    transaction.held.update(ids)
    hold_rows(transaction, rows)


def hold_rows(transaction: Transaction, rows: Iterable[Row]) -> None:
    """Note conversations that are locked now: their ids, parties, and whether they are paused."""
    for id_, channel, sender, party, paused in rows:
        transaction.held.add(id_)
        if sender is not None:  # else it was erased
            transaction.conversations[channel, sender, party] = id_, bool(paused)
