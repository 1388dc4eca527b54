"""PostgreSQL whose disk is really full: its data cannot grow, or its WAL, which ends the server."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from ..full_disk import small_disk
from ..postgresql import Postgresql
from .cluster import Cluster, Senders, Worker, first_seen, wait_for_states, wait_until_equal
from .daemon import PATIENCE_SECONDS, Daemon

MIB = 1024 * 1024
DISK_BYTES = 160 * MIB
SEGMENT_BYTES = 16 * MIB  # of the WAL
MEANS = pytest.mark.parametrize("means", ["a small disk", "a limit on files"])
DEADLINE_SECONDS = 3
BUSY_SECONDS = 5  # what a busy machine may add
MOST_RECOVERIES = 5  # the server itself may free a little, and that be enough for a while

# A table that every event goes into becomes larger than a segment of WAL.
ENLARGE = f"""
INSERT INTO berinia_webhookd.deliveries
    (number, id, channel, target, content_type, node, received_at, state, body)
SELECT -n, n::text, 'sms', '/', 'text/plain', 'here', 0, 'accepted', repeat('x', 100)::bytea
FROM generate_series(1, {SEGMENT_BYTES // 150}) AS n
"""
WRITE_WAL = f"SELECT pg_logical_emit_message(false, 'test', repeat('x', {SEGMENT_BYTES // 2}))"


@dataclass
class Storage:
    """A PostgreSQL server; how to let nothing grow that it writes to, and how to free it again."""

    server: Postgresql
    fill: Callable[[], None]
    free: Callable[[], None]


@contextmanager
def data_storage(means: str) -> Iterator[Storage]:
    """Where the data cannot grow and the WAL can."""
    if means != "a small disk":
        with closing(Postgresql()) as server:
            yield limited(server, SEGMENT_BYTES)
        return
    with (
        folder() as place,
        small_disk(place / "disk", DISK_BYTES, mode=0o755) as disk,
        closing(Postgresql(data=disk.folder, wal=place)) as server,
    ):
        yield Storage(server, disk.fill, disk.free)


@contextmanager
def wal_storage(means: str) -> Iterator[Storage]:
    """Where the WAL cannot grow."""
    if means != "a small disk":
        with closing(Postgresql()) as server:
            yield limited(server, MIB)
        return
    with (
        folder() as place,
        small_disk(place / "disk", DISK_BYTES, mode=0o755) as disk,
        closing(Postgresql(wal=disk.folder)) as server,
    ):
        yield Storage(server, disk.fill, disk.free)


@contextmanager
def folder() -> Iterator[Path]:
    """One that PostgreSQL's user may enter."""
    made = Path(tempfile.mkdtemp(prefix="berinia-disk-"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made)


def limited(server: Postgresql, most_bytes: int) -> Storage:
    """Where mounting is not allowed: no file of the server's can grow beyond this."""
    return Storage(server, lambda: server.limit_files(most_bytes), lambda: server.limit_files(None))


def execute(cluster: Cluster, statement: str) -> None:
    asyncio.run(cluster.server.execute(cluster.database, statement))


def write_wal(cluster: Cluster) -> None:
    """More than its disk could hold."""
    for _ in range(DISK_BYTES // SEGMENT_BYTES * 2):
        execute(cluster, WRITE_WAL)


def wait_until_served(cluster: Cluster) -> None:
    """Block until PostgreSQL lets somebody in; started again, if it has given up."""
    pause = threading.Event()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return execute(cluster, "SELECT 1")
        except (OSError, asyncpg.PostgresError):
            if time.monotonic() > deadline:
                raise
            cluster.server.ensure_running()
            pause.wait(0.1)


def refused_in_time(door: Daemon) -> None:
    """Everybody was told, and when to come again."""
    answer = door.sms()
    assert (answer.status, "Retry-After" in answer.headers) == (503, True)
    wait_until_equal(lambda: door.request("GET", "/health").status, 503)
    door.wait_for("request.finished", path="/health", status=503)
    took_ms = [
        line["duration_ms"]
        for line in list(door.lines)
        if line["event"] == "request.finished" and line["status"] == 503
    ]
    assert max(took_ms) < (DEADLINE_SECONDS + BUSY_SECONDS) * 1000


def news_of_the_journal(node: Daemon) -> list[str]:
    events = [str(line["event"]) for line in list(node.lines)]
    return [event for event in events if event.startswith("journal.")]


def all_is_well(door: Daemon, hands: Daemon, senders: Senders) -> None:
    """What was answered 200 was delivered, in order; nothing is dead, and nobody was told else."""
    wait_for_states(hands, {"done": senders.total})
    assert first_seen(hands.seen()) == senders.accepted
    assert set(senders.refusals) == {503}
    wait_until_equal(lambda: door.request("GET", "/health").status, 200)


def start(cluster: Cluster) -> tuple[Daemon, Daemon]:
    deadline = f"server.ack_timeout_seconds = {DEADLINE_SECONDS}"
    door = cluster.node(Daemon, "door", deadline, behind_proxy=False).start("--no-dispatch")
    return door, cluster.node(Worker, "hands", behind_proxy=False).start()


@MEANS
def test_data_that_cannot_grow_is_refused_until_it_can(tmp_path: Path, means: str) -> None:
    """The server goes on, and only what must be kept is refused."""
    with data_storage(means) as storage:
        cluster = Cluster(tmp_path, storage.server)
        with cluster.stack:
            door, hands = start(cluster)
            execute(cluster, ENLARGE)
            with Senders([door]) as senders:
                senders.wait_for_more(30)
                storage.fill()
                senders.wait_until(lambda: senders.refusals.count(503) > 300)
                refused_in_time(door)
                storage.free()
                senders.wait_for_more(50)
            all_is_well(door, hands, senders)
            news = news_of_the_journal(door)
            assert news == ["journal.degraded", "journal.recovered"] * (len(news) // 2)
            assert len(news) // 2 <= MOST_RECOVERIES


@MEANS
def test_wal_that_cannot_grow_is_waited_for(tmp_path: Path, means: str) -> None:
    """The server falls, and as long as its disk is full it cannot come back."""
    with wal_storage(means) as storage:
        cluster = Cluster(tmp_path, storage.server)
        with cluster.stack:
            door, hands = start(cluster)
            with Senders([door]) as senders:
                senders.wait_for_more(30)
                storage.fill()
                with pytest.raises((OSError, asyncpg.PostgresError)):
                    write_wal(cluster)
                senders.wait_until(lambda: 503 in senders.refusals)
                refused_in_time(door)
                storage.free()
                wait_until_served(cluster)
                senders.wait_for_more(50)
            all_is_well(door, hands, senders)
