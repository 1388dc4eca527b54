"""Many machines: real processes that share one PostgreSQL, under load and under blows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..postgresql import Postgresql
from .cluster import Cluster, Senders, Worker, first_seen, wait_for_states, wait_until_equal
from .daemon import Daemon
from .providers import WHATSAPP_PATH, posted_whatsapp


@pytest.fixture
def cluster(tmp_path: Path, postgresql: Postgresql) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, postgresql)
    with cluster.stack:
        yield cluster


def test_a_worker_refuses_a_journal_that_cannot_be_shared(tmp_path: Path) -> None:
    """A SQLite file has one owner; the one line says what to change."""
    refused = Daemon(tmp_path).run("worker", check=False)
    assert refused.returncode == 3
    (line,) = refused.stderr.splitlines()
    assert "journal.url" in line


def test_what_one_machine_receives_another_answers(cluster: Cluster) -> None:
    """An SMS is handed on and a WhatsApp reply comes back, and `events show` knows who did what."""
    door = cluster.node(Daemon, "door").start("--no-dispatch")
    hands = cluster.node(Worker, "hands").start()
    assert door.sms().status == 200
    sms = door.wait_for("event.accepted")["event_id"]
    hands.wait_for("attempt.succeeded", event_id=sms)
    answer = door.request("POST", WHATSAPP_PATH, *posted_whatsapp())
    assert (answer.status, answer.json()["response"]) == (200, "noted")
    shown = json.loads(door.run("events", "show", sms, "--json").stdout)
    assert shown["node"] == "door"
    assert [attempt["node"] for attempt in shown["attempts"]] == ["hands"]
    assert hands.request("POST", WHATSAPP_PATH, *posted_whatsapp()).status == 404
    wait_for_states(hands, {"done": 2})
    assert (door.stop(), hands.stop()) == (0, 0)


def test_a_node_without_an_agent_leaves_its_work_to_others(cluster: Cluster) -> None:
    """It says that it cannot load it, claims nothing for it, and uses up no attempt."""
    door = cluster.node(Daemon, "door").start("--no-dispatch")
    without = cluster.node(Worker, "without")
    without.config.write_text(
        without.config.read_text().replace("python:recorder:Recorder", "python:missing:Agent", 1)
    )
    without.start()
    without.wait_for("agent.unavailable", agent="ResponseListenerAgent")
    assert door.sms().status == 200
    event_id = door.wait_for("event.accepted")["event_id"]
    wait_for_states(without, {"ready": 1})
    hands = cluster.node(Worker, "hands").start()
    hands.wait_for("attempt.succeeded", event_id=event_id, attempt=1)
    assert not [line for line in without.lines if line["event"] == "attempt.started"]


def test_a_pause_holds_on_every_machine(cluster: Cluster) -> None:
    """It outlives `kill -9` of all of them, STOP passes it, and afterwards the order is kept."""
    door = cluster.node(Daemon, "door").start("--no-dispatch")
    hands = cluster.node(Worker, "hands").start()
    door.sms(Body="one")
    hands.wait_for("attempt.succeeded")
    door.run("conversations", "pause", "--sender", "+33639980001")
    for text in ("two", "three", "STOP"):
        assert door.sms(Body=text).status == 200
    hands.wait_for("attempt.succeeded", count=2)
    for node in (door, hands):
        node.kill()
        node.start(*(["--no-dispatch"] if node is door else []))
    door.sms(Body="somebody else's", From="+33639980009")
    hands.wait_for("attempt.succeeded")
    wait_for_states(hands, {"done": 3, "ready": 2})
    hands.run("conversations", "resume", "--sender", "+33639980001")
    wait_for_states(hands, {"done": 5})
    told = [payload["data"]["body"] for payload in hands.seen()]
    assert told == ["one", "STOP", "somebody else's", "two", "three"]


def test_a_database_that_is_away_is_waited_for(cluster: Cluster) -> None:
    """`serve` starts, answers 503 with a time to come again, says so, and recovers by itself."""
    cluster.proxy.shut()
    door = cluster.node(Daemon, "door").start()
    answer = door.sms()
    assert (answer.status, "Retry-After" in answer.headers) == (503, True)
    assert door.request("GET", "/health").status == 503
    cluster.proxy.flow()
    door.wait_for("journal.recovered")
    assert door.sms().status == 200
    door.wait_for("attempt.succeeded")
    wait_until_equal(lambda: door.request("GET", "/health").status, 200)


def test_the_password_is_nowhere_to_be_seen(cluster: Cluster) -> None:
    """Neither in logs, nor in the list of processes, nor in what commands print."""
    door = cluster.node(Daemon, "door").start("--debug")
    cluster.proxy.cut()
    door.wait_for("journal.recovered")
    assert door.sms().status == 200
    door.wait_for("attempt.succeeded")
    assert door.process is not None
    seen = Path(f"/proc/{door.process.pid}/cmdline").read_text()
    seen += json.dumps(door.lines)
    for words in (["check-config"], ["events", "list"], ["doctor"]):
        done = door.run(*words, check=False)
        seen += done.stdout + done.stderr
    cluster.proxy.shut()
    for words in (["events", "list"], ["check-config"]):
        done = door.run(*words, check=False)
        assert done.returncode != 0
        seen += done.stdout + done.stderr
    seen += "".join(
        file.read_text(errors="replace")
        for file in (door.folder / "state").rglob("*")
        if file.is_file()
    )
    assert "event.accepted" in seen
    assert "geheim" not in seen


def test_nothing_accepted_is_lost_whoever_falls(cluster: Cluster) -> None:
    """Two that receive and two that work, each killed in turn; the database restarted, cut off and
    silent: all that was answered 200 is delivered, each conversation in its order.
    """
    deadline = "server.ack_timeout_seconds = 1"
    doors = [
        cluster.node(Daemon, "door1", deadline).start("--no-dispatch"),
        cluster.node(Daemon, "door2", deadline, behind_proxy=False).start(),
    ]
    hands = [
        cluster.node(Worker, "hands1").start(),
        cluster.node(Worker, "hands2", behind_proxy=False).start(),
    ]
    with Senders(doors) as senders:
        senders.wait_for_more(50)
        for node, flags in ((doors[0], ["--no-dispatch"]), (hands[0], []), (doors[1], [])):
            node.kill()
            senders.wait_for_more(20)
            node.start(*flags)
        cluster.server.crash()
        cluster.server.start()
        senders.wait_for_more(50)
        cluster.proxy.cut()
        senders.wait_for_more(50)
        senders.refusals.clear()
        cluster.proxy.stall()
        senders.wait_until(lambda: 503 in senders.refusals)
        cluster.proxy.flow()
        senders.wait_for_more(50)
        hands[1].kill()
        senders.wait_for_more(50)
    total = senders.total
    wait_for_states(hands[0], {"done": total})
    assert first_seen(hands[0].seen()) == senders.accepted
    assert set(senders.refusals) <= {503}
