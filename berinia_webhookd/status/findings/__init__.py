"""The list of checks that look at an installation, for `doctor` and the web console. Each yields
findings and changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final, TypeVar

from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.findings import Finding, note, wrong
from berinia_webhookd.status.findings import (
    agents,
    before_daemon,
    channels,
    folders,
    journal,
    loopback,
    machine,
    missed,
    nginx,
    refused,
    safety,
)
from berinia_webhookd.status.findings.installation import AS_DAEMON, Installation

T = TypeVar("T")
Check = Callable[[T], AsyncIterator[Finding]]

# In the order in which a person would look.
CHECKS: Final[Mapping[str, Check[Installation]]] = {
    "signatures": channels.signatures,
    "nginx": nginx.nginx,
    "outside": before_daemon.outside,
    "loopback": loopback.loopback,
    "refused": refused.refused,
    "silence": channels.silence,
    "missed": missed.missed,
    "agents": agents.agents,
    "journal": journal.journal,
    "disk": machine.disk,
    "clock": machine.clock,
    "logs": folders.logs,
    "safety": safety.safety,
    "console": channels.console,
}
CHECK_SECONDS: Final = 120.0


async def findings_of(checks: Mapping[str, Check[T]], examined: T) -> list[Finding]:
    """Run the checks in order; one that fails does not stop the others."""
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                async for finding in check(examined):
                    findings.append(finding)  # noqa: PERF401 - kept when the next one fails
        except PermissionError as error:
            what = f"not checked: this user may not read {error.filename}"
            findings.append(note(name, what, AS_DAEMON))
        except (WebhookdError, OSError) as error:
            text = str(error) or f"no end within {CHECK_SECONDS:g} s"
            hint = (error.hint,) if isinstance(error, WebhookdError) and error.hint else ()
            why = "whether it works is not known"
            findings.append(wrong(name, f"could not be checked: {text}", *hint, why=why))
    return findings
