"""A peer that keeps what it accepts: FastAPI, twilio's `validate`, and a task of Celery in Redis,
which has it in its file before the answer (when that is flushed is a setting of Redis).

Usage: python fastapi_celery.py PORT TOKEN PUBLIC_URL REDIS
"""

from __future__ import annotations

import sys

import uvicorn
from celery import Celery
from fastapi import FastAPI, HTTPException, Request, Response
from twilio.request_validator import RequestValidator

PORT, TOKEN, PUBLIC_URL, REDIS = int(sys.argv[1]), *sys.argv[2:5]

validator = RequestValidator(TOKEN)
tasks = Celery("bench", broker=REDIS)
tasks.conf.task_ignore_result = True
app = FastAPI()


@tasks.task
def process_sms(form: dict[str, str]) -> None:
    """A worker would do it; none runs."""


@app.post("/webhook/sms-response")
async def sms_response(request: Request) -> Response:
    form = {name: str(value) for name, value in (await request.form()).items()}
    signature = request.headers.get("X-Twilio-Signature", "")
    if not validator.validate(PUBLIC_URL + request.url.path, form, signature):
        raise HTTPException(403, "bad signature")
    process_sms.delay(form)
    return Response("<Response/>", media_type="text/xml")


uvicorn.run(app, host="127.0.0.1", port=PORT, loop="uvloop", access_log=False)
