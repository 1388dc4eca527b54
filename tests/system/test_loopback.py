"""Everybody passes for a program on this machine behind an nginx that sets no headers: the daemon
finds out by itself, and believes no loopback address then.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ..end_to_end.daemon import PATIENCE_SECONDS, SMS_PATH, Answer, Daemon, sample_sms, signed_sms
from ..end_to_end.providers import WHATSAPP_PATH, posted_whatsapp
from .nginx import CURRENT, INSIDE, OLD_BLOCK, OUR_FILE, Nginx

pytestmark = pytest.mark.system

Start = Callable[..., tuple[Nginx, Daemon]]
PROGRAMS = {"Debian's": None, "current": CURRENT}
DROPPING = {
    "sets nothing": "",
    "HTTP/1.1 alone": "proxy_http_version 1.1;",
    "keeps the host": "proxy_set_header Host $host;",
    "keeps its port": "proxy_set_header Host $http_host;",
    "keeps the host, new HTTP": "proxy_set_header Host $host; proxy_http_version 1.1;",
    "keeps its port, new HTTP": "proxy_set_header Host $http_host; proxy_http_version 1.1;",
    "says who, empty": 'proxy_set_header Host $host; proxy_set_header X-Forwarded-For "";',
    "the caller's word": "proxy_set_header X-Forwarded-For $http_x_forwarded_for;",
}
HOSTS = ("app.example.com", "localhost", INSIDE, f"{INSIDE}:8001", "[::1]")
each_program = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)


def location(lines: str) -> str:
    return f"location / {{ proxy_pass http://127.0.0.1:8001; {lines} }}"


def look(daemon: Daemon, nginx: Nginx) -> None:
    """Set the public URL, and let the daemon look through it."""
    url = f'server.public_url = "https://{INSIDE}:{nginx.port}"'
    lines = daemon.config.read_text().splitlines()
    kept = [line for line in lines if not line.strip().startswith("server.public_url")]
    daemon.config.write_text("\n".join([url, *kept]))
    looked = len([line for line in daemon.lines if line.get("event") == "loopback.probed"])
    reloads = len([line for line in daemon.lines if line.get("event") == "config.reloaded"])
    daemon.reload(count=reloads + 1)
    daemon.wait_for("loopback.probed", count=looked + 1)


def stranger(nginx: Nginx, headers: Mapping[str, str] = {}, *, host: str) -> Answer:
    body, own = posted_whatsapp()
    return nginx.request("POST", WHATSAPP_PATH, body, {**own, **headers}, host=host)


def bot(daemon: Daemon, headers: Mapping[str, str] = {}) -> Answer:
    body, own = posted_whatsapp()
    return daemon.request("POST", WHATSAPP_PATH, body, {**own, **headers})


def stranger_without_host(nginx: Nginx) -> int:
    """The status of a stranger's message in HTTP/1.0: where $http_host is passed on, nginx passes
    none.
    """
    body, headers = posted_whatsapp()
    fields = {**headers, "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    request = f"POST {WHATSAPP_PATH} HTTP/1.0\r\n{head}\r\n".encode() + body
    return int(nginx.raw(request).split()[1])


def events(daemon: Daemon) -> int:
    return len(json.loads(daemon.run("events", "list", "--json").stdout))


@each_program
@pytest.mark.parametrize("lines", DROPPING.values(), ids=DROPPING)
def test_a_proxy_without_its_headers_makes_nobody_the_bot(
    behind_nginx: Start, lines: str, program: Path | None
) -> None:
    """Whatever its version, HTTP and Host: after the look strangers get 403, and no metrics."""
    nginx, daemon = behind_nginx(location(lines), program=program)
    look(daemon, nginx)
    daemon.wait_for("loopback.locked")
    for host in HOSTS:
        for headers in ({}, {"X-Forwarded-For": INSIDE}, {"X-Forwarded-For": ""}):
            assert stranger(nginx, headers, host=host).status == 403, (host, headers)
        assert nginx.request("GET", "/metrics", host=host).status == 403, host
    assert stranger_without_host(nginx) in {400, 403}  # HTTP/1.1 has to have one
    assert events(daemon) == 0
    refused = bot(daemon)
    assert refused.status == 403
    assert "proxy_set_header X-Forwarded-For" in refused.json()["detail"]
    daemon.wait_for("address.refused", diagnosis=refused.json()["detail"])


@pytest.mark.parametrize("name", ["sets nothing", "keeps the host", "says who, empty"])
def test_the_http_of_debians_nginx_is_refused_before_any_look(
    behind_nginx: Start, name: str
) -> None:
    """HTTP/1.0 with a `Host` is no program on this machine, and a bot speaks HTTP/1.1."""
    nginx, daemon = behind_nginx(location(DROPPING[name]))
    for host in HOSTS:
        assert stranger(nginx, host=host).status == 403, host
    assert events(daemon) == 0
    assert bot(daemon).status == 200


@each_program
def test_a_host_of_the_outside_is_refused_before_any_look(
    behind_nginx: Start, program: Path | None
) -> None:
    """Whoever calls a program on this machine does not call it by a public name."""
    lines = DROPPING["keeps the host, new HTTP"]
    nginx, daemon = behind_nginx(location(lines), program=program)
    assert stranger(nginx, host="app.example.com").status == 403
    assert stranger(nginx, {"X-Forwarded-For": INSIDE}, host="app.example.com").status == 403
    assert events(daemon) == 0


@each_program
@pytest.mark.parametrize("locations", [OUR_FILE.read_text(), OLD_BLOCK], ids=["ours", "old"])
def test_an_nginx_that_says_who_calls_locks_nothing(
    behind_nginx: Start, locations: str, program: Path | None
) -> None:
    """The bot is let in, strangers are not."""
    nginx, daemon = behind_nginx(locations, program=program)
    look(daemon, nginx)
    assert bot(daemon).status == 200
    for host in HOSTS:
        assert stranger(nginx, host=host).status in {403, 404}
    assert not [line for line in daemon.lines if line.get("event") == "loopback.locked"]


def test_the_lock_outlives_a_restart_until_nginx_is_right(
    behind_nginx: Start, tmp_path: Path
) -> None:
    """Kept in the state folder; no received request ends it, a look that finds all right does."""
    nginx, daemon = behind_nginx(location(""), program=CURRENT)
    look(daemon, nginx)
    daemon.wait_for("loopback.locked")
    nginx.close()
    daemon.stop()
    daemon.start()
    assert bot(daemon).status == 403
    body, signed = signed_sms(sample_sms(), url=f"https://{INSIDE}:{nginx.port}{SMS_PATH}")
    proper = {**signed, "X-Forwarded-For": "203.0.113.9"}
    assert daemon.request("POST", SMS_PATH, body, proper).status == 200
    daemon.wait_for("loopback.unprobed")
    assert bot(daemon).status == 403
    right = Nginx(tmp_path / "later", daemon_port=daemon.port, locations=OLD_BLOCK)
    try:
        look(daemon, right)
        daemon.wait_for("loopback.unlocked")
        assert bot(daemon).status == 200
    finally:
        right.close()


def test_a_signed_request_without_headers_makes_it_look_at_once(behind_nginx: Start) -> None:
    """Found right at the start, and nginx's file was changed since: Twilio's next message shows."""
    nginx, daemon = behind_nginx(OLD_BLOCK)
    look(daemon, nginx)
    url = f"https://{INSIDE}:{nginx.port}{SMS_PATH}"
    assert daemon.post_sms(*signed_sms(sample_sms(), url=url)).status == 200
    daemon.wait_for("loopback.probed", count=2)


def test_an_operator_ends_the_lock(behind_nginx: Start) -> None:
    """`doctor` names the line, and trusts where it is told to."""
    nginx, daemon = behind_nginx(location(""), program=CURRENT)
    look(daemon, nginx)
    daemon.wait_for("loopback.locked")
    done = daemon.run("doctor", "--json", check=False)
    findings = json.loads(done.stdout)["findings"]
    (found,) = [f for f in findings if f["subject"] == "loopback"]
    assert found["level"] == "wrong"
    assert not [f for f in findings if f["subject"] == "signatures" and f["level"] == "wrong"]
    assert "proxy_set_header X-Forwarded-For" in found["fix"][0]
    daemon.run("doctor", "--trust-loopback", check=False)
    daemon.wait_for("loopback.unlocked")
    assert bot(daemon).status == 200


def test_a_secret_or_a_listener_of_its_own_is_the_positive_proof(
    behind_nginx: Start, tmp_path: Path
) -> None:
    """The lock does not concern the bot then; nobody else gets in."""
    own = tmp_path / "bot.sock"
    nginx, daemon = behind_nginx(
        location("proxy_http_version 1.1;"),
        f'channels.whatsapp.secret = "s3cret-word"\n'
        f'[channels.second]\nkind = "berinia-whatsapp"\nagent = "MetaAgent"\nlisten = "{own}"\n',
    )
    look(daemon, nginx)
    daemon.wait_for("loopback.locked")
    word = {"Authorization": "Bearer s3cret-word"}
    assert bot(daemon).status == 403
    assert bot(daemon, word).status == 200
    assert stranger(nginx, host="localhost").status == 403
    assert nginx.request("POST", "/webhook/second", b"{}", host="localhost").status == 404
    assert over_unix(own, "/webhook/second") == 200
    assert over_unix(own, WHATSAPP_PATH) == 404
    assert over_unix(own, "/metrics", "GET") == 404


def over_unix(path: Path, target: str, method: str = "POST") -> int:
    """The status of a message of the bot over its own socket."""
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE_SECONDS)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    try:
        body, headers = posted_whatsapp()
        connection.request(method, target, body, dict(headers))
        return connection.getresponse().status
    finally:
        connection.close()
