"""SIGHUP: what changes at once, what is refused, what needs a restart; nobody is turned away."""

from __future__ import annotations

import signal
from pathlib import Path

from .daemon import RECORDER, TOKEN, Daemon, sample_sms, signed_sms
from .load import Load, wait_until_delivered

NEW_TOKEN = "fedcba9876543210fedcba9876543210"


def rewrite(daemon: Daemon, old: str, new: str) -> None:
    """Change the settings file as an editor does; nothing old: add to it."""
    text = daemon.config.read_text()
    assert old in text
    daemon.config.write_text(text.replace(old, new) if old else f"{text}\n{new}\n")


def write_env(daemon: Daemon, text: str) -> None:
    env = daemon.folder / ".env"
    env.write_text(text)
    env.chmod(0o600)


def with_token(token: str) -> tuple[bytes, dict[str, str]]:
    return signed_sms(sample_sms(), token=token)


def test_reloads_under_load_lose_nothing(daemon: Daemon) -> None:
    """Reload after reload, every request gets its 2xx and every message its agent."""
    with Load(daemon) as load:
        before = ""
        for count in range(1, 6):
            load.wait_for_more(20)
            now = f"agents.ResponseListenerAgent.timeout_seconds = {count}"
            rewrite(daemon, before, now)
            before = now
            said = daemon.reload(count=count)
            assert said["changed"] == ["agents.ResponseListenerAgent.timeout_seconds"]
            assert said["needs_restart"] == []
        load.wait_for_more(20)
    assert (load.refused, load.failed) == ({}, {})
    wait_until_delivered(daemon, load.accepted)


def test_the_command_waits_for_the_word_of_the_daemon(daemon: Daemon) -> None:
    """What changed, or every problem with exit code 1; without a daemon, that there is none."""
    agents = 'agents.MetaAgent.target = "log:"\nagents.AdminInterpreterAgent.target = "log:"'
    rewrite(daemon, "", agents)
    daemon.reload()
    rewrite(daemon, "", "agents.ResponseListenerAgent.timeout_seconds = 7")
    done = daemon.run("reload")
    assert done.stdout == "reloaded; changed: agents.ResponseListenerAgent.timeout_seconds\n"
    good = daemon.config.read_text()
    daemon.config.write_text(good + "\nrate_limit.reqests = 1\n")
    refused = daemon.run("reload", check=False)
    assert refused.returncode == 1
    assert "the daemon goes on as before" in refused.stderr
    assert "rate_limit.reqests" in refused.stderr
    daemon.config.write_text(good)
    assert daemon.stop() == 0
    gone = daemon.run("reload", check=False)
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "no daemon runs here" in gone.stderr


def test_the_command_hears_words_that_come_at_once(stopped: Daemon) -> None:
    """Agents of the kind `log:` need no time to load, so both reports may come together."""
    text = stopped.config.read_text()
    target = "agents.ResponseListenerAgent.target"
    stopped.config.write_text(text.replace(f'{target} = "python:recorder:Recorder"', ""))
    with stopped.config.open("a") as config:
        for agent in ("ResponseListenerAgent", "MetaAgent", "AdminInterpreterAgent"):
            config.write(f'\nagents.{agent}.target = "log:"')
    stopped.start()
    for _ in range(5):
        assert stopped.run("reload").stdout == "reloaded; changed: nothing\n"


def test_a_bad_file_is_refused_and_the_old_one_stays(daemon: Daemon) -> None:
    """Every problem is in the log with its setting; requests are answered as before."""
    good = daemon.config.read_text()
    with Load(daemon) as load:
        load.wait_for_more(20)
        daemon.config.write_text(good + '\nrate_limit.reqests = 1\nlogs.level = "loud"\n')
        daemon.send_signal(signal.SIGHUP)
        problems = "\n".join(daemon.wait_for("config.refused")["problems"])
        load.wait_for_more(20)
        daemon.config.write_text("this is no TOML = = \n")
        daemon.send_signal(signal.SIGHUP)
        unreadable = "\n".join(daemon.wait_for("config.refused", count=2)["problems"])
        load.wait_for_more(20)
        daemon.config.unlink()
        daemon.send_signal(signal.SIGHUP)
        missing = "\n".join(daemon.wait_for("config.refused", count=3)["problems"])
        load.wait_for_more(20)
    assert "rate_limit.reqests" in problems
    assert "rate_limit.requests" in problems
    assert "logs.level" in problems
    assert str(daemon.config) in unreadable
    assert str(daemon.config) in missing
    assert (load.refused, load.failed) == ({}, {})
    daemon.config.write_text(good)
    assert daemon.reload()["changed"] == []


def test_a_token_is_rotated_in_env_without_a_gap(stopped: Daemon) -> None:
    """Both tokens are accepted while both stand there; then the old one no more."""
    write_env(stopped, f"TWILIO_TOKEN={TOKEN}\n")
    rewrite(stopped, f'channels.sms.tokens = ["{TOKEN}"]', "")
    stopped.start()
    token = TOKEN
    with Load(stopped, sign=lambda fields: signed_sms(fields, token=token)) as load:
        load.wait_for_more(20)
        assert stopped.post_sms(*with_token(NEW_TOKEN)).status == 403
        write_env(stopped, f"TWILIO_TOKEN={TOKEN},{NEW_TOKEN}\n")
        assert stopped.reload()["changed"] == ["channels.sms.tokens"]
        load.wait_for_more(20)
        token = NEW_TOKEN
        load.wait_for_more(20)
    write_env(stopped, f"TWILIO_TOKEN={NEW_TOKEN}\n")
    assert stopped.reload(count=2)["changed"] == ["channels.sms.tokens"]
    assert stopped.post_sms(*with_token(TOKEN)).status == 403
    assert stopped.post_sms(*with_token(NEW_TOKEN)).status == 200
    assert (load.refused, load.failed) == ({}, {})
    logged = (stopped.folder / "state" / "unified_logs" / "webhook.log").read_text()
    assert TOKEN not in logged
    assert NEW_TOKEN not in logged


def test_what_needs_a_restart_is_named(daemon: Daemon) -> None:
    """The rest of the file takes effect; what cannot is said, and holds after a restart."""
    rewrite(daemon, "rate_limit.requests = 100000", 'rate_limit.requests = 3\nlogs.level = "debug"')
    with daemon.config.open("a") as config:
        config.write('\njournal.lease_seconds = 20\nserver.port = 9\njournal.node = "two"\n')
    said = daemon.reload()
    # The port is pinned by a flag: whatever the file says, it does not hold.
    assert said["needs_restart"] == ["journal.lease_seconds", "journal.node", "server.port"]
    assert said["changed"] == ["logs.level", "rate_limit.requests"]
    statuses = [daemon.post_sms(*with_token(NEW_TOKEN)).status for _ in range(4)]
    assert statuses == [403, 403, 403, 429]
    # The file's values are still not those that hold.
    assert daemon.reload(count=2)["needs_restart"] == ["journal.lease_seconds", "journal.node"]


def test_changed_agent_code_is_loaded(daemon: Daemon) -> None:
    """The attempt under way ends with the old code; the next one runs the new."""
    hold = daemon.agents / "hold"
    hold.touch()
    daemon.sms(Body="old code")
    daemon.wait_until_seen(1)
    new = RECORDER.replace("json.dumps(input_data)", 'json.dumps({**input_data, "code": "new"})')
    (daemon.agents / "recorder.py").write_text(new)
    daemon.reload()
    daemon.wait_for("agents.reloaded")
    hold.unlink()
    daemon.wait_for("attempt.succeeded")
    daemon.sms(Body="new code")
    daemon.wait_for("attempt.succeeded", count=2)
    seen = [(payload["data"]["body"], payload.get("code")) for payload in daemon.seen()]
    assert seen == [("old code", None), ("new code", "new")]


def test_agents_and_their_limits_change(daemon: Daemon, tmp_path: Path) -> None:
    """Another target takes over from the next message on."""
    daemon.sms(Body="to the recorder")
    daemon.wait_for("attempt.succeeded")
    rewrite(daemon, "python:recorder:Recorder", "log:")
    assert daemon.reload()["changed"] == ["agents.ResponseListenerAgent.target"]
    daemon.sms(Body="to the log")
    daemon.wait_for("attempt.succeeded", count=2)
    assert [payload["data"]["body"] for payload in daemon.seen()] == ["to the recorder"]


def test_a_deleted_working_folder_stops_nothing(stopped: Daemon) -> None:
    """`.env` cannot be looked for any more: the reload is refused, and says so."""
    gone = stopped.folder / "gone"
    gone.mkdir()
    stopped.start(launcher=["sh", "-c", 'cd "$0" && exec "$@"', str(gone)])
    gone.rmdir()
    stopped.send_signal(signal.SIGHUP)
    assert "working folder" in stopped.wait_for("config.refused")["problems"][0]
    assert stopped.sms().status == 200


def test_a_new_channel_is_named_once(daemon: Daemon) -> None:
    """And not each of its keys, which are all new."""
    before = daemon.config.read_text()
    table = '[channels.second]\nkind = "twilio"\nagent = "ResponseListenerAgent"\n'
    daemon.config.write_text(f"{before}\n{table}")
    assert "reloaded; changed: new channel second\n" in daemon.run("reload", check=False).stdout
    daemon.config.write_text(before)
    assert "changed: channel second is gone\n" in daemon.run("reload", check=False).stdout


BROKEN = RECORDER + "\n\ndef unfinished(:\n    pass\n"


def test_a_reload_keeps_a_working_agent_whose_new_code_is_broken(daemon: Daemon) -> None:
    """The old code goes on; the log, the command, `doctor` and /health say which line is wrong,
    and the new code is loaded once it can be.
    """
    line = BROKEN[: BROKEN.index("def unfinished")].count("\n") + 1
    where = f"recorder.py:{line}: SyntaxError: "
    daemon.wait_for("agent_host.started")
    daemon.sms(Body="before")
    daemon.wait_for("attempt.succeeded")
    (daemon.agents / "recorder.py").write_text(BROKEN)
    done = daemon.run("reload", check=False, environment={"COLUMNS": "200"})
    assert done.returncode == 1
    assert f"so the code before goes on: ResponseListenerAgent: {where}" in done.stderr
    said = daemon.wait_for("agent.outdated", agent="ResponseListenerAgent")
    assert said["error"].startswith(where)
    assert [name for name in ("importlib", "agent_calls") if name in said["exception"]] == []
    daemon.sms(Body="with the old code")
    daemon.wait_for("attempt.succeeded", count=2)
    looked = daemon.run("doctor", "--problems", check=False, environment={"COLUMNS": "200"}).stdout
    assert "the code before goes on for ResponseListenerAgent" in looked
    assert where in looked
    checked = daemon.run("check-config", check=False, environment={"COLUMNS": "200"}).stdout
    assert "the code before goes on for ResponseListenerAgent; the new code cannot" in checked
    assert where in checked
    assert where in daemon.request("GET", "/health").json()["reasons"]["agents"]
    new = RECORDER.replace("json.dumps(input_data)", 'json.dumps({**input_data, "code": "new"})')
    (daemon.agents / "recorder.py").write_text(new)
    daemon.run("reload", check=False)  # of the others, which have no target, it says so
    daemon.wait_for("agents.reloaded", count=2)
    daemon.sms(Body="new")
    daemon.wait_for("attempt.succeeded", count=3)
    seen = [(payload["data"]["body"], payload.get("code")) for payload in daemon.seen()]
    assert seen == [("before", None), ("with the old code", None), ("new", "new")]
