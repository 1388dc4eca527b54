"""Whether a loopback address still proves that a caller is on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from berinia_webhookd.findings import Finding, ok, wrong
from berinia_webhookd.loopback_lock import NGINX_LINE, LoopbackLock
from berinia_webhookd.status.findings.before_daemon import RELOAD
from berinia_webhookd.status.findings.installation import Installation

LOOPBACK: Final = "loopback"


async def loopback(installation: Installation) -> AsyncIterator[Finding]:
    """Report what `serve` found by its own requests through server.public_url."""
    lock = LoopbackLock(installation.state)
    lock.file.exists()  # raises where this user may not look: to the daemon that is a lock
    found = lock.read()
    if found is None:
        yield ok(LOOPBACK, "nothing speaks against believing programs on this machine")
        return
    since = f" since {found.since}" if found.since else ""
    yield wrong(
        LOOPBACK,
        f"{found.url}: {found.reason.what}; no loopback address is believed{since}",
        f"in nginx: `{NGINX_LINE}`",
        RELOAD,
        f"then let the daemon look again: `{installation.commands.restart}`, or wait for an hour",
        "where nobody from outside comes that way: `berinia-webhookd doctor --trust-loopback`",
        why="callers that only their address proves get 403, and so does who reads /metrics here",
    )
