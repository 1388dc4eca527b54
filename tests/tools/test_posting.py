"""Posting signed requests: to whom, how often, and what came of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from berinia_webhookd.channels.contract import SignedRequest
from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.tools.posting import MAX_ANSWER_BYTES, Posted, Tally, Target, post_all
from tests.ports import refusing_port

from .receiver import Receiver

SAMPLE = SignedRequest("/webhook/sms-response", {"X-Sample": "1"}, b"Body=Bonjour")


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port where nobody listens."""
    with refusing_port() as port:
        yield port


@pytest.mark.parametrize(
    ("text", "base_url", "unix_socket"),
    [
        ("127.0.0.1:8001", "http://127.0.0.1:8001", None),
        ("localhost", "http://localhost", None),
        ("http://[::1]:8001", "http://[::1]:8001", None),
        ("https://app.example.com/", "https://app.example.com", None),
        ("unix:/run/berinia-webhookd/web", "http://localhost", "/run/berinia-webhookd/web"),
    ],
)
def test_whom_to_post_to(text: str, base_url: str, unix_socket: str | None) -> None:
    """An address, a URL without a path, or a Unix socket."""
    assert Target.from_text(text) == Target(base_url, unix_socket)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://",
        "ftp://127.0.0.1",
        "http://127.0.0.1/webhook/sms-response",
        "http://127.0.0.1?x=1",
        "http://127.0.0.1#x",
        "http://127.0.0.1@example.com",
        "http://@example.com",
        "http://user:password@127.0.0.1",
        "127.0.0.1:port",
        "127.0.0.1:99999",
        "http://[::1",
        "::1",
        "unix:web",
    ],
)
def test_what_is_no_address_is_a_usage_error(text: str) -> None:
    """Exit 2, with the text as it was given."""
    with pytest.raises(click.UsageError, match="--to") as refusal:
        Target.from_text(text)
    assert refusal.value.exit_code == 2
    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "here"),
    [
        ("127.0.0.1:8001", True),
        ("127.8.9.10", True),
        ("[::1]:8001", True),
        ("[::ffff:127.0.0.1]:8001", True),
        ("unix:/run/web", True),
        ("0.0.0.0:8001", False),
        ("[::]:8001", False),
        ("192.0.2.1", False),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("[2001:db8::1]:8001", False),
        ("[::ffff:192.0.2.1]:8001", False),
        ("2130706434", True),  # 127.0.0.2, as one number
        ("3221225985", False),  # 192.0.2.1, likewise
    ],
)
def test_what_counts_as_this_machine(text: str, here: bool) -> None:
    """However the address is written."""
    assert Target.from_text(text).is_loopback() is here


def test_a_name_is_this_machine_only_with_all_its_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that leads elsewhere is enough to ask."""
    found = ["127.0.0.1", "192.0.2.1"]

    def resolve(*_: object, **__: object) -> list[Any]:
        return [(None, None, None, "", (address, 0)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert not Target.from_text("both.example.com").is_loopback()
    found.pop()
    assert Target.from_text("both.example.com").is_loopback()


def test_a_name_that_leads_nowhere_is_an_error() -> None:
    """With the name, and where it stands."""
    with pytest.raises(WebhookdError, match="cannot be resolved") as error:
        Target.from_text("a" * 70 + ".example.com").is_loopback()
    assert "--to" in str(error.value.hint)


async def post(
    target: Target, *, count: int = 1, rate: float | None = None
) -> tuple[Tally, list[Posted]]:
    answers: list[Posted] = []
    tally = await post_all(target, lambda: SAMPLE, count=count, rate=rate, posted=answers.append)
    if tally.broken is not None:
        raise tally.broken
    return tally, answers


async def test_a_request_arrives_as_it_was_signed(receiver: Receiver) -> None:
    """Path, headers and body byte for byte."""
    await post(Target.from_text(receiver.address))
    (got,) = receiver.received
    assert (got.path, got.headers["x-sample"], got.body) == (SAMPLE.path, "1", SAMPLE.body)


async def test_a_request_arrives_over_a_unix_socket(
    unix_receiver: tuple[Receiver, Path],
) -> None:
    """In the same way."""
    receiver, path = unix_receiver
    await post(Target.from_text(f"unix:{path}"))
    assert [got.body for got in receiver.received] == [SAMPLE.body]


@pytest.mark.parametrize("rate", [None, 500.0])
async def test_each_is_posted_once_and_counted(receiver: Receiver, rate: float | None) -> None:
    """One after another, or side by side at a rate."""
    tally, answers = await post(Target.from_text(receiver.address), count=30, rate=rate)
    assert len(receiver.received) == tally.sent == tally.statuses[200] == 30
    assert sorted(answer.number for answer in answers) == list(range(1, 31))


async def test_a_redirect_is_an_answer(receiver: Receiver) -> None:
    """Following it would lead a signed request elsewhere."""
    receiver.status, receiver.headers = 307, {"Location": f"http://{receiver.address}/elsewhere"}
    _, (answer,) = await post(Target.from_text(receiver.address))
    assert (answer.status, len(receiver.received)) == (307, 1)


async def test_an_environments_proxy_is_not_used(
    receiver: Receiver, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would learn the messages."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port}")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port}")
    _, (answer,) = await post(Target.from_text(receiver.address))
    assert answer.status == 200


async def test_of_a_long_answer_the_beginning_is_read(receiver: Receiver) -> None:
    """More than a person reads is left."""
    receiver.answer = b"x" * (MAX_ANSWER_BYTES * 3)
    _, (answer,) = await post(Target.from_text(receiver.address))
    assert answer.answer == "x" * MAX_ANSWER_BYTES


async def test_nobody_there_is_one_clear_error(free_port: int) -> None:
    """With the address and what to look at."""
    with pytest.raises(WebhookdError, match=f"127.0.0.1:{free_port} cannot be reached") as error:
        await post(Target.from_text(f"127.0.0.1:{free_port}"), count=5)
    assert error.value.hint


async def test_no_unix_socket_there_is_one_clear_error(tmp_path: Path) -> None:
    """Likewise."""
    with pytest.raises(WebhookdError, match=r"unix:.*/gone cannot be reached"):
        await post(Target.from_text(f"unix:{tmp_path}/gone"))


async def test_a_connection_that_breaks_is_one_clear_error(receiver: Receiver) -> None:
    """Also when several are under way."""
    receiver.broken = True
    with pytest.raises(WebhookdError, match="closed the connection"):
        await post(Target.from_text(receiver.address), count=5, rate=1000)


def test_what_came_of_them_in_figures() -> None:
    """Over all, in seconds; nothing of nothing."""
    tally = Tally()
    assert (tally.sent, tally.latencies()) == (0, {})
    for n in range(1, 101):
        tally.add(Posted(n, 200 if n % 10 else 503, "", "", n / 100))
    assert tally.statuses == {200: 90, 503: 10}
    assert tally.latencies() == {"min": 0.01, "median": 0.5, "p95": 0.95, "max": 1.0}
