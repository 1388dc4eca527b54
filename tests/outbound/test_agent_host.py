"""The agent host by itself: a stand-alone program, spoken to as the daemon speaks to it."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from berinia_webhookd.outbound.fork_server import PROGRAM

from .agent_world import AGENTS, MARK, PATIENCE_SECONDS, marked_processes, until, until_gone

OLDEST: Final = (3, 9)
VERSIONS: Final = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")


def interpreters() -> list[str]:
    """Ours, and others that are installed and can be started."""
    named = [shutil.which(f"python{version}") for version in VERSIONS]
    begun = [
        subprocess.run([path, "-c", ""], stderr=subprocess.DEVNULL, check=False).returncode
        for path in named
        if path
    ]
    usable = [path for path, code in zip(filter(None, named), begun, strict=True) if code == 0]
    return sorted({sys.executable, *usable})


@dataclass
class Host:
    """One host, driven by hand over its two sockets, and the fork server that made it."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    requests: socket.socket
    lifeline: socket.socket
    mark: str

    def say(self, body: bytes) -> None:
        self.requests.sendall(len(body).to_bytes(4, "big") + body)

    def ask(self, **request: Any) -> dict[str, Any]:
        self.say(json.dumps(request).encode())
        return read(self.requests)

    def prepare(self, target: str) -> dict[str, Any]:
        """Configure, and load the agent `A`."""
        nothing = self.ask(do="configure", path=str(AGENTS), registry=None, memory_limit_bytes=None)
        assert nothing == {}
        return self.ask(do="load", agent="A", target=target)

    def close_sockets(self) -> None:
        for end in (self.requests, self.lifeline, self.control):
            end.close()

    def close(self) -> None:
        self.close_sockets()
        self.process.wait(PATIENCE_SECONDS)


def read(end: socket.socket) -> dict[str, Any]:
    with end.makefile("rb") as file:
        body = file.read(int.from_bytes(file.read(4), "big"))
    message: dict[str, Any] = json.loads(body)
    return message


def start(python: str) -> Host:
    mark = uuid.uuid4().hex
    control, their_control = socket.socketpair()
    with their_control:
        process = subprocess.Popen(
            [python, "-u", str(PROGRAM), str(their_control.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[their_control.fileno()],
            env={**os.environ, MARK: mark},
            start_new_session=True,
        )
    requests, lifeline = fork(control)
    return Host(process, control, requests, lifeline, mark)


def fork(control: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Ask a fork server for a host; it prints where we print."""
    requests, theirs = socket.socketpair()
    lifeline, their_lifeline = socket.socketpair()
    for end in (requests, lifeline):
        end.settimeout(PATIENCE_SECONDS)
    with theirs, their_lifeline:
        socket.send_fds(control, [b"\0"], [theirs.fileno(), their_lifeline.fileno(), 1, 2])
    return requests, lifeline


@pytest.fixture
def host() -> Iterator[Host]:
    host = start(sys.executable)
    yield host
    host.close()


@pytest.mark.parametrize("file", ["agent_host.py", "agent_calls.py"])
def test_it_needs_the_standard_library_alone(file: str) -> None:
    """Agents' virtual environments need not know of us."""
    tree = ast.parse(PROGRAM.with_name(file).read_text(), feature_version=OLDEST)
    names = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    assert names <= sys.stdlib_module_names


@pytest.mark.parametrize("python", interpreters(), ids=lambda path: path.rpartition("/")[2])
def test_every_interpreter_at_hand_can_run_it(python: str) -> None:
    """Whatever version the agents' environment has."""
    host = start(python)
    try:
        assert host.prepare("shapes:function") == {"shape": "handle"}
        answer = host.ask(do="attempt", agent="A", argument={"id": "🙂"})
        assert json.loads(answer["returned"]["response"]) == {"id": "🙂"}
    finally:
        host.close()


def test_the_guardian_says_who_is_who_and_how_it_ended(host: Host) -> None:
    """The daemon learns the pid to kill, and after an end its manner."""
    said = read(host.lifeline)
    for process in (said["guardian"], said["host"]):
        assert os.getpgid(process) == process  # so that what ends one ends nobody else
    host.prepare("hostile:os_exit")
    host.say(json.dumps({"do": "attempt", "agent": "A", "argument": {}}).encode())
    assert read(host.lifeline) == {"exit_code": 3, "signal": None}
    assert host.lifeline.recv(1) == b""


def test_it_ends_politely_when_nothing_more_is_asked(host: Host) -> None:
    """The end of the requests is the end of the host."""
    read(host.lifeline)
    host.prepare("friendly:handle")
    host.requests.shutdown(socket.SHUT_WR)
    assert read(host.lifeline) == {"exit_code": 0, "signal": None}


async def test_the_end_of_the_lifeline_is_the_end_of_all(host: Host) -> None:
    """As when the daemon is killed: the hanging host, and what left its group and session."""
    host.prepare("hostile:fork_session_and_hang")
    host.say(json.dumps({"do": "attempt", "agent": "A", "argument": {}}).encode())
    await until(lambda: len(marked_processes(host.mark)) == 3)
    host.lifeline.close()
    await until_gone(host.mark)


async def test_the_end_of_guardian_and_daemon_is_the_end_of_all(host: Host) -> None:
    """The fork server outlives both, and kills a child that left group and session."""
    guardian = read(host.lifeline)["guardian"]
    host.prepare("hostile:fork_session_and_hang")
    host.say(json.dumps({"do": "attempt", "agent": "A", "argument": {}}).encode())
    await until(lambda: len(marked_processes(host.mark)) == 3)
    host.process.send_signal(signal.SIGSTOP)  # so that it finds both gone at once
    os.kill(guardian, signal.SIGKILL)
    host.close_sockets()
    host.process.send_signal(signal.SIGCONT)
    await until_gone(host.mark)


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"{}", b'{"do": "nothing"}', b'{"do": "attempt"}', b"[1]"]
)
def test_what_it_does_not_understand_is_answered(host: Host, body: bytes) -> None:
    """A host that met nonsense goes on."""
    host.say(body)
    assert "failed" in read(host.requests)
    assert host.prepare("shapes:function") == {"shape": "handle"}


def test_messages_of_megabytes(host: Host) -> None:
    """Both ways; the answer is cut where the daemon would not read on."""
    host.prepare("shapes:WithRun")
    text = "é" * (4 << 20)
    answer = host.ask(do="attempt", agent="A", argument={"body": text})
    assert len(answer["returned"]["response"]) == 1 << 20


def test_signals_meant_for_the_daemon_do_not_end_it(host: Host) -> None:
    """When to stop hosts is the daemon's decision."""
    said = read(host.lifeline)
    host.prepare("friendly:pid")
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        subprocess.run(["kill", f"-{name}", str(said["guardian"])], check=True)
    answer = host.ask(do="attempt", agent="A", argument={})
    assert answer["returned"]["response"] == str(said["host"])


def test_hosts_outlive_the_fork_server(host: Host) -> None:
    """Whatever ends it, each host has a guardian of its own."""
    host.prepare("friendly:handle")
    host.process.kill()
    host.process.wait(PATIENCE_SECONDS)
    assert "returned" in host.ask(do="attempt", agent="A", argument={"data": {"body": "still"}})
    host.requests.shutdown(socket.SHUT_WR)
    assert read(host.lifeline)["guardian"] > 0
    assert read(host.lifeline) == {"exit_code": 0, "signal": None}


def test_one_fork_server_makes_many_hosts(host: Host) -> None:
    """None holds another's sockets: each ends when its own are closed, and is seen to."""
    more = [fork(host.control) for _ in range(5)]
    hosts = [read(lifeline)["host"] for _, lifeline in more]
    assert len({*hosts, read(host.lifeline)["host"]}) == 6
    for requests, lifeline in more:
        requests.close()
        assert read(lifeline) == {"exit_code": 0, "signal": None}
        assert lifeline.recv(1) == b""
        lifeline.close()
    assert host.prepare("friendly:handle") == {"shape": "handle"}
