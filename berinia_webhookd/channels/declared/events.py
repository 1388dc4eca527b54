"""The events of a delivery, by the blocks that declare them: `[[channels.<name>.event]]`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from berinia_webhookd.channels.declared.fields import (
    Condition,
    Field,
    Item,
    all_hold,
    conditions,
)
from berinia_webhookd.channels.declared.proof import Proof
from berinia_webhookd.channels.declared.request import at
from berinia_webhookd.config import values
from berinia_webhookd.model import AgentName, EventKind, EventMark, OptOut

MOST_EVENTS: Final = 1000
PHONE: Final = "phone"
_ADDRESSES: Final = (PHONE, "email", "other")
_MARKS: Final = {mark.value: mark for mark in EventMark}


@dataclass(frozen=True)
class Block:
    """The declaration of one kind of event."""

    kind: EventKind = EventKind.MESSAGE
    items: tuple[str, ...] = ()
    where: tuple[Condition, ...] = ()
    unless: tuple[Condition, ...] = ()
    id: tuple[Field, ...] = ()
    sender: Field | None = None
    recipient: Field | None = None
    thread: Field | None = None
    text: Field | None = None
    subject: Field | None = None
    required: tuple[Field, ...] = ()
    agent: AgentName | None = None
    time: Field | None = None
    time_unit: str = "s"
    attachments: Field | None = None
    address: str = "other"
    marks: Mapping[EventMark, Condition] = field(default_factory=dict)
    opt_out: Mapping[OptOut, Condition] = field(default_factory=dict)
    status: Field | None = None
    message: Field | None = None
    rank: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return its kind and its position."""
        where = " / ".join(step or "the list" for step in self.items)
        return f"{self.kind} in {where}" if where else f"{self.kind}"

    @cached_property
    def texts(self) -> Sequence[Field | None]:
        """The fields whose values must be texts."""
        people = (self.sender, self.recipient, self.thread)
        return (*people, self.status, self.message, self.time)

    @property
    def headers(self) -> frozenset[str]:
        """The headers that the block reads, in lower case."""
        places = [*self.texts, self.text, self.subject, self.attachments, *self.id, *self.required]
        asked = (*self.where, *self.unless, *self.marks.values(), *self.opt_out.values())
        places += [one.field for one in asked]
        return frozenset(name for one in places if one is not None for name in one.headers)

    @property
    def recognised_by(self) -> frozenset[str]:
        """The fields of a form by which it is recognised."""
        fields = [one for one in (*self.id, self.status, self.message) if one is not None]
        sources = (source for one in fields for source in one.sources)
        return frozenset(one for one in sources if ":" not in one and one[:1] != "=")

    def is_recognised(self, proof: Proof) -> bool:
        """Whether its events are recognised by their `id`, because the proof covers that."""
        return bool(self.id) and all(
            one.headers <= proof.headers and (proof.covers_query or not one.is_in_query)
            for one in self.id
        )

    def takes(self, item: Item) -> bool:
        """Whether an item meets the block's conditions."""
        if not self.where and not self.unless:
            return True
        return all_hold(self.where, item) and not any(one.holds(item) for one in self.unless)

    @cached_property
    def _steps(self) -> Sequence[tuple[str, Sequence[str]]]:
        return [
            (f"{step}." if step else "", step.split(".") if step else ()) for step in self.items
        ]

    def reached(self, root: Item) -> Iterator[Item]:
        """Yield the items at the end of its steps; without steps, the whole delivery."""
        places: list[tuple[tuple[Any, ...], str]] = [(root.nodes, "")]
        for step, path in self._steps:
            below: list[tuple[tuple[Any, ...], str]] = []
            for nodes, place in places:
                found = at(nodes[-1], path)
                if isinstance(found, list):
                    inside = f"{place}.{step}" if place else step
                    below += [((*nodes, one), f"{inside}{n}") for n, one in enumerate(found)]
            places = below
        for nodes, place in places:
            yield Item(nodes, root.header, root.query, place)


def _fields(raw: Any) -> tuple[Field, ...]:
    return tuple(Field.parse(one) for one in (raw if isinstance(raw, list) else [raw]))


def _steps(raw: Any) -> tuple[str, ...]:
    steps = raw if isinstance(raw, list) else [raw]
    if not steps or not all(isinstance(one, str) for one in steps):
        raise ValueError('give the steps into nested lists: ["entry", "changes"], or [""]')
    return tuple(steps)


def _texts(raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, list) or not all(isinstance(one, str) for one in raw):
        raise ValueError('give a list of texts, such as ["sent", "delivered", "read"]')
    return tuple(raw)


def _marks(raw: Any) -> Mapping[EventMark, Condition]:
    if not isinstance(raw, Mapping) or not _MARKS.keys() >= raw.keys():
        raise ValueError(f"give a table from marks to conditions; marks are {', '.join(_MARKS)}")
    return {_MARKS[name]: Condition.parse(one) for name, one in raw.items()}


def _opt_out(raw: Any) -> Mapping[OptOut, Condition]:
    names = {one.value.lower(): one for one in OptOut}
    if not isinstance(raw, Mapping) or not names.keys() >= raw.keys():
        raise ValueError('give a table such as { stop = "event=unsubscribe|spam" }')
    return {names[name]: Condition.parse(one) for name, one in raw.items()}


_READERS: Final[Mapping[str, Any]] = {
    "kind": lambda raw: EventKind(values.one_of(*(one.value for one in EventKind))(raw)),
    "items": _steps,
    "where": conditions,
    "unless": conditions,
    "id": _fields,
    **dict.fromkeys(
        ("sender", "recipient", "thread", "text", "subject", "time", "attachments"), Field.parse
    ),
    **dict.fromkeys(("status", "message"), Field.parse),
    "required": _fields,
    "agent": values.agent_name,
    "time_unit": values.one_of("s", "ms", "iso"),
    "address": values.one_of(*_ADDRESSES),
    "marks": _marks,
    "opt_out": _opt_out,
    "rank": _texts,
}


def blocks(raw: Any) -> tuple[Block, ...]:
    """Read the blocks of a channel.

    Raises:
        ValueError: with all errors in them.
    """
    if not isinstance(raw, list | tuple) or not all(isinstance(one, Mapping) for one in raw):
        raise ValueError("give blocks, each under its own [[channels.<name>.event]]")
    wrong: list[str] = []
    found: list[Block] = []
    for number, table in enumerate(raw, 1):
        known: dict[str, Any] = {}
        for name, value in table.items():
            if name not in _READERS:
                wrong.append(f"block {number}: {values.unknown(name, _READERS)}")
                continue
            try:
                known[name] = _READERS[name](value)
            except ValueError as error:
                wrong.append(f"block {number}, {name}: {error}")
        found.append(Block(**known))
        wrong += [f"block {number}: {one}" for one in _amiss(found[-1])]
    if wrong:
        raise ValueError("; ".join(wrong))
    return tuple(found)


def _amiss(block: Block) -> Iterator[str]:
    if block.kind is EventKind.RECEIPT and (block.status is None or block.message is None):
        yield "a receipt needs status and message"
    if block.kind is not EventKind.RECEIPT and (block.rank or block.status or block.message):
        yield 'status, message and rank are of receipts: kind = "receipt"'
    ups = [one for some in (block.id, block.required) for field_ in some for one in field_.sources]
    ups += [
        one
        for field_ in (block.sender, block.recipient, block.thread, block.text, block.subject)
        for one in (field_.sources if field_ else ())
    ]
    deepest = max((len(one) - len(one.lstrip("^")) for one in ups), default=0)
    if deepest > len(block.items):
        yield f"{'^' * deepest} leads out of the body: there are {len(block.items)} steps in items"
