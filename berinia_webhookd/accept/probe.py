"""What a verified probe gets to know: how its request looked when it arrived. Only who holds the
provider's secret (or calls from an allowed address) is told, and only about the own request.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Final

from aiohttp import web

from berinia_webhookd.accept.reply_wait import answered
from berinia_webhookd.accept.visit import Proven, Visit
from berinia_webhookd.channels.contract import PROBE_HEADER, Channel

_LONGEST: Final = 300


def probe_answer(
    request: web.Request, visit: Visit, channel: Channel, proven: Proven
) -> web.Response:
    """The channel's answer, and in a header what the proxy passed on, as JSON."""
    caller = visit.caller
    seen = {
        "scheme": caller.scheme,
        "host": caller.host[:_LONGEST],
        "client": None if caller.client is None else str(caller.client),
        "forwarded": caller.forwarded,
        "forwarded_for": ",".join(request.headers.getall("X-Forwarded-For", ()))[-_LONGEST:],
        "peer_trusted": caller.peer_trusted,
        "body_sha256": hashlib.sha256(proven.delivery.body).hexdigest(),
        "process": os.getpid(),
    }
    response = answered(channel.answer(()))
    response.headers[PROBE_HEADER] = json.dumps(seen)  # ASCII alone, whatever the host was
    return response
