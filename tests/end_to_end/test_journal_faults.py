"""A journal whose commits hang, or end in what nobody foresaw: everybody is told, and it ends."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .cluster import wait_until_equal
from .daemon import Daemon, sample_sms
from .faulty_journal import faulty_daemon

PATIENT = "server.ack_timeout_seconds = 20"
IMPATIENT = "server.ack_timeout_seconds = 5"


def journal_up(daemon: Daemon) -> float:
    lines = daemon.request("GET", "/metrics").body.decode().splitlines()
    (line,) = [line for line in lines if line.startswith("berinia_webhookd_journal_up ")]
    return float(line.split()[1])


@pytest.mark.parametrize("stopping", [False, True])
def test_a_writer_that_dies_ends_the_daemon(tmp_path: Path, stopping: bool) -> None:
    """Those of its batch are refused at once, the process ends with a status that a supervisor
    starts it again for, and what was accepted before is there.
    """
    with faulty_daemon(tmp_path, PATIENT) as daemon, ThreadPoolExecutor(5) as senders:
        assert daemon.sms().status == 200
        daemon.wait_for("attempt.succeeded")
        daemon.fault("hang").touch()
        lost = [sample_sms() for _ in range(5)]
        answers = [senders.submit(daemon.sms, fields) for fields in lost]
        daemon.fault("break").touch()
        if stopping:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait_for("server.stopping")
        daemon.fault("hang").unlink()
        statuses = [answer.exception() or answer.result().status for answer in answers]
        assert 503 in statuses
        assert 200 not in statuses
        assert daemon.wait_until_ended() == 1
        said = [line["text"] for line in daemon.lines if line["event"] == "not json"]
        assert len(said) == 1, said
        assert "the journal's writer ended" in said[0]
        daemon.fault("break").unlink()
        daemon.start()
        assert {daemon.sms(fields).status for fields in lost} == {200}
        daemon.wait_until_seen(6)


def test_a_disk_that_hangs_is_said_and_recovered_from(tmp_path: Path) -> None:
    """Callers are refused at once instead of after their time each, and what was being written
    when it hung is there once.
    """
    with faulty_daemon(tmp_path, IMPATIENT) as daemon:
        daemon.fault("hang").touch()
        under_way = sample_sms()
        assert daemon.sms(under_way).status == 503
        said = daemon.wait_for("journal.degraded")
        assert said["error"] == "nothing was committed for 5 s: does the disk hang?"
        assert daemon.sms().status == 503
        health = daemon.request("GET", "/health")
        assert (health.status, "journal" in health.json()["reasons"]) == (503, True)
        assert journal_up(daemon) == 0
        daemon.fault("hang").unlink()
        daemon.wait_for("journal.recovered")
        wait_until_equal(lambda: daemon.request("GET", "/health").status, 200)
        assert journal_up(daemon) == 1
        assert daemon.sms(under_way).status == 200
        daemon.wait_for("attempt.succeeded")
        assert len(daemon.seen()) == 1


def test_a_disk_that_hangs_does_not_keep_it_from_ending(tmp_path: Path) -> None:
    """A thread that will not come back is left behind."""
    with faulty_daemon(tmp_path, IMPATIENT) as daemon:
        daemon.fault("hang").touch()
        assert daemon.sms().status == 503
        daemon.wait_for("journal.degraded")
        assert daemon.stop() == 0
        daemon.wait_for("server.stopped")
