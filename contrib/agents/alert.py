"""Tells people of an alert: by mail, and in a WhatsApp group through the bot's /send.

    alerts.command = "/usr/bin/python3 /etc/berinia-webhookd/alert.py"

It reads one JSON document from its standard input (`kind`, `summary`, `count`, `node`, `at`,
`look`, `fix`), and takes the rest from the environment of the service (`systemctl edit
berinia-webhook`, `[Service]`, `Environment=…`; what is not set leaves that way out):

    ALERT_MAIL_TO=admin@example.com   ALERT_SMTP=127.0.0.1:25   ALERT_MAIL_FROM=berinia@example.com
    ALERT_BOT_URL=http://127.0.0.1:3030/send   ALERT_GROUP="🛠️ Technique"

Try it by hand:
    export ALERT_BOT_URL=http://127.0.0.1:3030/send ALERT_GROUP=Technique
    echo '{"kind": "trial", "summary": "A trial", "count": 1, "node": "", "at": "", "look": "",
        "fix": ""}' | python3 alert.py

Each way is tried even if the other fails; exit status 1 says that one did, which the daemon logs as
`alert.failed`. It never takes longer than the 30 seconds it has.
"""

from __future__ import annotations

import json
import os
import smtplib
import socket
import sys
import urllib.request
from email.message import EmailMessage
from typing import Any

SECONDS = 10


def main() -> int:
    alert = json.load(sys.stdin)
    failed = 0
    for way in (mail, chat):
        try:
            way(alert)
        except OSError as error:  # of SMTP and of HTTP alike
            print(f"{way.__name__}: {error}", file=sys.stderr)
            failed = 1
    return failed


def text(alert: dict[str, Any]) -> str:
    times = f" ({alert['count']} times since the last alert)" if alert["count"] > 1 else ""
    return (
        f"{alert['summary']}{times}.\n\nLook: {alert['look']}\nFix: {alert['fix']}\n\n"
        f"On {alert['node']} at {alert['at']}"
    )


def mail(alert: dict[str, Any]) -> None:
    recipient = os.environ.get("ALERT_MAIL_TO")
    if not recipient:
        return
    message = EmailMessage()
    message["Subject"] = f"berinia-webhookd on {alert['node']}: {alert['kind'].replace('_', ' ')}"
    message["From"] = os.environ.get("ALERT_MAIL_FROM") or recipient
    message["To"] = recipient
    message.set_content(text(alert))
    host, _, port = (os.environ.get("ALERT_SMTP") or "127.0.0.1:25").rpartition(":")
    # A name of its own saves smtplib from asking the DNS for one, which may take long.
    here = socket.gethostname()
    with smtplib.SMTP(host, int(port), local_hostname=here, timeout=SECONDS) as server:
        server.send_message(message)


def chat(alert: dict[str, Any]) -> None:
    url = os.environ.get("ALERT_BOT_URL")
    if not url:
        return
    message = {"group": os.environ["ALERT_GROUP"], "message": f"⚠️ {text(alert)}"}
    request = urllib.request.Request(  # noqa: S310 - a URL of the operator's
        url, json.dumps(message).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=SECONDS):  # noqa: S310 - see above
        pass


if __name__ == "__main__":
    sys.exit(main())
