"""What a reconciliation found missing: messages that a provider has, and that never came."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

from berinia_webhookd.findings import Finding, warning
from berinia_webhookd.status.durations import counted
from berinia_webhookd.status.findings.channels import console_lines
from berinia_webhookd.status.findings.installation import Installation
from berinia_webhookd.status.findings.probe import log_lines
from berinia_webhookd.status.findings.refused import LINES, recent

MISSED: Final = "missed"


async def missed(installation: Installation) -> AsyncIterator[Finding]:
    """Report what was missing in the last 24 hours, until it is taken in, or a later reconciliation
    of the same time finds nothing missing.
    """
    found: dict[str, tuple[datetime, dict[str, Any]]] = {}
    for when, line in recent(log_lines(installation.logs, LINES)):
        of_channel = str(line.get("channel"))
        if line.get("event") == "events.missed":
            found[of_channel] = when, line
        elif line.get("reconciled") is True or (
            line.get("event") == "events.complete"
            and of_channel in found
            and _covers(line, found[of_channel][1])
        ):
            found.pop(of_channel, None)
    for name, channel in installation.channels.items():
        if name not in found:
            continue
        when, line = found[name]
        count = _number(line, "missing") + _number(line, "too_old")
        urls = installation.settings.server.public_url
        yield warning(
            MISSED,
            f"{name}: {counted(count, 'message')} of {channel.provider.name} never came, as a "
            f"reconciliation found at {when.astimezone(UTC):%H:%M} UTC",
            *console_lines(channel, urls, installation.address),
            f"then take them in: `berinia-webhookd reconcile {name} …`, without `--dry-run`",
            why="people wrote, and no agent knows of it",
        )


def _covers(complete: dict[str, Any], missed: dict[str, Any]) -> bool:
    """Whether what is complete includes the time of all that was missing."""
    try:
        begin, first, last, end = (
            datetime.fromisoformat(str(line.get(name)))
            for line, name in (
                (complete, "since"),
                (missed, "since"),
                (missed, "until"),
                (complete, "until"),
            )
        )
        covers = begin <= first and last <= end
    except (TypeError, ValueError):  # a line of another version, or without a time zone
        return False
    return covers


def _number(line: dict[str, Any], name: str) -> int:
    value = line.get(name)
    return value if isinstance(value, int) else 0
