"""A reverse proxy on loopback in the place of nginx, which can be set up wrongly on purpose."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

Headers = dict[str, str]


@dataclass
class Setup:
    """What the proxy does; the defaults are what contrib/nginx does, with TLS pretended."""

    upstream: int = 0
    scheme: str | None = "http"  # None: does not say
    host: str | None = None  # None: as the caller wrote it
    forwarded_for: str = "append"  # or "pass" (what the caller sent), "drop"
    path: Callable[[str], str] = lambda path: path
    body: Callable[[bytes], bytes] = lambda body: body
    closed: frozenset[str] = frozenset({"/webhook/whatsapp", "/webhook/logs"})
    answer: tuple[int, Mapping[str, str]] | None = None  # instead of asking anybody
    extra: Mapping[str, str] = field(default_factory=dict)  # on each answer


class Proxy:
    """`with Proxy(Setup(daemon.port)) as proxy`; change `setup` at will."""

    def __init__(self, setup: Setup | None = None) -> None:
        self.setup = setup or Setup()
        self.paths: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self) -> None:
                _pass_on(self, outer)

            do_POST = do_GET  # noqa: N815 - the server's names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - inherited
                """Keep the test's output clean."""

            def date_time_string(self, timestamp: float | None = None) -> str:
                given = outer.setup.extra.get("Date")
                return given or super().date_time_string(timestamp)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _pass_on(request: BaseHTTPRequestHandler, proxy: Proxy) -> None:
    setup = proxy.setup
    proxy.paths.append(request.path)
    body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
    if setup.answer is not None:
        _answer(request, setup.answer[0], setup.answer[1], b"<html>nginx</html>")
        return
    if request.path in setup.closed:
        _answer(request, 404, {"Content-Type": "text/html"}, b"<html>nginx</html>")
        return
    connection = http.client.HTTPConnection("127.0.0.1", setup.upstream, timeout=90)
    try:
        connection.request(
            request.command,
            setup.path(request.path),
            setup.body(body),
            _headers(request, setup),
        )
        answer = connection.getresponse()
        _answer(request, answer.status, dict(answer.getheaders()), answer.read())
    except OSError:
        _answer(request, 502, {"Content-Type": "text/html"}, b"<html>nginx</html>")
    finally:
        connection.close()


def _headers(request: BaseHTTPRequestHandler, setup: Setup) -> Headers:
    dropped = {"host", "connection", "content-length", "transfer-encoding"}
    kept = {name: text for name, text in request.headers.items() if name.lower() not in dropped}
    kept["Host"] = setup.host or request.headers["Host"]
    if setup.scheme is not None:
        kept["X-Forwarded-Proto"] = setup.scheme
    sent = kept.pop("X-Forwarded-For", None)
    peer = request.client_address[0]
    if setup.forwarded_for == "append":
        kept["X-Forwarded-For"] = f"{sent}, {peer}" if sent else peer
    elif setup.forwarded_for == "pass" and sent:
        kept["X-Forwarded-For"] = sent
    return kept


def _answer(
    request: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], body: bytes
) -> None:
    request.send_response(status)  # writes Server and Date by itself
    for name, text in headers.items():
        if name.lower() not in {"connection", "content-length", "transfer-encoding", "date"}:
            request.send_header(name, text)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
