"""Stands in for the old installation's script: the same command line and port, no journal. It notes
each message it answered, finishes what it has begun when it is stopped, and keeps nothing else.
"""

from __future__ import annotations

import argparse
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs


class Webhook(BaseHTTPRequestHandler):
    """Answers like the old script, at once."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        sid = parse_qs(body.decode())["MessageSid"][0]
        with Path("old.log").open("a") as log:
            log.write(sid + "\n")
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Waits for its answers to be sent before it closes."""

    daemon_threads = False
    request_queue_size = 128


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    arguments = parser.parse_args()
    with Server((arguments.host, arguments.port), Webhook) as server:
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
