"""The service is down, its port is held by another, it runs another version, it says it is ill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from pathlib import Path

import pytest

from berinia_webhookd.tools.doctor import processes
from berinia_webhookd.tools.doctor.processes import Process
from tests.end_to_end.daemon import Daemon
from tests.ports import refusing_port

from .conftest import make
from .reading import doctor, run_doctor


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for what does not end it."""
    daemon = make(tmp_path_factory.mktemp("running")).start()
    yield daemon
    daemon.close()


@pytest.fixture
def shared(running: Daemon) -> Iterator[Daemon]:
    """The same, with its `serve.json` as it was."""
    file = running.folder / "state" / "serve.json"
    before = file.read_text()
    yield running
    file.write_text(before)


def say(daemon: Daemon, other: Mapping[str, object]) -> None:
    """Let `serve.json` say something else."""
    file = daemon.folder / "state" / "serve.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **other}))


def test_a_healthy_service(shared: Daemon) -> None:
    """Up, port held by us, version the installed one, healthy: each is said."""
    report = run_doctor(shared)
    assert (report.status == 0) == report.document["healthy"]
    for check in ("service", "port", "version", "health"):
        assert [finding["level"] for finding in report.of(check)] == ["ok"]
    assert report.document["address"] == f"127.0.0.1:{shared.port}"


def test_a_service_that_does_not_run(stopped: Daemon) -> None:
    """Not running is said first, with the command that starts it, and is exit code 1."""
    report = run_doctor(stopped)
    assert report.status == 1
    finding = report.one("service", "wrong", "no daemon runs")
    assert any("berinia-webhook" in step for step in finding["fix"])
    assert finding["why"]


def test_a_service_that_was_killed(daemon: Daemon) -> None:
    """A `serve.json` of a process that is gone is no running daemon."""
    daemon.kill()
    assert doctor(daemon).one("service", "wrong", "no daemon runs")


def test_a_port_held_by_another_process(stopped: Daemon) -> None:
    """The finding names the process that holds the port, and how to look at it."""
    script = "import socket; s = socket.create_server(('127.0.0.1', 0)); "
    script += "print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        stopped.config.write_text(f"server.port = {port}\n{stopped.config.read_text()}")
        finding = doctor(stopped).one("port", "wrong", f"process {holder.pid}")
        holder.kill()
    assert f"sport = :{port}" in finding["fix"][0]


def test_the_old_script_on_the_port(stopped: Daemon, tmp_path: Path) -> None:
    """The script that the daemon replaces is recognised, since its unit has the same port."""
    script = tmp_path / "run_webhook.py"
    script.write_text(
        "import socket\ns = socket.create_server(('127.0.0.1', 0))\n"
        "print(s.getsockname()[1], flush=True)\ninput()\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        stopped.config.write_text(f"server.port = {port}\n{stopped.config.read_text()}")
        doctor(stopped).one("port", "wrong", "the old webhook script")
        holder.kill()


def test_our_socket_unit_on_the_port(
    stopped: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the service down systemd holds the port: that is right, and nobody ends process 1."""
    stopped.config.write_text(f"server.port = 8001\n{stopped.config.read_text()}")
    monkeypatch.setattr(processes, "listening_inodes", lambda _: {333})
    monkeypatch.setattr(processes, "holders", lambda _: [Process(1, "systemd")])
    monkeypatch.setattr(
        import_module("berinia_webhookd.tools.doctor.service"), "UNIT_FOLDERS", (tmp_path,)
    )
    finding = doctor(stopped).one("port", "wrong", "systemctl list-sockets | grep 8001")
    assert "kill" not in str(finding)

    (tmp_path / "berinia-webhook.socket").write_text("[Socket]\nListenStream=127.0.0.1:8001\n")
    report = doctor(stopped)
    report.one("port", "ok", "held by berinia-webhook.socket")
    assert "kill 1" not in str(report.document)


def test_a_process_that_systemd_started(stopped: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a unit is stopped through its unit, another of ours where it was started."""
    stopped.config.write_text(f"server.port = 8001\n{stopped.config.read_text()}")
    monkeypatch.setattr(processes, "listening_inodes", lambda _: {333})
    monkeypatch.setattr(processes, "holders", lambda _: [Process(77, "apache2")])
    monkeypatch.setattr(processes, "unit_of", lambda _: "apache2")
    assert "`systemctl stop apache2`" in str(doctor(stopped).one("port", "wrong", "process 77"))
    ours = Process(78, "python -m berinia_webhookd")
    monkeypatch.setattr(processes, "holders", lambda _: [ours])
    monkeypatch.setattr(processes, "unit_of", lambda _: None)
    finding = doctor(stopped).one("port", "wrong", "another berinia-webhookd")
    assert "kill" not in str(finding)


def test_another_version_than_the_installed_one(shared: Daemon) -> None:
    """After an upgrade without a restart the old program goes on: say so."""
    say(shared, {"version": "0.0.1"})
    doctor(shared).one("version", "wrong", "0.0.1 runs", "is installed")


def test_a_service_that_does_not_answer(shared: Daemon) -> None:
    """A process that is there and holds the port, but answers nobody."""
    assert shared.process is not None
    os.kill(shared.process.pid, signal.SIGSTOP)
    try:
        finding = doctor(shared).one("health", "wrong", "does not answer")
    finally:
        os.kill(shared.process.pid, signal.SIGCONT)
    assert "no answer in time" in finding["what"]


class _Ill(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"status":"unhealthy","reasons":{"journal":"the journal does not answer"}}'
        self.send_response(503)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - inherited
        """Keep the test's output clean."""


def test_what_an_ill_service_says_of_itself(shared: Daemon) -> None:
    """Each reason of `/health` becomes a finding."""
    with HTTPServer(("127.0.0.1", 0), _Ill) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"127.0.0.1:{server.server_port}"
        say(shared, {"address": address})
        finding = doctor(shared).one("health", "wrong", "the journal does not answer")
        server.shutdown()
        thread.join()
    assert finding["fix"]


class _Another(_Ill):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>{ of another program }</html>")

    do_POST = do_GET  # noqa: N815 - the server's names


def test_another_program_where_the_daemon_should_listen(shared: Daemon) -> None:
    """What it answers is taken for nothing of ours, and nothing ends in a traceback."""
    with HTTPServer(("127.0.0.1", 0), _Another) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        say(shared, {"address": f"127.0.0.1:{server.server_port}"})
        report = doctor(shared)
        server.shutdown()
        thread.join()
    report.one("port", "wrong", "is held by")
    assert report.of("signatures", "wrong")
    report.one("agents", "note", "does not say")


def test_an_address_that_is_none(shared: Daemon) -> None:
    """`serve.json` may hold anything."""
    say(shared, {"address": "no address [at all"})
    doctor(shared).one("health", "wrong", "does not answer")


def test_a_daemon_that_lost_its_socket(shared: Daemon) -> None:
    """A process that runs where nobody listens is no service."""
    with refusing_port() as port:
        say(shared, {"address": f"127.0.0.1:{port}"})
        report = doctor(shared)
    report.one("port", "wrong", "nothing listens")
    report.one("health", "wrong", "does not answer")


def test_a_daemon_with_another_configuration(shared: Daemon, tmp_path: Path) -> None:
    """`--config` asks about one installation; that another one runs is said, and how to ask it."""
    other = tmp_path / "other.toml"
    other.write_text("")
    other.chmod(0o600)
    assert shared.process is not None
    done = subprocess.run(
        [sys.executable, "-m", "berinia_webhookd", "--config", str(other), "doctor", "--json"],
        env=shared.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)["findings"]
    service = next(finding for finding in found if finding["subject"] == "service")
    assert service["level"] == "wrong"
    assert str(shared.process.pid) in service["what"]
    assert str(shared.config) in service["fix"][0]


def test_for_people(stopped: Daemon) -> None:
    """On a terminal each finding says what, why and what fixes it; no colours in a pipe."""
    done = stopped.run("doctor", check=False)
    assert done.returncode == 1
    assert "why:" in done.stdout
    assert "fix:" in done.stdout
    assert "wrong" in done.stdout.splitlines()[-1]
    assert "\x1b" not in done.stdout


def test_a_wrong_setting(stopped: Daemon) -> None:
    """The settings' own problems come first, each with its hint; the rest is looked at as well."""
    stopped.config.write_text(f"server.prot = 1\n{stopped.config.read_text()}")
    report = doctor(stopped)
    report.one("server", "wrong", "server.prot", "server.port")
    assert report.of("service")
