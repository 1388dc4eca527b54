"""`GET /webhook/logs`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import encode_basic_auth

from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.config.load import load
from berinia_webhookd.config.secret import Secret
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.status.logs_api import LogsPage

from .conftest import Get

RIGHT = {"Authorization": encode_basic_auth("berinia", "pässword:1", "utf-8")}


@pytest.fixture
def page(tmp_path: Path) -> LogsPage:
    """A page over a folder with one log."""
    (tmp_path / "webhook.log").write_text("".join(f"line {n}\n" for n in range(1, 2001)))
    return LogsPage(settings(tmp_path, Secret("pässword:1")))


def settings(folder: Path, password: Secret | None) -> Settings:
    plain = load(kinds=KINDS, environ={}, working_folder=folder).settings
    return replace(plain, logs=replace(plain.logs, dir=folder, password=password))


async def test_the_last_fifty_lines_of_the_webhook_log(page: LogsPage, get: Get) -> None:
    """Without parameters: 50 lines of webhook.log, newest last, not to be cached."""
    status, body, headers = await get(page.handle, **RIGHT)
    assert status == 200
    assert body == {
        "status": "success",
        "log_type": "webhook",
        "lines": [f"line {n}" for n in range(1951, 2001)],
    }
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("lines", [1, 50, 1000])
async def test_as_many_lines_as_asked_for(page: LogsPage, get: Get, lines: int) -> None:
    """From 1 to 1000 lines."""
    _, body, _ = await get(page.handle, f"?lines={lines}", **RIGHT)
    assert len(body["lines"]) == lines


@pytest.mark.parametrize(
    "log_type", ["webhook", "sms", "email", "whatsapp", "system", "error", "agents"]
)
async def test_each_log_has_its_name(
    page: LogsPage, get: Get, tmp_path: Path, log_type: str
) -> None:
    """`type` chooses the file of that name."""
    (tmp_path / f"{log_type}.log").write_text(f"{log_type}\n")
    _, body, _ = await get(page.handle, f"?type={log_type}", **RIGHT)
    assert (body["log_type"], body["lines"]) == (log_type, [log_type])


async def test_a_log_that_does_not_exist_is_empty(page: LogsPage, get: Get) -> None:
    """200 and an empty list."""
    status, body, _ = await get(page.handle, "?type=email", **RIGHT)
    assert (status, body["lines"]) == (200, [])


@pytest.mark.parametrize(
    ("query", "invalid"),
    [
        ("?lines=0", ["lines"]),
        ("?lines=1001", ["lines"]),
        ("?lines=-5", ["lines"]),
        ("?lines=", ["lines"]),
        ("?lines=1e2", ["lines"]),
        ("?lines=%D9%A1", ["lines"]),
        ("?lines=5&lines=6", ["lines"]),
        ("?lines=" + "9" * 5000, ["lines"]),
        ("?type=", ["type"]),
        ("?type=../../etc/passwd", ["type"]),
        ("?type=webhook.log", ["type"]),
        ("?type=Webhook", ["type"]),
        ("?type=sms%00", ["type"]),
        ("?type=x&lines=y", ["lines", "type"]),
        ("?" + "&".join("a=1" for _ in range(50)), []),
    ],
)
async def test_anything_else_is_refused(
    page: LogsPage, get: Get, query: str, invalid: list[str]
) -> None:
    """400 names what is wrong."""
    status, body, _ = await get(page.handle, query, **RIGHT)
    assert (status, body) == (400, invalid)


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic",
        "Basic !!!",
        "Bearer abc",
        "Basic " + "A" * 3,
        encode_basic_auth("berinia", "wrong", "utf-8"),
        encode_basic_auth("other", "pässword:1", "utf-8"),
        encode_basic_auth("", "", "utf-8"),
        "Basic /w==",
    ],
)
async def test_nobody_reads_without_the_password(
    page: LogsPage, get: Get, authorization: str
) -> None:
    """401 whatever is wrong with the credentials, before the parameters are looked at."""
    status, _, _ = await get(page.handle, "?lines=0", Authorization=authorization)
    assert status == 401


@pytest.mark.parametrize("password", [None, Secret("")])
async def test_without_a_password_nobody_reads(
    page: LogsPage, get: Get, tmp_path: Path, password: Secret | None
) -> None:
    """503 when no password is configured, also for an empty one."""
    page.reconfigure(settings(tmp_path, password))
    empty = {"Authorization": encode_basic_auth("berinia", "", "utf-8")}
    assert (await get(page.handle, **empty))[0] == 503
