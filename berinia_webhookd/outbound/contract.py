"""The contract of a transport: it makes one attempt and returns how that ended.

A transport never raises for what an agent does: every end is an `Outcome`. What it raises is a bug
of ours, which the attempt boundary logs with its traceback.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.model import AgentName, Entry, Outcome


class AgentUnavailable(WebhookdError):
    """The agent cannot be loaded; its entries wait. The message is the reason shown."""


def denied_hint(path: str) -> str:
    """Return what to do where agents may not read or write a path, often for the unit's sake."""
    drop_in = "agents-in-root.conf" if path.startswith("/root") else "agents-in-srv.conf"
    return (
        f"give the daemon's user {path}; under systemd with the drop-in contrib/systemd/{drop_in}, "
        "whose ReadWritePaths= names what agents write"
    )


class NotBegun(WebhookdError):
    """The attempt must not begin: its lease is lost, or nobody knows whether it was written down
    that it begins. The agent was not called.
    """


# Awaited when everything is ready, before the first byte goes to the agent.
Begin = Callable[[], Awaitable[None]]


async def begin_freely() -> None:
    """Begin an attempt that may be made again."""


class Transport(Protocol):
    """One way to reach agents."""

    async def load(self, agent: AgentName) -> None:
        """Make sure the agent can take attempts.

        Raises:
            AgentUnavailable: it cannot be loaded now; asked again later.
        """

    @property
    def capacity(self) -> int:
        """How many attempts may run at once; the dispatcher never has more than that in here."""

    async def attempt(
        self, entry: Entry, *, timeout_seconds: float, begin: Begin = begin_freely
    ) -> Outcome:
        """Make one attempt; ends within the timeout and a moment for killing.

        Raises:
            NotBegun: `begin` raised it.
        """

    async def close(self) -> None:
        """Stop everything this transport started."""
