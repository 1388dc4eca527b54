"""What an operator finds out beside a daemon while something is wrong."""

from __future__ import annotations

import json

from .daemon import Daemon


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
    assert "the agent cannot be loaded: ModuleNotFoundError: No module named" in standing
    assert "a_module_that_is_not_there" in standing
