"""Agents of a real daemon: what is left of them when it dies, and what providers notice of them."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

from ..outbound.agent_world import MARK, marked_processes, until, until_gone
from .daemon import Daemon

# Leaves a grandchild in a session of its own, says so, and never returns.
HANGING = """
import os, pathlib, time

SIGN = pathlib.Path(__file__).with_name("hanging")


class Recorder:
    def run(self, input_data):
        if input_data["attempt"] > 1:
            return {"response": "this time"}
        if os.fork() == 0:
            os.setsid()
            time.sleep(3600)
        SIGN.touch()
        time.sleep(3600)
"""


def test_nothing_outlives_a_daemon_that_is_killed(tmp_path: Path) -> None:
    """After `kill -9` no agent host, and nothing that its agents started, is left; the next start
    tries the event again.
    """
    mark = uuid.uuid4().hex
    daemon = Daemon(tmp_path, agent=HANGING)
    try:
        daemon.start(environment={MARK: mark})
        daemon.sms()
        event_id = daemon.wait_for("attempt.started")["event_id"]
        asyncio.run(until((daemon.agents / "hanging").exists))
        assert len(marked_processes(mark)) == 4  # the daemon, a guardian, a host, a grandchild
        daemon.kill()
        asyncio.run(until_gone(mark))
        daemon.start()
        daemon.wait_for("attempt.succeeded", event_id=event_id, attempt=2)
    finally:
        daemon.close()
