"""What an operator finds out beside a daemon while something is wrong."""

from __future__ import annotations

import json

from .daemon import Daemon
from .providers import EMAIL_PATH, MAILGUN_KEY, posted_mail, sample_mail


def test_mistakes_in_the_settings_hide_neither_events_nor_logs(daemon: Daemon) -> None:
    """The daemon goes on with what it has read, and says where its journal and logs are."""
    daemon.sms()
    daemon.wait_for("attempt.succeeded")
    daemon.config.write_text(daemon.config.read_text() + "\nserver.prot = 1\n")
    for words in (("events", "list"), ("events", "stats"), ("logs", "-n", "1")):
        done = daemon.run(*words)
        assert "check-config" in done.stderr
        assert done.stdout.strip()
    assert [one["state"] for one in json.loads(daemon.run("events", "list", "--json").stdout)] == [
        "done"
    ]


def test_replay_goes_by_settings_without_mistakes(daemon: Daemon) -> None:
    """They say which agent a rejected delivery goes to."""
    daemon.sms()
    daemon.wait_for("attempt.succeeded")
    [event] = json.loads(daemon.run("events", "list", "--json").stdout)
    daemon.config.write_text(daemon.config.read_text() + "\nserver.prot = 1\n")
    done = daemon.run("events", "replay", event["id"], check=False)
    assert done.returncode == 3
    assert "did you mean server.port" in done.stderr


def test_without_a_daemon_mistakes_are_said(daemon: Daemon) -> None:
    """Then nobody knows which journal is meant."""
    assert daemon.stop() == 0
    daemon.config.write_text(daemon.config.read_text() + "\nserver.prot = 1\n")
    done = daemon.run("events", "list", check=False)
    assert done.returncode == 3
    assert "did you mean server.port" in done.stderr


def test_an_agent_that_cannot_be_loaded_says_why(stopped: Daemon) -> None:
    """The exception, not the beginning of its traceback."""
    (stopped.agents / "recorder.py").write_text("import a_module_that_is_not_there\n")
    stopped.start()
    stopped.wait_for("agent.unavailable", agent="ResponseListenerAgent")
    stopped.sms()
    [event] = json.loads(stopped.run("events", "list", "--json").stdout)
    shown = stopped.run("events", "show", event["id"]).stdout
    [standing] = [line for line in shown.splitlines() if line.startswith("now ")]
    assert "the agent cannot be loaded: recorder.py:1: ModuleNotFoundError: No module" in standing
    assert "a_module_that_is_not_there" in standing


def test_nothing_is_left_of_a_person_whose_mails_came_by_another_envelope(stopped: Daemon) -> None:
    """A newsletter's envelope names its sender's machine; the person stands in From or Reply-To."""
    text = stopped.config.read_text()
    stopped.config.write_text(f'{text}\nchannels.email.signing_keys = ["{MAILGUN_KEY}"]\n')
    stopped.start()
    named = ({"from": "Anna <Anna.Durand@Example.COM>"}, {"Reply_To": "anna.durand@example.com"})
    for fields in ({}, *named):
        mail = sample_mail(sender="bounce-17@mailer.example.net", **fields)
        assert stopped.request("POST", EMAIL_PATH, *posted_mail(mail)).status == 200
    stopped.wait_for("attempt.succeeded", count=3)
    done = stopped.run("events", "erase", "--sender", "anna.durand@example.com")
    assert done.stdout.startswith("2 events in 1 conversation and 0 rejected deliveries erased")
    left = json.loads(stopped.run("events", "list", "--state", "done", "--json").stdout)
    assert len(left) == 1
    for file in (stopped.folder / "state").glob("journal.db*"):
        assert b"anna.durand" not in file.read_bytes().lower(), file
