"""A real nginx in front: signatures still verify, and nobody outside can pass for somebody else."""

from __future__ import annotations

import asyncio
import json
import signal
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping

import pytest

from ..end_to_end.daemon import PUBLIC_URL, SMS_PATH, Answer, Daemon, sample_sms, signed_sms
from ..end_to_end.providers import (
    EMAIL_PATH,
    WHATSAPP_PATH,
    File,
    posted_mail,
    posted_whatsapp,
    sample_mail,
)
from .conftest import LOGS_PASSWORD
from .nginx import CLIENT, HOST, INSIDE, OLD_BLOCK, OUR_FILE, OUTSIDE, Nginx

pytestmark = pytest.mark.system

Start = Callable[..., tuple[Nginx, Daemon]]
OURS = OUR_FILE.read_text()
both = pytest.mark.parametrize("locations", [OURS, OLD_BLOCK], ids=["our file", "old block"])

FORGED: dict[str, Mapping[str, str]] = {
    "X-Forwarded-For": {"X-Forwarded-For": INSIDE},
    "a list of addresses": {"X-Forwarded-For": f"{INSIDE}, ::1, {INSIDE}"},
    "X-Forwarded-For twice": {"X-Forwarded-For": INSIDE, "x-forwarded-for": "::1"},
    "junk addresses": {"X-Forwarded-For": "unknown, , 999.1.1.1"},
    "Forwarded": {"Forwarded": f"for={INSIDE};host=app.example.com;proto=https"},
    "X-Real-IP": {"X-Real-IP": INSIDE},
    "X-Forwarded-Proto": {"X-Forwarded-Proto": "http"},
    "X-Forwarded-Host": {"X-Forwarded-Host": "localhost", "X-Forwarded-Port": "8001"},
    "X-Forwarded-Prefix": {"X-Forwarded-Prefix": "/elsewhere"},
    "underscores": {"X_Forwarded_For": INSIDE},
}
QUERIES = ("?foo=1&bar=%20a+b", "?a=%zz&b=%E9%e9", "?a='b'&a=c//d")
SPELLINGS = (
    "//webhook//whatsapp",
    "/webhook/%77hatsapp",
    "/webhook/./whatsapp",
    "/webhook/sms-response/../whatsapp",
    "/webhook/whatsapp?",
    "/webhook/whatsapp/",
    "/webhook/whatsapp%00",
    f"https://{INSIDE}/webhook/whatsapp",
)


def mail(nginx: Nginx, files: tuple[File, ...] = (), headers: Mapping[str, str] = {}) -> Answer:
    body, own = posted_mail(sample_mail(), files)
    return nginx.request("POST", EMAIL_PATH, body, {**own, **headers})


def whatsapp(
    nginx: Nginx, headers: Mapping[str, str] = {}, *, host: str = "app.example.com"
) -> Answer:
    body, own = posted_whatsapp()
    return nginx.request("POST", WHATSAPP_PATH, body, {**own, **headers}, host=host)


def accepted(daemon: Daemon) -> int:
    """How many events were taken in so far, by the journal's own word."""
    return len(json.loads(daemon.run("events", "list", "--json").stdout))


@both
def test_twilio_and_mailgun_come_through(behind_nginx: Start, locations: str) -> None:
    """Signatures verify over the URL that Twilio called; the client is who called nginx."""
    nginx, daemon = behind_nginx(locations)
    body, headers = signed_sms(sample_sms())
    assert nginx.request("POST", SMS_PATH, body, headers).status == 200
    assert mail(nginx).status == 200
    assert daemon.wait_for("event.accepted", channel="sms")["client"] == OUTSIDE
    assert daemon.wait_for("event.accepted", channel="email")["client"] == OUTSIDE
    daemon.wait_for("attempt.succeeded", count=2)
    assert len(daemon.seen()) == 2


@both
def test_the_query_comes_through_byte_for_byte(behind_nginx: Start, locations: str) -> None:
    """Neither nginx's decoding nor ours changes what Twilio signed."""
    nginx, _ = behind_nginx(locations)
    for query in QUERIES:
        target = SMS_PATH + query
        body, headers = signed_sms(sample_sms(), url=PUBLIC_URL + target)
        assert nginx.request("POST", target, body, headers).status == 200, query


def test_a_bare_question_mark_comes_through_our_file(behind_nginx: Start) -> None:
    """Nginx drops it where `proxy_pass` has a path, which is why ours has none."""
    nginx, _ = behind_nginx(OURS)
    body, headers = signed_sms(sample_sms(), url=f"{PUBLIC_URL}{SMS_PATH}?")
    assert nginx.request("POST", f"{SMS_PATH}?", body, headers).status == 200


@both
def test_forged_headers_change_nothing(behind_nginx: Start, locations: str) -> None:
    """Whatever a caller says of itself, an honest signature verifies and the client is the same."""
    nginx, daemon = behind_nginx(locations)
    for name, headers in FORGED.items():
        body, signed = signed_sms(sample_sms())
        assert nginx.request("POST", SMS_PATH, body, {**signed, **headers}).status == 200, name
        assert mail(nginx, headers=headers).status == 200, name
    daemon.wait_for("event.accepted", count=2 * len(FORGED), client=OUTSIDE)


@both
def test_a_forged_host_proves_nothing(behind_nginx: Start, locations: str) -> None:
    """What was signed for our URL is worthless under another name."""
    nginx, daemon = behind_nginx(locations)
    body, headers = signed_sms(sample_sms())
    hosts = ("localhost", INSIDE, "evil.example.com", "app.example.com.example.com")
    for host in hosts:
        assert nginx.request("POST", SMS_PATH, body, headers, host=host).status == 403, host
    daemon.wait_for("signature.invalid", count=len(hosts), client=OUTSIDE)
    assert accepted(daemon) == 0


@both
def test_whatsapp_is_closed_to_the_outside(behind_nginx: Start, locations: str) -> None:
    """Forged headers and hosts do not make a stranger the bot; the bot itself is let in."""
    nginx, daemon = behind_nginx(locations)
    refused = 404 if locations is OURS else 403
    for host in ("app.example.com", "localhost", INSIDE, "[::1]"):
        for name, headers in {"nothing": {}, **FORGED}.items():
            assert whatsapp(nginx, headers, host=host).status == refused, (host, name)
    assert accepted(daemon) == 0
    body, own = posted_whatsapp()
    assert daemon.request("POST", WHATSAPP_PATH, body, own).status == 200


@both
def test_no_spelling_of_the_path_opens_whatsapp(behind_nginx: Start, locations: str) -> None:
    """The two programs may read a path differently; neither lets it in."""
    nginx, daemon = behind_nginx(locations)
    body, headers = posted_whatsapp()
    for target in SPELLINGS:
        assert nginx.request("POST", target, body, headers).status in {400, 403, 404}, target
    assert accepted(daemon) == 0


def test_whatsapp_opens_to_a_bot_elsewhere_as_our_file_says(behind_nginx: Start) -> None:
    """Proxy lines in place of 404, the bot's address listed, and a secret."""
    block, _, rest = OURS.partition("location = /webhook/whatsapp {\n    return 404;")
    sms = block.partition("location = /webhook/sms-response {\n")[2].partition("}")[0]
    nginx, daemon = behind_nginx(
        f"{block}location = /webhook/whatsapp {{\n{sms}{rest}",
        f'channels.whatsapp.allowed_ips = ["{OUTSIDE}"]\nchannels.whatsapp.secret = "s3cret-word"',
    )
    assert whatsapp(nginx).status == 403
    assert whatsapp(nginx, {"Authorization": "Bearer wrong"}).status == 403
    answer = whatsapp(nginx, {"Authorization": "Bearer s3cret-word"})
    assert (answer.status, answer.json()["response"]) == (200, "noted")
    daemon.wait_for("event.accepted", client=OUTSIDE)


def test_our_file_closes_the_logs(behind_nginx: Start) -> None:
    """Not even the right password reads them from outside."""
    nginx, daemon = behind_nginx(OURS)
    basic = "Basic " + b64encode(f"berinia:{LOGS_PASSWORD}".encode()).decode()
    for target in ("/webhook/logs", "/webhook//logs", "/webhook/%6Cogs", "/webhook/logs?lines=1"):
        assert nginx.request("GET", target, headers={"Authorization": basic}).status == 404
    answer = daemon.request("GET", "/webhook/logs", headers={"Authorization": basic})
    assert answer.status == 200


def test_the_old_block_leaves_the_logs_to_the_password(behind_nginx: Start) -> None:
    """Without it, 401; guesses empty the caller's bucket, not that of honest ones."""
    nginx, _ = behind_nginx(OLD_BLOCK, "")
    answer = nginx.request("GET", "/webhook/logs", headers={"X-Forwarded-For": INSIDE})
    assert answer.status == 401
    assert "WWW-Authenticate" in answer.headers
    wrong = "Basic " + b64encode(b"berinia:wrong").decode()
    assert nginx.request("GET", "/webhook/logs", headers={"Authorization": wrong}).status == 401


def test_our_file_hides_metrics_and_health(behind_nginx: Start) -> None:
    """Only what providers call is passed on."""
    nginx, _ = behind_nginx(OURS)
    for target in ("/metrics", "/health", "/webhook/", "/webhook/sms-response/more"):
        assert nginx.request("GET", target).status == 404


def test_a_large_mail_comes_through_our_file(behind_nginx: Start) -> None:
    """25 MB, which is what Mailgun takes, arrive whole."""
    nginx, daemon = behind_nginx(OURS)
    content = bytes(range(256)) * 100_000
    answer = mail(nginx, (File(content),))
    assert answer.status == 200, answer.body
    shown = json.loads(daemon.run("events", "show", answer.json()["event_id"], "--json").stdout)
    assert str(len(content)) in json.dumps(shown)


async def connected_at_once(nginx: Nginx, count: int) -> list[int]:
    """The statuses of so many SMS, none of which ends before all have begun."""
    few = asyncio.Semaphore(50)  # as many as nginx lets wait

    async def begin() -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        body, headers = signed_sms(sample_sms())
        async with few:
            reader, writer = await asyncio.open_connection(
                INSIDE, nginx.port, ssl=nginx.tls, server_hostname=HOST
            )
        fields = {**headers, "Host": HOST, "Content-Length": str(len(body)), CLIENT: OUTSIDE}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"POST {SMS_PATH} HTTP/1.1\r\n{head}\r\n".encode() + body[:-1])
        await writer.drain()
        return reader, writer, body[-1:]

    begun = await asyncio.gather(*(begin() for _ in range(count)))
    for _, writer, last in begun:
        writer.write(last)
    lines = await asyncio.gather(*(reader.readline() for reader, _, _ in begun))
    for _, writer, _ in begun:
        writer.close()
    return [int(line.split()[1]) for line in lines]


@pytest.mark.usefixtures("many_descriptors")
def test_everybody_behind_nginx_gets_in(behind_nginx: Start) -> None:
    """A trusted proxy has no share of the connections to exceed."""
    unbuffered = OURS.replace("proxy_pass http", "proxy_request_buffering off; proxy_pass http")
    nginx, _ = behind_nginx(unbuffered, "server.body_timeout_seconds = 30")
    statuses = asyncio.run(connected_at_once(nginx, 800))
    assert Counter(statuses) == {200: 800}


@both
def test_one_outside_caller_is_limited_alone(behind_nginx: Start, locations: str) -> None:
    """Forged addresses give nobody a fresh bucket; others behind the same nginx go on."""
    nginx, daemon = behind_nginx(locations)
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("requests = 100000", "requests = 5", 1))
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("config.reloaded")
    body, headers = signed_sms(sample_sms(), token="f" * 32)
    statuses = [
        nginx.request("POST", SMS_PATH, body, {**headers, "X-Forwarded-For": f"192.0.2.{n}"}).status
        for n in range(8)
    ]
    assert statuses == [403] * 5 + [429] * 3
    body, headers = signed_sms(sample_sms())
    assert nginx.request("POST", SMS_PATH, body, headers, source="203.0.113.3").status == 200
