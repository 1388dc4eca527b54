"""The payload of an agent and the outcome of its answer; pure functions over JSON.

There are two shapes: the CloudEvents 1.0 envelope for `handle` and HTTP agents, and the input that
BerinIA's own agents take in `run`. Providers' values stay unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from berinia_webhookd.channels.provider import RunInput
from berinia_webhookd.model import (
    AgentName,
    Attachment,
    Conversation,
    Entry,
    EventKind,
    Outcome,
    OutcomeKind,
    Pause,
    Word,
)
from berinia_webhookd.outbound.signs import signs_of
from berinia_webhookd.trace_context import TRACEPARENT

Shape = Literal["handle", "run"]

LONGEST_ERROR: Final = 8192  # characters
LARGEST_NUMBER: Final = 1e9  # of seconds or of cost; larger ones are mistakes
LONGEST_REASON: Final = 500
REPLY_KEYS: Final = ("response", "message", "result")
ERROR_KEYS: Final = ("error", *REPLY_KEYS)
_TYPES: Final = {
    EventKind.MESSAGE: "received",
    EventKind.RECEIPT: "receipt",
    EventKind.OTHER: "other",
}


def envelope(entry: Entry, paths: Sequence[str] = (), *, complete: bool = True) -> dict[str, Any]:
    """Return the CloudEvents envelope. A bounce has no sender, but `subject` must not be empty.
    Without `complete` the list of gathered messages is left out and added by the agent host,
    because sending the text twice would double the cost.
    """
    event = entry.event
    subject = {"subject": event.sender} if event.sender else {}
    data = _data(entry, paths, listed=complete or bool(entry.members))
    return {
        "specversion": "1.0",
        "id": entry.event_id,
        "source": f"/channels/{event.channel}",
        "type": f"berinia.{event.channel}.{_TYPES[event.kind]}",
        **subject,
        "time": data["received_at"],
        "datacontenttype": "application/json",
        "data": data,
    }


def _data(entry: Entry, paths: Sequence[str], *, listed: bool = True) -> dict[str, Any]:
    event, messages = entry.event, _messages(entry, paths)
    own = messages[-1]
    signs = {sign for one in messages for sign in one["signs"]} if entry.members else own["signs"]
    return {
        "channel": event.channel,
        "sender": event.sender,
        "recipient": event.recipient,
        "subject": event.subject,
        "body": entry.text,
        "message_id": event.message_id,
        "conversation": conversation_text(event.conversation),
        "group": event.group,
        **({} if event.thread is None else {"thread": event.thread}),
        "kind": event.kind.value,
        **({"sample": True} if event.sample else {}),
        **({"status": event.status} if event.kind is EventKind.RECEIPT else {}),
        "received_at": own["received_at"],
        "attempt": entry.attempt,
        "attachments": [file for one in messages for file in one["attachments"]],
        **_manners(entry),
        "signs": sorted(signs),
        **({"messages": messages} if listed else {}),
        TRACEPARENT: entry.traceparent,
        "raw": own["raw"],
        "raw_multi": own["raw_multi"],
    }


def _messages(entry: Entry, paths: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the fields that each message has for itself, in order."""
    files = iter(paths)
    return [
        {
            "id": one.event_id,
            "sender": one.event.sender,
            "subject": one.event.subject,
            "body": one.event.body,
            "message_id": one.event.message_id,
            "received_at": one.event.received_at.isoformat(),
            "attachments": [
                _attachment(known, next(files, None)) for known in one.event.attachments
            ],
            "signs": signs_of(one.event),
            "raw": dict(one.event.raw),
            "raw_multi": dict(one.event.raw_multi),
        }
        for one in entry.messages
    ]


def _manners(entry: Entry) -> dict[str, Any]:
    """Return the fields that say that a message must not be answered, or is late."""
    opt_out, consent = entry.event.opt_out, entry.consent
    since = None if consent is None or consent.since is None else consent.since.isoformat()
    automatic = [one.event.auto_submitted for one in entry.messages if one.event.auto_submitted]
    return {
        "opt_out": opt_out.value if opt_out else None,
        "consent": None if consent is None else {"state": consent.state.value, "since": since},
        "auto_submitted": automatic[-1].value if automatic else None,
        **({"reconciled": True} if any(one.event.reconciled for one in entry.messages) else {}),
    }


def _attachment(known: Attachment, path: str | None) -> dict[str, Any]:
    described = {
        "file_name": known.file_name,
        "content_type": known.content_type,
        "size_bytes": known.size_bytes,
        "sha256": known.sha256,
    }
    return described if path is None else {**described, "path": path}


def conversation_text(conversation: Conversation) -> str:
    """Return a text that identifies the conversation, a key for an agent's memory."""
    return f"{conversation.channel}:{conversation.sender}:{conversation.party}"


def run_input(entry: Entry, shape: RunInput | None) -> dict[str, Any]:
    """Return the input of `run`: the provider's shape, else the envelope's data, flat; with
    `event_id`, `attempt` and the fields that say that no answer should be sent. Gathered messages
    are one text, with a list `messages`.
    """
    if shape is None:
        given: dict[str, Any] = {"action": "process_event", "data": _data(entry, ())}
    elif entry.members:
        given = shape(entry.event._replace(body=entry.text))
        given.get("data", given).update(_manners(entry), messages=_messages(entry))
    else:
        given = shape(entry.event)
        given.get("data", given).update(_manners(entry))
    return {**given, "event_id": entry.event_id, "attempt": entry.attempt}


def outcome_of(returned: object, agent: AgentName) -> Outcome:
    """Return the outcome of an agent's return value, or of the JSON of its 2xx response."""
    if not isinstance(returned, Mapping):
        return Outcome(OutcomeKind.SUCCESS)
    outcome = _outcome_of(returned, agent)
    cost = _number(returned.get("cost"))
    return outcome if cost is None else replace(outcome, cost=cost)


def _outcome_of(returned: Mapping[str, object], agent: AgentName) -> Outcome:
    match returned.get("status"):
        case "error":
            error = _first_text(returned, ERROR_KEYS) or "the agent returned an error"
            reply = _first_text(returned, REPLY_KEYS)
            return Outcome(
                OutcomeKind.ERROR, error=error[:LONGEST_ERROR], reply=reply, word=Word.FAILED
            )
        case "retry":
            error = _first_text(returned, ERROR_KEYS) or "the agent wants to be called again"
            return Outcome(
                OutcomeKind.ERROR,
                error=error[:LONGEST_ERROR],
                retry_after_seconds=_number(returned.get("after_seconds")),
                word=Word.AGAIN,
            )
        case "rejected":
            error = _first_text(returned, ERROR_KEYS) or "the agent rejected the event"
            return Outcome(OutcomeKind.REJECTED, error=error[:LONGEST_ERROR], word=Word.FAILED)
    pause = _handoff(returned, agent) if returned.get("status") == "handoff" else None
    return Outcome(OutcomeKind.SUCCESS, reply=_first_text(returned, REPLY_KEYS), pause=pause)


def _handoff(returned: Mapping[str, object], agent: AgentName) -> Pause:
    reason = _first_text(returned, ("reason",))
    return Pause(
        by=agent,
        reason=None if reason is None else reason[:LONGEST_REASON],
        seconds=_number(returned.get("for_seconds")),
    )


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < LARGEST_NUMBER else None  # type: ignore[operator, arg-type]


def _first_text(values: Mapping[str, object], keys: Sequence[str]) -> str | None:
    for key in keys:
        if isinstance(text := values.get(key), str) and text.strip():
            return text
    return None
