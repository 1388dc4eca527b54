"""The console behind a real nginx, with the file that we give: closed as it stands, open to holders
of a client certificate or to a VPN as the file says, and to nobody else.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from ..end_to_end.daemon import PATIENCE_SECONDS, Answer, Daemon
from .nginx import CLIENT, HOST, INSIDE, NAMED, OUR_FILE, Nginx

pytestmark = pytest.mark.system

PROJECT = Path(__file__).parents[2]
SERVER = OUR_FILE.with_name("berinia-console.conf").read_text()
NAME = "console.example.com"
VPN, STRANGER = "10.8.0.5", "203.0.113.7"
FORM = "application/x-www-form-urlencoded"

Start = Callable[[str], "Site"]


class Site:
    """A daemon with a console, and nginx in front of it."""

    def __init__(self, folder: Path, server: str) -> None:
        with socket.create_server((INSIDE, 0)) as free:
            port = free.getsockname()[1]
        console = f'console.enabled = true\nconsole.listen = "{INSIDE}:{port}"\n'
        self.daemon = Daemon(folder, f'{console}console.url = "https://{NAME}"')
        self.folder = folder / "nginx"
        server = server.replace("127.0.0.1:8002", f"127.0.0.1:{port}")
        self.daemon.start()
        self.nginx = Nginx(self.folder, daemon_port=self.daemon.port, locations="", beside=server)
        self.cookie = ""

    def close(self) -> None:
        self.nginx.close()
        self.daemon.close()

    def ask(
        self,
        method: str,
        target: str,
        form: dict[str, str] | None = None,
        *,
        certificate: str | None = None,
        source: str = STRANGER,
        asked_of: str = NAME,
    ) -> Answer:
        """One request of a browser; whoever has no certificate, or a wrong one, may be cut off."""
        tls = ssl.create_default_context(cafile=self.folder / "certificate.pem")
        tls.check_hostname = False  # the certificate is the other server's
        if certificate is not None:
            tls.load_cert_chain(
                self.folder / f"{certificate}.pem", self.folder / f"{certificate}.key"
            )
        raw = socket.create_connection((INSIDE, self.nginx.port), PATIENCE_SECONDS)
        connection = http.client.HTTPSConnection(NAME)
        connection.sock = tls.wrap_socket(raw, server_hostname=asked_of)
        body = None if form is None else urlencode(form)
        headers = {"Host": NAME, CLIENT: source, "Cookie": self.cookie}
        if form is not None:
            headers |= {"Origin": f"https://{NAME}", "Content-Type": FORM}
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        if cookie := answer.getheader("Set-Cookie"):
            self.cookie = cookie.partition(";")[0]
        read = answer.read1() if target == "/live/lines" else answer.read()
        connection.close()
        return Answer(answer.status, dict(answer.getheaders()), read)

    def log_in(self, **way: Any) -> None:
        link = self.daemon.run("console", "login", "--name", "Anne").stdout.strip()
        assert link.startswith(f"https://{NAME}/login?link=")
        secret = link.partition("link=")[2]
        assert self.ask("GET", f"/login?link={secret}", **way).status == 200
        assert self.ask("POST", "/login", {"link": secret}, **way).status == 303
        assert secret not in (self.folder / "access.log").read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a console behind nginx with this server block, and makes certificates for people."""
    with ExitStack() as stack:

        def begin(server: str) -> Site:
            folder = tmp_path / "nginx"
            folder.mkdir()
            make_certificates(folder)
            site = Site(tmp_path, server)
            stack.callback(site.close)
            return site

        yield begin


def make_certificates(folder: Path) -> None:
    """By the commands of docs/console.md; and again for somebody of another authority."""
    guide = (PROJECT / "docs" / "console.md").read_text()
    block = re.search(r"```sh\ncd /etc/nginx\n(.*?)```", guide, re.DOTALL)
    assert block is not None
    for script in (
        block[1].replace("console-ca", "other-ca").replace("anne", "mallory"),
        block[1],
    ):
        subprocess.run(
            ["sh", "-euc", script],
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
        )


def by_certificate() -> str:
    """The file, opened to holders of a client certificate as it says."""
    assert "    deny all;\n" in SERVER
    return SERVER.replace("    deny all;\n", "").replace("#ssl_", "ssl_")


def by_vpn() -> str:
    """The file, opened to a VPN as it says; nginx is told where a caller of the test comes from."""
    return SERVER.replace("    deny all;", f"    {NAMED}\n    allow 10.8.0.0/24;\n    deny all;")


def test_it_is_closed_as_it_stands(start: Start) -> None:
    site = start(SERVER)
    for target in ("/", "/login", "/static/console.css", "/live/lines"):
        assert site.ask("GET", target).status == 403
        assert site.ask("GET", target, certificate="anne").status == 403


def test_holders_of_a_certificate_get_in_and_nobody_else(start: Start) -> None:
    site = start(by_certificate())
    for certificate in (None, "mallory"):
        answer = site.ask("GET", "/login", certificate=certificate)
        assert answer.status == 400, answer.body
        assert b"berinia" not in answer.body
    assert site.ask("GET", "/", certificate="anne").status == 401
    site.log_in(certificate="anne")
    assert site.cookie.startswith("__Host-")
    now = site.ask("GET", "/", certificate="anne")
    assert (now.status, b"Anne" in now.body) == (200, True)
    assert site.ask("GET", "/live/lines", certificate="anne").body.startswith(b"data: ")
    assert site.ask("GET", "/").status == 400  # the cookie alone is nothing
    assert site.ask("GET", "/", asked_of=HOST).status == 421  # nor is the neighbour's handshake


def test_a_vpn_gets_in_and_nobody_else(start: Start) -> None:
    site = start(by_vpn())
    assert site.ask("GET", "/login").status == 403
    site.log_in(source=VPN)
    assert site.ask("GET", "/messages", source=VPN).status == 200
    assert site.ask("GET", "/messages", source=STRANGER).status == 403
