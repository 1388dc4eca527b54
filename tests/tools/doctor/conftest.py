"""Fixtures: a daemon to be broken, and the proxy before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.daemon import Daemon

KEY = "key-fedcba9876543210fedcba9876543210"


def make(folder: Path) -> Daemon:
    """A daemon without a public URL; all its agents can be loaded."""
    daemon = Daemon(
        folder,
        f'channels.email.signing_keys = ["{KEY}"]\n'
        'agents.MetaAgent.target = "log:"\n'
        'agents.AdminInterpreterAgent.target = "log:"\n',
    )
    set_public_url(daemon, None)
    return daemon


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Daemon]:
    """One that the test starts itself."""
    daemon = make(tmp_path)
    yield daemon
    daemon.close()


@pytest.fixture
def daemon(stopped: Daemon) -> Daemon:
    """One that runs."""
    return stopped.start()


def set_public_url(daemon: Daemon, url: str | None) -> None:
    """Write another public URL, or none, where the daemon's own tests have theirs."""
    lines = daemon.config.read_text().splitlines()
    kept = [line for line in lines if not line.strip().startswith("server.public_url")]
    given = [] if url is None else [f'server.public_url = "{url}"']
    daemon.config.write_text("\n".join([*given, *kept]))
