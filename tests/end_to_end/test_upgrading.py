"""Upgrading: an older and a newer program, each a process of its own, with one journal."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ..postgresql import Postgresql
from .cluster import Cluster, Senders, Worker, first_seen, wait_for_states
from .daemon import Daemon
from .newer import NEWER_VERSION, OLDER_VERSION, STEP, Program, newer_program


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return newer_program(tmp_path_factory.mktemp("newer"))


@pytest.fixture
def cluster(tmp_path: Path, postgresql: Postgresql) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, postgresql)
    with cluster.stack:
        yield cluster


def version(node: Daemon) -> str:
    """Which program it is, by its own word."""
    text = node.request("GET", "/metrics").body.decode()
    return text.partition('berinia_webhookd_build_info{version="')[2].partition('"')[0]


def ask(cluster: Cluster, question: str) -> list[tuple[Any, ...]]:
    async def fetch() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(cluster.server.url(cluster.database))
        try:
            return [tuple(row) for row in await connection.fetch(question)]
        finally:
            await connection.close()

    return asyncio.run(fetch())


def wait_for_more(node: Daemon, event: str, more: int) -> None:
    """Block until this node has logged it so many times more."""
    before = sum(line["event"] == event for line in list(node.lines))
    node.wait_for(event, count=before + more)


def test_machines_are_upgraded_one_after_another(cluster: Cluster, newer: Program) -> None:
    """Under load two newer programs start at once and extend the schema once; the older ones go on
    accepting and dispatching on it, are restarted on it, and leave: nobody is refused, and all that
    was answered 200 is delivered, in order.
    """
    door, hands = cluster.node(Daemon, "door"), cluster.node(Worker, "hands")
    new_door, new_hands = cluster.node(Daemon, "new-door"), cluster.node(Worker, "new-hands")
    doors = [door.start("--no-dispatch")]
    hands.start()
    with Senders(doors) as senders:
        wait_for_more(hands, "attempt.succeeded", 20)
        for node in (new_door, new_hands):
            node.launch(environment=newer.environment)
        for node in (new_door, new_hands):
            node.wait_until_started()
        doors.append(new_door)
        assert ask(cluster, "SELECT version FROM berinia_webhookd.schema") == [(STEP,)]
        for node in (door, new_door):
            wait_for_more(node, "event.accepted", 20)
        for node in (hands, new_hands):
            wait_for_more(node, "attempt.succeeded", 20)
        assert [version(node) for node in (door, hands)] == [OLDER_VERSION] * 2
        assert [version(node) for node in (new_door, new_hands)] == [NEWER_VERSION] * 2
        for node in (door, hands):
            doors[:] = [new_door]
            assert node.stop() == 0
            node.start()
            assert version(node) == OLDER_VERSION
        doors.append(door)
        wait_for_more(door, "event.accepted", 20)
        for node in (door, hands):
            wait_for_more(node, "attempt.succeeded", 20)
        doors[:] = [new_door]
        assert (door.stop(), hands.stop()) == (0, 0)
        senders.wait_for_more(20)
    wait_for_states(new_hands, {"done": senders.total})
    assert first_seen(new_hands.seen()) == senders.accepted
    assert senders.refusals == []
    for node in (door, hands, new_door, new_hands):
        assert [line for line in node.lines if line["event"] == "journal.degraded"] == []
    by_program = (
        "SELECT DISTINCT d.node, e.remark FROM berinia_webhookd.entries AS e "
        "JOIN berinia_webhookd.events AS v ON v.number = e.event "
        "JOIN berinia_webhookd.deliveries AS d ON d.number = v.delivery ORDER BY d.node"
    )
    assert ask(cluster, by_program) == [("door", None), ("new-door", "newer")]


def test_there_is_a_way_back(stopped: Daemon, newer: Program) -> None:
    """A SQLite journal that a newer program extended is the older one's again; what one of them
    accepted the other dispatches.
    """
    older: dict[str, str] = {}
    for number, environment in enumerate((newer.environment, older), start=1):
        other = older if environment else newer.environment
        stopped.start("--no-dispatch", environment=other)
        assert stopped.sms().status == 200
        assert stopped.stop() == 0
        stopped.start(environment=environment)
        assert version(stopped) == (NEWER_VERSION if environment else OLDER_VERSION)
        stopped.wait_for("attempt.succeeded")
        assert stopped.stop() == 0
        assert len(stopped.seen()) == number
    with closing(sqlite3.connect(stopped.folder / "state" / "journal.db")) as journal:
        assert journal.execute("SELECT version FROM schema").fetchall() == [(STEP,)]
        assert journal.execute("SELECT count(remark) FROM entries").fetchall() == [(1,)]


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_a_newer_program_can_make_a_new_journal(
    engine: str, newer: Program, request: pytest.FixtureRequest
) -> None:
    """All steps, one after another, in an empty database."""
    if engine == "sqlite":
        node: Daemon = request.getfixturevalue("stopped")
    else:
        node = request.getfixturevalue("cluster").node(Daemon, "door")
    node.start(environment=newer.environment)
    assert version(node) == NEWER_VERSION
    assert node.sms().status == 200
    node.wait_for("attempt.succeeded")
    assert node.stop() == 0
