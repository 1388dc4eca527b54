"""A server on this machine that takes every request, keeps it, and answers as it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes

    def form(self) -> dict[str, str]:
        pairs = parse_qs(self.body.decode(), keep_blank_values=True, strict_parsing=True)
        return {name: values[-1] for name, values in pairs.items()}


@dataclass
class Receiver:
    """A server on this machine that takes everything and answers as it is told."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    answer: bytes = b"<Response/>"
    broken: bool = False
    breaks_after: int | None = None  # requests
    received: list[Received] = field(default_factory=list)
    port: int = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


def handler_of(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.received.append(Received(self.path, headers, body))
            if receiver.broken or len(receiver.received) - 1 == receiver.breaks_after:
                self.close_connection = True
                return
            self.send_response(receiver.status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(receiver.answer)))
            self.end_headers()
            try:
                self.wfile.write(receiver.answer)
            except ConnectionError:
                self.close_connection = True  # the caller has read as much as it wanted

        def log_message(self, *_: object) -> None:
            pass

    return Handler
