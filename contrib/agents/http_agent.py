"""An agent behind a URL, in any language: here a small server that verifies what it is sent.

    agents.ResponseListenerAgent.target = "https://agents.example.com/events"
    agents.ResponseListenerAgent.signing_secret = "whsec_…"

A secret is made by:  echo "whsec_$(openssl rand -base64 32)"
Needs: pip install standardwebhooks
Run:   AGENT_SECRET=whsec_… python http_agent.py 9000

2xx is success, with a JSON body like an agent's return value; anything else is tried again, after
`Retry-After` seconds if it says so; 410 is never tried again.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

LONGEST_EVENT_BYTES = 8 << 20


def act(event: dict[str, Any]) -> dict[str, Any]:
    """What the agent is for. The same `id` may come twice."""
    print(f"{event['type']} {event['id']}, attempt {event['data']['attempt']}", flush=True)
    return {"status": "success", "response": f"got {len(event['data']['body'])} characters"}


class Agent(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps the connection for the next event

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", LONGEST_EVENT_BYTES + 1))
        if length > LONGEST_EVENT_BYTES:
            self.close_connection = True
            return self.answer(413, {"error": "too large"})
        body = self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            # The signature is over the bytes as received, and must be minutes old at most.
            event = Webhook(os.environ["AGENT_SECRET"]).verify(body, headers)
        except WebhookVerificationError as error:
            return self.answer(401, {"error": str(error)})
        return self.answer(200, act(event))

    def answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Agent)
    print(f"listening on {server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
