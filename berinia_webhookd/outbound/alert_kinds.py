"""The kinds of alerts, and the advice for each: the guide (docs/operating.md) and the rules for
Prometheus (contrib/prometheus) use the same words.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class AlertKind(StrEnum):
    """The kinds of alerts."""

    ENTRY_DEAD = "entry_dead"
    SIGNATURES_REFUSED = "signatures_refused"
    DELIVERY_REJECTED = "delivery_rejected"
    AGENT_UNAVAILABLE = "agent_unavailable"
    AGENT_FAILING = "agent_failing"
    CONVERSATION_HELD = "conversation_held"
    CHANNEL_SILENT = "channel_silent"
    JOURNAL_DEGRADED = "journal_degraded"
    DISK_LOW = "disk_low"
    LOOPBACK_LOCKED = "loopback_locked"
    EVENTS_MISSED = "events_missed"


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do, the first command to run, and the guide's section about it."""

    fix: str
    look: str
    section: str


ADVICE: Final = {
    AlertKind.ENTRY_DEAD: Advice(
        "read why with `events show ID`; once that is fixed, `events replay ID`; of one that may "
        "have acted, first find out what it did",
        "berinia-webhookd events list --state dead",
        "The agent fails: messages are dead",
    ),
    AlertKind.SIGNATURES_REFUSED: Advice(
        "if the provider's secret was changed, set the new one and reload; else correct the URL in "
        "its console",
        "berinia-webhookd doctor --problems",
        "403 for everything of a provider: another secret",
    ),
    AlertKind.DELIVERY_REJECTED: Advice(
        "keep the id for whoever fixes the daemon; after an upgrade `events replay ID` reads it "
        "again",
        "berinia-webhookd events list --state rejected",
        "Signed, and yet refused: 400",
    ),
    AlertKind.AGENT_UNAVAILABLE: Advice(
        "correct the file and line that it names; the messages flow as soon as the agent loads",
        "berinia-webhookd check-config",
        "The agent is not loaded",
    ),
    AlertKind.AGENT_FAILING: Advice(
        "read its error with `events show ID` and correct that; what waits goes on by itself",
        "berinia-webhookd events list --agent NAME",
        "The agent fails: messages are dead",
    ),
    AlertKind.CONVERSATION_HELD: Advice(
        "a budget goes on by itself; where no two machines answer each other, `conversations "
        "resume --sender NUMBER`",
        "berinia-webhookd conversations list",
        "Messages stay `ready`: a guard holds them",
    ),
    AlertKind.CHANNEL_SILENT: Advice(
        "send a message to the channel yourself; if it does not come, enter the URL anew in the "
        "provider's console",
        "berinia-webhookd doctor",
        "Nothing comes on a channel any more",
    ),
    AlertKind.JOURNAL_DEGRADED: Advice(
        "make room, start PostgreSQL, or restore the journal, whichever it names; it recovers by "
        "itself",
        "berinia-webhookd doctor --problems",
        "503 on every channel: the journal is unreachable",
    ),
    AlertKind.DISK_LOW: Advice(
        "make room on the disk of the journal and the logs: `df -h`",
        "berinia-webhookd doctor --problems",
        "The disk is full",
    ),
    AlertKind.LOOPBACK_LOCKED: Advice(
        "have nginx say who calls, `proxy_set_header X-Forwarded-For "
        "$proxy_add_x_forwarded_for;`, and reload nginx and the daemon",
        "berinia-webhookd doctor --problems",
        "403 for the WhatsApp bot",
    ),
    AlertKind.EVENTS_MISSED: Advice(
        "see that the provider's console has our URL, then take the messages in: "
        "`reconcile --since 20h`",
        "berinia-webhookd reconcile --since 20h --dry-run",
        "The morning after an outage",
    ),
}
