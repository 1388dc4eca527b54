"""The daemon under a supervisor: what it says, when it is alive, and restarts behind a socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.daemon import Daemon
from tests.end_to_end.load import Load, wait_until_delivered
from tests.end_to_end.supervisor import NotifySocket, held_port, start_behind

pytestmark = pytest.mark.system


def test_restarts_behind_the_held_socket_refuse_and_lose_nothing(stopped: Daemon) -> None:
    """Under constant load every request gets its 2xx, and every message reaches the agent."""
    with held_port() as held:
        start_behind(held, stopped)
        with Load(stopped) as load:
            for _ in range(5):
                load.wait_for_more(40)
                stopped.wait_for("server.started")
                assert stopped.stop() == 0
                start_behind(held, stopped)
            load.wait_for_more(40)
        assert (load.refused, load.failed) == ({}, {})
        wait_until_delivered(stopped, load.accepted)
