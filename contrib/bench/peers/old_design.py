"""What the daemon replaces, as a peer: FastAPI, uvicorn, slowapi, twilio's `validate`. It keeps
nothing, and its agent returns at once, so that only the receiving is compared.

Usage: python old_design.py PORT TOKEN PUBLIC_URL [light]

The limit holds for the whole application, which slowapi does by its middleware; uvicorn runs on
asyncio, as it does where nothing else is installed. `light` is the fastest that the same parts can
be: the limit as a decorator of the one handler, and uvloop.
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from slowapi.middleware import SlowAPIMiddleware
from slowapi.util import get_remote_address
from twilio.request_validator import RequestValidator

PORT, TOKEN, PUBLIC_URL = int(sys.argv[1]), sys.argv[2], sys.argv[3]
LIGHT = sys.argv[4:] == ["light"]
OUT_OF_THE_WAY = "1000000000/minute"

limiter = Limiter(key_func=get_remote_address, default_limits=[] if LIGHT else [OUT_OF_THE_WAY])
validator = RequestValidator(TOKEN)
app = FastAPI()
app.state.limiter = limiter
app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)


class Agent:
    def run(self, input_data: dict[str, Any]) -> dict[str, Any]:
        return {"status": "success", "sender": input_data["data"]["sender"]}


agent = Agent()


async def sms_response(request: Request) -> Response:
    form = {name: str(value) for name, value in (await request.form()).items()}
    signature = request.headers.get("X-Twilio-Signature", "")
    if not validator.validate(PUBLIC_URL + request.url.path, form, signature):
        raise HTTPException(403, "bad signature")
    data = {
        "sender": form["From"],
        "recipient": form["To"],
        "body": form["Body"],
        "message_sid": form["MessageSid"],
        "raw_data": form,
    }
    agent.run({"action": "process_sms_response", "data": data})
    return Response("<Response/>", media_type="text/xml")


if LIGHT:
    sms_response = limiter.limit(OUT_OF_THE_WAY)(sms_response)
else:
    app.add_middleware(SlowAPIMiddleware)
app.post("/webhook/sms-response")(sms_response)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, loop="uvloop" if LIGHT else "asyncio")
