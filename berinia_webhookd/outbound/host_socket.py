"""The daemon's end of a socket to an agent host: length-prefixed messages, without blocking."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

CHUNK_BYTES: Final = 1 << 18
LONGEST_MESSAGE_BYTES: Final = 8 << 20  # hosts answer with far less; more is a broken host
HEADER_BYTES: Final = 4


class HostSocket:
    """Calls `on_message` for each message and `on_lost` once, when the other side is gone; before
    that `on_nonsense`, if what came breaks the protocol.
    """

    def __init__(
        self,
        own_end: socket.socket,
        *,
        on_message: Callable[[bytes], None],
        on_lost: Callable[[], None],
        on_nonsense: Callable[[], None],
    ) -> None:
        own_end.setblocking(False)
        self._socket = own_end
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_nonsense = on_nonsense
        self._received = bytearray()
        self._unsent = bytearray()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(own_end.fileno(), self._readable)

    def send(self, body: bytes) -> None:
        """Send one message; what does not fit now goes out when there is room."""
        data = len(body).to_bytes(HEADER_BYTES, "big") + body
        if self._unsent:
            self._unsent += data
            return
        sent = self._send(data)
        if sent < len(data):
            self._unsent += data[sent:]
            self._loop.add_writer(self._socket.fileno(), self._writable)

    def finish_sending(self) -> None:
        """Shut down our side; the other one may still answer."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket, without calling `on_lost`."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)  # the lost connection is noticed by reading

    def _writable(self) -> None:
        del self._unsent[: self._send(self._unsent)]
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        try:
            data = self._socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        sense = self._take(data)
        if data and sense:
            return
        self.close()
        if not sense:
            self._on_nonsense()
        self._on_lost()

    def _take(self, data: bytes) -> bool:
        """Return whether the other side keeps to the protocol."""
        self._received += data
        while len(self._received) >= HEADER_BYTES:
            end = HEADER_BYTES + int.from_bytes(self._received[:HEADER_BYTES], "big")
            if end > LONGEST_MESSAGE_BYTES:
                return False
            if len(self._received) < end:
                break
            message = bytes(self._received[HEADER_BYTES:end])
            del self._received[:end]
            self._on_message(message)
        return True
