"""Fixtures: daemons and nginxes, ended after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ..end_to_end.daemon import PUBLIC_URL, Daemon
from ..end_to_end.providers import ALL_CHANNELS
from .nginx import Nginx

LOGS_PASSWORD = "correct horse battery staple"


@pytest.fixture
def behind_nginx(tmp_path: Path) -> Iterator[Callable[..., tuple[Nginx, Daemon]]]:
    """Starts a daemon as the old installation has it (the forwarded scheme and host are what
    signatures are checked with), and an nginx with the given locations in front of it.
    """
    with ExitStack() as stack:

        def start(
            locations: str, settings: str = "", program: Path | None = None
        ) -> tuple[Nginx, Daemon]:
            all_settings = f'{ALL_CHANNELS}\nlogs.password = "{LOGS_PASSWORD}"\n{settings}'
            daemon = Daemon(tmp_path, all_settings)
            text = daemon.config.read_text()
            daemon.config.write_text(text.replace(f'server.public_url = "{PUBLIC_URL}"', ""))
            stack.callback(daemon.close)
            daemon.start()
            nginx = Nginx(
                tmp_path / "nginx", daemon_port=daemon.port, locations=locations, program=program
            )
            stack.callback(nginx.close)
            return nginx, daemon

        yield start


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that the test starts itself."""
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.close()


@pytest.fixture
def daemon(stopped: Daemon) -> Daemon:
    """A running daemon with a recording agent."""
    return stopped.start()
