"""How many files and connections the daemon may have open at once, and needs."""

from __future__ import annotations

import resource
from typing import Final

from berinia_webhookd.config.settings import Settings

OF_A_HOST: Final = 8  # sockets and pipes, the other ends while it starts included
OF_THE_REST: Final = 128  # journal, logs, listeners, HTTP agents, commands of alerts


def needed(settings: Settings) -> int:
    """Return how many the daemon opens at the very most."""
    return settings.server.max_connections + OF_A_HOST * settings.agents.max_hosts + OF_THE_REST


def most() -> int:
    """Return how many it can be allowed without more rights."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return hard if hard != resource.RLIM_INFINITY else 2**31


def allow(settings: Settings) -> None:
    """Raise the soft limit as far as is needed and allowed; agents, which inherit it, may find it
    dear to have one that is higher than that.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(needed(settings), most())
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
