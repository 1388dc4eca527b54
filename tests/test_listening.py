"""The sockets the daemon listens on: which one wins, how it is called, why one cannot be had."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
from structlog.testing import capture_logs

from berinia_webhookd import listening
from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.config.load import load
from berinia_webhookd.config.settings import ServerSettings
from berinia_webhookd.errors import CannotStart, CannotStartNow, WebhookdError
from berinia_webhookd.listening import address_of, open_sockets

PATIENCE_SECONDS = 180


@pytest.fixture
def server(tmp_path: Path) -> ServerSettings:
    """Settings as they are by default, on a port of the kernel's choice."""
    environ = {"STATE_DIRECTORY": str(tmp_path / "state")}
    settings = load(
        {"server.port": 0}, kinds=KINDS, environ=environ, working_folder=tmp_path, config_file=None
    )
    return settings.settings.server


@pytest.fixture
def opened() -> Iterator[list[socket.socket]]:
    """What is put here is closed at the end."""
    sockets: list[socket.socket] = []
    yield sockets
    for each in sockets:
        each.close()


def connects(address: Any, family: int = socket.AF_INET) -> bool:
    with socket.socket(family) as caller:
        caller.settimeout(PATIENCE_SECONDS)
        return caller.connect_ex(address) == 0


def refused(server: ServerSettings) -> WebhookdError:
    with pytest.raises(WebhookdError) as refusal:
        open_sockets(server, {})
    assert isinstance(refusal.value, CannotStart | CannotStartNow)
    assert refusal.value.hint
    return refusal.value


def test_it_listens_on_loopback_by_default(
    server: ServerSettings, opened: list[socket.socket]
) -> None:
    """And says where."""
    opened += open_sockets(server, {})
    (listener,) = opened
    host, port = listener.getsockname()
    assert connects((host, port))
    assert address_of(listener) == f"127.0.0.1:{port}"


def test_it_listens_on_ipv6(server: ServerSettings, opened: list[socket.socket]) -> None:
    """With brackets, as URLs have them."""
    opened += open_sockets(replace(server, host="::1"), {})
    assert address_of(opened[0]) == f"[::1]:{opened[0].getsockname()[1]}"


def test_it_listens_on_a_unix_socket(
    server: ServerSettings, opened: list[socket.socket], tmp_path: Path
) -> None:
    """Which the group may use, for nginx, and nobody else: its callers count as a proxy."""
    path = tmp_path / "web"
    opened += open_sockets(replace(server, uds=path), {})
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert connects(str(path), socket.AF_UNIX)
    assert address_of(opened[0]) == f"unix:{path}"


def test_a_port_that_is_taken_is_for_later(
    server: ServerSettings, opened: list[socket.socket]
) -> None:
    """Exit 4: it may be free next time."""
    opened += open_sockets(server, {})
    port = opened[0].getsockname()[1]
    error = refused(replace(server, port=port))
    assert error.exit_code == 4
    assert str(error) == f"127.0.0.1:{port} is taken by another process"
    assert "server.port" in str(error.hint)


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("192.0.2.1", "192.0.2.1:0"),  # for documentation: no machine has it
        ("2001:db8::1", "[2001:db8::1]:0"),
        ("a" * 70 + ".example.com", "a" * 70 + ".example.com:0"),
    ],
)
def test_an_address_that_cannot_be_had_is_final(
    server: ServerSettings, host: str, shown: str
) -> None:
    """Exit 3, with the address, the reason and the setting."""
    error = refused(replace(server, host=host))
    assert error.exit_code == 3
    assert str(error).startswith(f"cannot listen on {shown}: ")
    assert not str(error).endswith((": ", "None"))
    assert "server.host" in str(error.hint)


def test_a_socket_of_a_dead_process_is_replaced(
    server: ServerSettings, opened: list[socket.socket], tmp_path: Path
) -> None:
    """`kill -9` leaves it there."""
    path = tmp_path / "web"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    opened += open_sockets(replace(server, uds=path), {})
    assert connects(str(path), socket.AF_UNIX)


def test_a_socket_of_a_living_process_is_left_alone(
    server: ServerSettings, opened: list[socket.socket], tmp_path: Path
) -> None:
    """Exit 4; its callers notice nothing."""
    path = tmp_path / "web"
    opened += open_sockets(replace(server, uds=path), {})
    error = refused(replace(server, uds=path))
    assert (error.exit_code, str(error)) == (4, f"{path} is taken by another process")
    assert connects(str(path), socket.AF_UNIX)


def test_a_process_with_too_many_callers_is_alive_too(
    server: ServerSettings, opened: list[socket.socket], tmp_path: Path
) -> None:
    """Asking whether it lives does not wait for it."""
    path = tmp_path / "web"
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        while True:
            caller = socket.socket(socket.AF_UNIX)
            opened.append(caller)
            caller.setblocking(False)
            if caller.connect_ex(str(path)):
                break
        assert refused(replace(server, uds=path)).exit_code == 4


def test_what_is_no_socket_is_not_touched(server: ServerSettings, tmp_path: Path) -> None:
    """Whatever a slip of the path names."""
    path = tmp_path / "precious.db"
    path.write_text("precious")
    error = refused(replace(server, uds=path))
    assert error.exit_code == 3
    assert str(path) in str(error)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("where", ["no/such/folder/web", "x" * 120, "file/web"])
def test_a_path_that_cannot_be_had_is_final(
    server: ServerSettings, tmp_path: Path, where: str
) -> None:
    """Exit 3, with the path, the reason and the flag."""
    (tmp_path / "file").touch()
    error = refused(replace(server, uds=tmp_path / where))
    assert error.exit_code == 3
    assert str(error).startswith(f"cannot listen on {tmp_path / where}: ")
    assert not str(error).endswith("None")
    assert "--uds" in str(error.hint)


def handed_over(monkeypatch: pytest.MonkeyPatch, *sockets: socket.socket) -> None:
    monkeypatch.setattr(listening, "inherited_sockets", lambda environ: list(sockets))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_inherited_sockets_win(
    server: ServerSettings, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """Without a word when they are the configured ones, whatever the address family."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as given:
        handed_over(monkeypatch, given)
        with capture_logs() as logs:
            same = replace(server, host=host, port=given.getsockname()[1])
            assert open_sockets(same, {}) == [given]
    assert logs == []


def test_an_inherited_unix_socket_wins(
    server: ServerSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also without a word when it is the one of `--uds`."""
    path = tmp_path / "web"
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(str(path))
        given.listen()
        handed_over(monkeypatch, given)
        with capture_logs() as logs:
            assert open_sockets(replace(server, uds=path), {}) == [given]
    assert logs == []


# As systemd does it: the listening socket at descriptor 3, for this very process.
ACTIVATE = """
import os, sys

os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_FDS"] = "1"
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "berinia_webhookd", *sys.argv[2:]])
"""


def iter_until(word: bytes, lines: IO[bytes]) -> Iterator[bytes]:
    for line in lines:
        yield line
        if word in line:
            return


def test_a_daemon_behind_a_socket_that_differs_says_so_in_its_logs(tmp_path: Path) -> None:
    """It serves on the inherited one, and the operator reads which line to change."""
    config = tmp_path / "berinia.toml"
    config.write_text("server.port = 1\n")
    config.chmod(0o600)
    state = str(tmp_path / "state")
    environ = {"PATH": os.environ["PATH"], "STATE_DIRECTORY": state, "RUNTIME_DIRECTORY": state}
    with socket.create_server(("127.0.0.1", 0)) as given:
        address = address_of(given)
        process = subprocess.Popen(
            [sys.executable, "-c", ACTIVATE, str(given.fileno()), "--config", str(config), "serve"],
            pass_fds=[given.fileno()],
            env=environ,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        overdue = threading.Timer(PATIENCE_SECONDS, process.kill)
        overdue.start()
        try:
            assert process.stderr is not None
            said = list(iter_until(b'"server.started"', process.stderr))
            with socket.create_connection(given.getsockname(), PATIENCE_SECONDS) as caller:
                caller.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert caller.recv(15) == b"HTTP/1.1 200 OK"
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            overdue.cancel()
            if process.poll() is None:
                process.kill()
                process.communicate()
    assert (process.returncode, out) == (0, b""), said
    log = Path(state) / "unified_logs" / "webhook.log"
    lines = {line["event"]: line for line in map(json.loads, log.read_text().splitlines())}
    differs = lines["server.sockets_differ"]
    assert (differs["configured"], differs["inherited"]) == ("127.0.0.1:1", [address])
    assert "ListenStream=" in differs["hint"]
    assert lines["server.started"]["address"] == address
