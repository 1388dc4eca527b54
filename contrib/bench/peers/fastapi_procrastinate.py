"""A peer that keeps what it accepts: FastAPI, twilio's `validate`, and a job of procrastinate in
PostgreSQL, committed before the answer.

Usage: python fastapi_procrastinate.py PORT TOKEN PUBLIC_URL DATABASE
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import procrastinate
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from twilio.request_validator import RequestValidator

PORT, TOKEN, PUBLIC_URL, DATABASE = int(sys.argv[1]), *sys.argv[2:5]

validator = RequestValidator(TOKEN)
jobs = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=DATABASE, min_size=8, max_size=8)
)


@jobs.task
async def process_sms(form: dict[str, str]) -> None:
    """A worker would do it; none runs."""


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with jobs.open_async():
        if not await jobs.check_connection_async():  # it has no tables yet
            await jobs.schema_manager.apply_schema_async()
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/webhook/sms-response")
async def sms_response(request: Request) -> Response:
    form = {name: str(value) for name, value in (await request.form()).items()}
    signature = request.headers.get("X-Twilio-Signature", "")
    if not validator.validate(PUBLIC_URL + request.url.path, form, signature):
        raise HTTPException(403, "bad signature")
    await process_sms.defer_async(form=form)
    return Response("<Response/>", media_type="text/xml")


uvicorn.run(app, host="127.0.0.1", port=PORT, loop="uvloop", access_log=False)
