"""The limit of open files and connections, and how many the daemon needs."""

from __future__ import annotations

import resource
from typing import Final

from berinia_webhookd.config.settings import Settings

PER_HOST: Final = 8  # sockets and pipes, with their other ends while it starts
OTHERS: Final = 128  # journal, logs, listeners, HTTP agents, alert commands


def needed(settings: Settings) -> int:
    """Return the most that the daemon opens."""
    hosts = PER_HOST * settings.agents.max_hosts
    return settings.server.max_connections + hosts + OTHERS


def most() -> int:
    """Return the hard limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return hard if hard != resource.RLIM_INFINITY else 2**31


def allow(settings: Settings) -> None:
    """Raise the soft limit as far as needed, and no further: agents inherit it, and some programs
    walk through every descriptor up to it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(needed(settings), most())
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
