"""A provider's API on this machine: what is asked, and faults that come when a test wants them."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

Answered = tuple[int, dict[str, str], bytes]
Fault = Callable[[Any, str], Answered | None]


class ProviderApi(ABC):
    """What was asked, and what goes wrong."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.faults: list[Fault] = []  # each for one request
        self.url = ""

    def reply(self, target: str, authorization: str, body: bytes) -> Answered:
        """Go wrong if that is wanted, else answer."""
        self.asked.append(target)
        if self.faults and (fault := self.faults.pop(0)(self, target)) is not None:
            return fault
        return self.answer(target, authorization, body)

    @abstractmethod
    def answer(self, target: str, authorization: str, body: bytes) -> Answered: ...


ApiT = TypeVar("ApiT", bound=ProviderApi)


def answers(status: int, body: bytes = b"{}", **headers: str) -> Fault:
    """One request is answered so."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _api, _target: (status, named, body)


def fine(_api: ProviderApi, _target: str) -> None:
    """One request is answered as it should be."""


@contextmanager
def served(api: ApiT) -> Iterator[ApiT]:
    """The API on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body at once: the second of two small packets is sent late

        def do_GET(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            authorization = self.headers.get("Authorization", "")
            status, headers, body = api.reply(self.path, authorization, sent)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name that is called

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        api.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield api
        server.shutdown()
        thread.join()
