"""The contract of a transport: it makes one attempt and returns how that ended.

A transport never raises for an agent's failure: every end is an `Outcome`. An exception is a bug of
the daemon, which the attempt boundary logs with its traceback.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.model import AgentName, Entry, Outcome


class AgentUnavailable(WebhookdError):
    """The agent cannot be loaded; its entries wait. The message is the reason that is shown."""


def denied_hint(path: str) -> str:
    """Return a hint for a path that agents may not access, often due to the unit's sandbox."""
    drop_in = "agents-in-root.conf" if path.startswith("/root") else "agents-in-srv.conf"
    return (
        f"give the daemon's user {path}; under systemd with the drop-in contrib/systemd/{drop_in}, "
        "whose ReadWritePaths= names what agents write"
    )


class NotBegun(WebhookdError):
    """The attempt must not begin: its lease is lost, or it is unknown whether its beginning was
    committed. The agent was not called.
    """


# Awaited when everything is ready, before the first byte goes to the agent.
Begin = Callable[[], Awaitable[None]]


async def begin_freely() -> None:
    """Do nothing: for attempts that may be made again."""


class Transport(Protocol):
    """One way to reach agents."""

    async def load(self, agent: AgentName) -> None:
        """Load the agent, so that it can take attempts.

        Raises:
            AgentUnavailable: it cannot be loaded now; asked again later.
        """

    @property
    def capacity(self) -> int:
        """How many attempts may run at once; the dispatcher starts no more."""

    async def attempt(
        self, entry: Entry, *, timeout_seconds: float, begin: Begin = begin_freely
    ) -> Outcome:
        """Make one attempt; ends within the timeout plus the time to kill the host.

        Raises:
            NotBegun: `begin` raised it.
        """

    async def close(self) -> None:
        """Stop everything this transport started."""
