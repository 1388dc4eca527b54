"""Fixtures: servers on this machine to post to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

import pytest

from .receiver import Receiver, handler_of


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server on a free port."""
    receiver = Receiver()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_of(receiver)) as server:
        receiver.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield receiver
        server.shutdown()
        thread.join()


@pytest.fixture
def unix_receiver(tmp_path: Path) -> Iterator[tuple[Receiver, Path]]:
    """The same on a Unix socket."""
    receiver, path = Receiver(), tmp_path / "web"
    with ThreadingUnixStreamServer(str(path), handler_of(receiver)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield receiver, path
        server.shutdown()
        thread.join()
