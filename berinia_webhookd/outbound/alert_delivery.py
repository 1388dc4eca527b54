"""The delivery of an alert: to a command's standard input, and to a URL. Both have a time limit and
get none of the daemon's secrets. Failures are logged, not raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Coroutine
from typing import Final

import aiohttp
import structlog

from berinia_webhookd.config.settings import AlertSettings
from berinia_webhookd.http_client import HttpClient, is_success
from berinia_webhookd.outbound.fork_server import agents_environment

logger = structlog.get_logger()

COMMAND_SECONDS: Final = 30.0
POST_SECONDS: Final = 10.0


async def deliver(settings: AlertSettings, kind: str, document: bytes) -> None:
    """Deliver one alert, a JSON document, to the command and the URL that are set."""
    ways = []
    if settings.command is not None:
        ways.append(_log_result(kind, "alerts.command", run_command(settings.command, document)))
    if settings.url is not None:
        ways.append(_log_result(kind, "alerts.url", post(settings.url, document)))
    await asyncio.gather(*ways)


async def _log_result(kind: str, setting: str, way: Coroutine[None, None, str | None]) -> None:
    failure = await way
    if failure is None:
        logger.info("alert.sent", kind=kind, setting=setting)
    else:
        logger.warning("alert.failed", kind=kind, setting=setting, error=failure)


async def run_command(
    command: str, document: bytes, *, limit_seconds: float = COMMAND_SECONDS
) -> str | None:
    """Run the command, split as a shell would but without one; return what went wrong, or None.

    Its output is discarded; at the time limit it is killed with its process group.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command),
            stdin=PIPE,
            stdout=DEVNULL,
            stderr=DEVNULL,
            env=agents_environment(os.environ),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return f"cannot be run: {getattr(error, 'strerror', None) or error}"
    try:
        async with asyncio.timeout(limit_seconds):
            await process.communicate(document)
    except TimeoutError:
        return f"not finished within {limit_seconds:g} s, so it was killed"
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return None if process.returncode == 0 else f"ended with status {process.returncode}"


async def post(url: str, document: bytes, *, limit_seconds: float = POST_SECONDS) -> str | None:
    """Post the document; return what went wrong, or None, without the URL: it may hold a token."""
    try:
        async with (
            HttpClient() as client,
            client.request(
                "POST",
                url,
                body=document,
                headers={"Content-Type": "application/json"},
                timeout_seconds=limit_seconds,
            ) as answer,
        ):
            return None if is_success(answer) else f"HTTP {answer.status}"
    except TimeoutError:
        return f"no answer within {limit_seconds:g} s"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return type(error).__name__
