"""The register of consents, through the whole daemon: what people say, and what agents are told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ..postgresql import Postgresql
from .cluster import Cluster
from .daemon import Daemon
from .test_lost_journal import copy_of

SENDER, CUSTOMER = "+33639980077", "+33639980078"


@pytest.fixture
def daemon(tmp_path: Path, journal: str) -> Iterator[Daemon]:
    """A running daemon, by engine."""
    with closing(Daemon(tmp_path, journal)) as daemon:
        yield daemon.start()


def told(daemon: Daemon, number: int) -> dict[str, Any]:
    """What the agent got at its attempt of this number, from 0."""
    data: dict[str, Any] = daemon.wait_until_seen(number + 1)[number]["data"]
    return data


def test_who_says_stop_is_out_until_start(daemon: Daemon) -> None:
    """A customer's "Yes" is an answer; that of who opted out is START. Agents are told so, and a
    daemon that was killed remembers.
    """
    daemon.sms(From=CUSTOMER, Body="Yes!")
    answer = told(daemon, 0)
    assert (answer["opt_out"], answer["consent"]) == (None, None)
    daemon.sms(From=SENDER, Body="Stop.")
    stopped = told(daemon, 1)
    assert (stopped["opt_out"], stopped["consent"]["state"]) == ("STOP", "opted_out")
    assert daemon.wait_for("consent.changed")["consent"] == "opted_out"
    daemon.wait_for("attempt.succeeded", count=2)  # else the last one runs again
    daemon.kill()
    daemon.start()
    daemon.sms(From=SENDER, Body="Qui êtes-vous ?")
    assert told(daemon, 2)["consent"] == stopped["consent"]
    daemon.sms(From=SENDER, Body="yes")
    resumed = told(daemon, 3)
    assert (resumed["opt_out"], resumed["consent"]["state"]) == ("START", "opted_in")
    assert daemon.wait_for("consent.changed", consent="opted_in")["event_id"]


def test_an_opt_out_outlives_erasure(daemon: Daemon, journal: str) -> None:
    """It is recognised by its key, over `kill -9`; with another key, the daemon does not start."""
    daemon.sms(From=SENDER, Body="STOP")
    daemon.sms(From=CUSTOMER, Body="Bonjour")
    daemon.wait_for("attempt.succeeded", count=2)
    erased = daemon.run("events", "erase", "--sender", SENDER, "--json")
    assert json.loads(erased.stdout)["consents"] == 1
    status, said = check(daemon, f"whatsapp:{SENDER}")
    assert (status, said["may_be_written_to"]) == (1, False)
    assert [one["state"] for one in said["consents"]] == ["opted_out"]
    (listed,) = json.loads(daemon.run("consents", "list", "--json").stdout)
    assert (listed["address"], listed["state"]) == (None, "opted_out")
    daemon.kill()
    daemon.start()
    daemon.sms(From=SENDER, Body="Encore moi")
    assert told(daemon, 2)["consent"] == {"state": "opted_out", "since": listed["since"]}
    exported = daemon.run("consents", "export").stdout.splitlines()
    assert [json.loads(line)["address"] for line in exported] == [SENDER]
    daemon.run("events", "erase", "--sender", SENDER)
    assert daemon.stop() == 0
    change_key(daemon, journal)
    refused = daemon.run(*daemon.role, check=False)
    assert refused.returncode == 3
    assert "consents.key" in refused.stderr
    assert daemon.run("consents", "check", SENDER, check=False).returncode == 3
    checked = daemon.run("check-config", check=False)
    assert (checked.returncode, "consents.key" in checked.stdout) == (1, True)


def change_key(daemon: Daemon, journal: str) -> None:
    """Give it another key: in the configuration or in the file, which nobody else can read."""
    if journal:
        daemon.config.write_text(daemon.config.read_text().replace("k" * 32, "j" * 32))
        return
    key = Path(daemon.environment["STATE_DIRECTORY"]) / "consents.key"
    assert key.stat().st_mode & 0o777 == 0o600
    key.write_text("0" * 64)


def check(daemon: Daemon, *words: str) -> tuple[int, dict[str, Any]]:
    """What `consents check` says, and its exit status."""
    done = daemon.run("consents", "check", *words, "--json", check=False)
    return done.returncode, json.loads(done.stdout)


def test_people_read_the_register(daemon: Daemon) -> None:
    """A list, an answer with since when and by which event, and a person's data with consents."""
    assert "Nobody" in daemon.run("consents", "list").stdout
    daemon.sms(From=SENDER, Body="STOP")
    event = daemon.wait_for("consent.changed")["event_id"]
    assert SENDER in daemon.run("consents", "list", "--channel", "sms").stdout
    refused = daemon.run("consents", "check", SENDER, check=False)
    assert refused.returncode == 1
    assert "must not be written to" in refused.stdout
    assert event in refused.stdout
    assert check(daemon, SENDER, "--channel", "email")[0] == 0
    assert "never said" in daemon.run("consents", "check", CUSTOMER).stdout
    assert daemon.run("consents", "check", " ", check=False).returncode == 2
    national = f"0{SENDER.removeprefix('+33')}"
    for address, why in (
        ("nonsense", "does not look like an address"),
        (national, f"{national} may be written to cannot be told without its country"),
    ):
        unknown = daemon.run("consents", "check", address, check=False)
        assert (unknown.returncode, unknown.stdout) == (2, "")
        assert why in " ".join(unknown.stderr.split())
    assert check(daemon, "Anna <a@b.example>")[0] == 0
    *_, last = daemon.run("events", "export", "--sender", SENDER).stdout.splitlines()
    assert json.loads(last)["consent"]["event"] == event


@pytest.mark.parametrize("journal", ["sqlite"], indirect=True)  # the command is for files
def test_a_backup_brings_back_nobody_who_was_erased(daemon: Daemon) -> None:
    """What the person said since the backup counts, and is under a digest after the restore."""
    state = Path(daemon.environment["STATE_DIRECTORY"])
    daemon.sms(From=SENDER, Body="STOP")
    daemon.wait_for("attempt.succeeded")
    backup = copy_of(state / "journal.db")
    daemon.sms(From=SENDER, Body="START")
    daemon.sms(From=SENDER, Body="STOP SMS")
    daemon.wait_for("attempt.succeeded", count=3)
    event = daemon.wait_for("consent.changed", count=3)["event_id"]
    daemon.run("events", "erase", "--sender", SENDER)
    daemon.stop()
    daemon.run("journal", "restore", str(backup))
    assert SENDER[1:].encode() not in (state / "journal.db").read_bytes()
    (listed,) = json.loads(daemon.run("consents", "list", "--json").stdout)
    assert (listed["address"], listed["event"]) == (None, event)
    assert check(daemon, SENDER)[0] == 1
    assert daemon.start().sms().status == 200


def test_on_postgresql_the_key_is_set_and_named(tmp_path: Path, postgresql: Postgresql) -> None:
    """Without it nobody who opted out is erased; with it two nodes recognise the same people."""
    cluster = Cluster(tmp_path, postgresql)
    with cluster.stack:
        one = cluster.node(Daemon, "one").start()
        one.wait_for("config.warning", setting="consents.key")
        one.sms(From=SENDER, Body="STOP")
        one.wait_for("attempt.succeeded")
        refused = one.run("events", "erase", "--sender", SENDER, check=False)
        assert (refused.returncode, "consents.key" in refused.stderr) == (1, True)
        assert one.stop() == 0
        one.config.write_text(one.config.read_text() + f'\nconsents.key = "{"k" * 32}"\n')
        one.run("events", "erase", "--sender", SENDER)
        assert check(one, SENDER)[0] == 1
        assert cluster.node(Daemon, "two").run("serve", check=False).returncode == 3
