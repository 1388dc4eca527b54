"""Every row of the table of errors, on every endpoint, and HTTP that nobody can parse."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from .daemon import PATIENCE_SECONDS, PUBLIC_URL, SMS_PATH, Answer, Daemon, sample_sms, signed_sms
from .providers import (
    ALL_CHANNELS,
    EMAIL_PATH,
    FORM,
    WHATSAPP_PATH,
    posted_mail,
    posted_whatsapp,
    proof,
    sample_mail,
    sample_whatsapp,
)

ACCOUNT = "AC" + "0" * 32
SETTINGS = f"""{ALL_CHANNELS}
server.body_timeout_seconds = 2
channels.sms.account_sids = ["{ACCOUNT}"]
channels.sms.max_body_bytes = 20000
channels.email.max_body_bytes = 20000
channels.whatsapp.max_body_bytes = 20000
channels.whatsapp.reply_wait_seconds = 0
logs.password = "a long password"
"""
Request = tuple[bytes, dict[str, str]]
CHANNELS: Mapping[str, Callable[[], Request]] = {
    SMS_PATH: lambda: signed_sms(sample_sms()),
    EMAIL_PATH: posted_mail,
    WHATSAPP_PATH: posted_whatsapp,
}
PAGES = ("/", "/health", "/metrics", "/webhook/logs")
every_channel = pytest.mark.parametrize("path", CHANNELS)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all of these: what they send leaves nothing behind."""
    with closing(Daemon(tmp_path_factory.mktemp("errors"), SETTINGS)) as daemon:
        yield daemon.start()
        assert [line for line in daemon.lines if "raceback" in json.dumps(line)] == []
        assert [line for line in daemon.lines if line.get("level") == "error"] == []


def expect(answer: Answer, status: int) -> dict[str, object]:
    """The problem document of an answer, after checking what all of them have."""
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    document: dict[str, object] = answer.json()
    assert {"type", "title", "status", "detail", "request_id"} <= document.keys()
    assert document["status"] == status
    assert document["request_id"] == answer.headers["X-Request-ID"]
    assert all(isinstance(document[name], str) for name in ("type", "title", "detail"))
    assert ("Retry-After" in answer.headers) == (status in {429, 503})
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    return document


@dataclass(frozen=True)
class Malformed:
    path: str
    request: Request
    missing: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()


def sms_without(*names: str, **changes: str) -> Request:
    fields = {name: value for name, value in sample_sms(**changes).items() if name not in names}
    return signed_sms(fields)


MALFORMED = {
    "an SMS without fields": Malformed(
        SMS_PATH, sms_without("From", "Body"), missing=("From", "Body")
    ),
    "an SMS from nowhere": Malformed(SMS_PATH, sms_without(From="+33\t6"), invalid=("From",)),
    "an odd SID": Malformed(SMS_PATH, sms_without(MessageSid="SM1"), invalid=("MessageSid",)),
    "a mail for nobody": Malformed(
        EMAIL_PATH, posted_mail(sample_mail(recipient=None)), missing=("recipient",)
    ),
    "broken multipart": Malformed(
        EMAIL_PATH, (b"--x\r\nnonsense", {"Content-Type": "multipart/form-data; boundary=x"})
    ),
    "no boundary": Malformed(EMAIL_PATH, (b"--x--\r\n", {"Content-Type": "multipart/form-data"})),
    "no JSON": Malformed(WHATSAPP_PATH, (b"{", {"Content-Type": "application/json"})),
    "no object": Malformed(WHATSAPP_PATH, (b"[1]", {"Content-Type": "application/json"})),
    "no UTF-8": Malformed(WHATSAPP_PATH, (b'{"a":"\xff"}', {"Content-Type": "application/json"})),
    "too deep": Malformed(
        WHATSAPP_PATH, (b"[" * 9000 + b"]" * 9000, {"Content-Type": "application/json"})
    ),
    "nobody's message": Malformed(
        WHATSAPP_PATH, posted_whatsapp(sample_whatsapp(author=None)), missing=("author",)
    ),
}


@pytest.mark.parametrize("case", MALFORMED.values(), ids=MALFORMED)
def test_400_says_which_fields(daemon: Daemon, case: Malformed) -> None:
    """Names of fields, never their values."""
    document = expect(daemon.request("POST", case.path, *case.request), 400)
    assert document["missing"] == list(case.missing)
    assert document["invalid"] == list(case.invalid)


@pytest.mark.parametrize(
    "query", ["lines=0", "lines=1001", "lines=x", "type=../../etc/passwd", "lines=1&lines=2"]
)
def test_400_for_a_wish_that_no_log_has(daemon: Daemon, query: str) -> None:
    """The parameters of the logs endpoint are few, and bounded."""
    document = expect(read_logs(daemon, f"?{query}"), 400)
    assert document["invalid"] == [query.partition("=")[0]]


def read_logs(
    daemon: Daemon, query: str = "", login: str = "berinia", password: str = "a long password"
) -> Answer:
    basic = b64encode(f"{login}:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}"}
    return daemon.request("GET", f"/webhook/logs{query}", headers=headers)


def test_401_without_the_password(daemon: Daemon) -> None:
    """No name, no password, the wrong ones, another scheme."""
    expect(daemon.request("GET", "/webhook/logs"), 401)
    expect(read_logs(daemon, password="wrong"), 401)
    expect(read_logs(daemon, login="root"), 401)
    for value in ("Basic", "Basic !!!", "Bearer a long password", "Basic " + "A" * 4000):
        headers = {"Authorization": value}
        expect(daemon.request("GET", "/webhook/logs", headers=headers), 401)
    assert read_logs(daemon).json()["status"] == "success"


def refused() -> Iterator[tuple[str, str, Request]]:
    body, headers = signed_sms(sample_sms())
    yield "no signature", SMS_PATH, (body, {"Content-Type": FORM})
    yield "another body", SMS_PATH, (body + b"&a=b", headers)
    yield "another token", SMS_PATH, signed_sms(sample_sms(), token="f" * 32)
    yield "another URL", SMS_PATH, signed_sms(sample_sms(), url=PUBLIC_URL + EMAIL_PATH)
    other = {"AccountSid": "AC" + "1" * 32}
    yield "another account", SMS_PATH, signed_sms(sample_sms(**other))
    yield "no form at all", EMAIL_PATH, (b"\xff\x00", {"Content-Type": FORM})
    yield "another key", EMAIL_PATH, posted_mail({**sample_mail(), **proof(key="other")})
    stale = proof(timestamp="1000000000")
    yield "stale", EMAIL_PATH, posted_mail({**sample_mail(), **stale})
    body, headers = posted_whatsapp()
    yield "another address", WHATSAPP_PATH, (body, {**headers, "X-Forwarded-For": "203.0.113.9"})


@pytest.mark.parametrize(
    ("path", "request_"), [case[1:] for case in refused()], ids=[case[0] for case in refused()]
)
def test_403_for_what_is_not_proven(daemon: Daemon, path: str, request_: Request) -> None:
    """The same words whatever was wrong with a signature."""
    document = expect(daemon.request("POST", path, *request_), 403)
    if path == EMAIL_PATH:
        assert document["detail"] == "The request could not be verified."


def test_403_for_a_signature_used_before(daemon: Daemon) -> None:
    """One signature, one message."""
    signed = proof()
    body, headers = posted_mail({**sample_mail(), **signed})
    assert daemon.request("POST", EMAIL_PATH, body, headers).status == 200
    body, headers = posted_mail({**sample_mail(subject="another"), **signed})
    expect(daemon.request("POST", EMAIL_PATH, body, headers), 403)


@pytest.mark.parametrize(
    "target",
    [
        "/webhook",
        "/webhook/",
        "/webhook/sms-response/",
        "/webhook/SMS-response",
        "/webhook//sms-response",
        "/webhook/sms%2Dresponse",
        "/webhook/./sms-response",
        "/health/",
        "/favicon.ico",
        "/%00",
        "/" + "a" * 4000,
    ],
)
def test_404_for_whatever_is_not_a_path_of_ours(daemon: Daemon, target: str) -> None:
    """Paths are compared byte for byte, for every method."""
    for method in ("GET", "POST", "DELETE"):
        expect(daemon.request(method, target), 404)


@every_channel
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_405_where_only_post_is_possible(daemon: Daemon, path: str, method: str) -> None:
    """The answer names what is."""
    answer = daemon.request(method, path)
    assert answer.status == 405
    assert answer.headers["Allow"] == "POST"
    if method != "HEAD":
        expect(answer, 405)


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_405_where_there_is_only_something_to_read(daemon: Daemon, path: str, method: str) -> None:
    """The pages take nothing in."""
    answer = daemon.request(method, path, b"x=1", {"Content-Type": FORM})
    expect(answer, 405)
    assert answer.headers["Allow"] == "GET, HEAD"


@every_channel
def test_413_for_a_body_that_is_too_large(daemon: Daemon, path: str) -> None:
    """Before it is read where its length is said, else as soon as it shows."""
    _, headers = CHANNELS[path]()
    expect(daemon.request("POST", path, b"x" * 20_001, headers), 413)
    chunk = b"1388\r\n" + b"x" * 5000 + b"\r\n"
    chunked = {**headers, "Transfer-Encoding": "chunked"}
    expect(on_a_connection(daemon, path, chunked, chunk * 5 + b"0\r\n\r\n"), 413)


@every_channel
def test_408_for_a_body_that_does_not_come(daemon: Daemon, path: str) -> None:
    """Its beginning and no more."""
    body, headers = CHANNELS[path]()
    slow = {**headers, "Content-Length": str(len(body))}
    expect(on_a_connection(daemon, path, slow, body[:-1]), 408)


def on_a_connection(daemon: Daemon, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
    """The answer to a head and as much of a body as is given."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{lines}\r\n"
    raw = talk(daemon, head.encode() + body)
    first, _, rest = raw.partition(b"\r\n")
    fields, _, content = rest.partition(b"\r\n\r\n")
    pairs = (line.split(": ", 1) for line in fields.decode().split("\r\n"))
    return Answer(int(first.split()[1]), dict(pairs), content)


def talk(daemon: Daemon, data: bytes) -> bytes:
    """Everything that comes back until the daemon closes the connection."""
    with socket.create_connection(("127.0.0.1", daemon.port), PATIENCE_SECONDS) as connection:
        connection.sendall(data)
        with connection.makefile("rb") as answer:
            return answer.read()


@every_channel
def test_415_for_another_media_type(daemon: Daemon, path: str) -> None:
    """JSON for a form, a form for JSON, text, nothing at all; and nothing compressed."""
    body, headers = CHANNELS[path]()
    own = headers["Content-Type"]
    wrong = FORM if path == WHATSAPP_PATH else "application/json"
    for content_type in (wrong, "text/plain", f"x{own}", ""):
        sent = {**headers, "Content-Type": content_type}
        expect(daemon.request("POST", path, body, sent), 415)
    del headers["Content-Type"]
    expect(daemon.request("POST", path, body, headers), 415)
    packed = {**headers, "Content-Type": own, "Content-Encoding": "gzip"}
    expect(daemon.request("POST", path, body, packed), 415)


@pytest.mark.parametrize(
    ("path", "setting", "named"),
    [
        (SMS_PATH, "channels.sms.tokens = []", "channels.sms.tokens"),
        (EMAIL_PATH, "channels.email.signing_keys = []", "channels.email.signing_keys"),
        (WHATSAPP_PATH, "channels.whatsapp.allowed_ips = []", "channels.whatsapp.allowed_ips"),
        ("/webhook/logs", 'logs.username = "somebody"', "logs.password"),
    ],
)
def test_503_without_a_secret(tmp_path: Path, path: str, setting: str, named: str) -> None:
    """What cannot be proven is not believed; the answer names the setting."""
    with closing(Daemon(tmp_path, SETTINGS)) as daemon:
        lines = daemon.config.read_text().splitlines()
        kept = [line for line in lines if not line.strip().startswith(named)]
        daemon.config.write_text("\n".join([*kept, setting]))
        daemon.start()
        if path in CHANNELS:
            document = expect(daemon.request("POST", path, *CHANNELS[path]()), 503)
        else:
            document = expect(read_logs(daemon), 503)
        assert named in str(document["detail"])
        healthy = [other for other in CHANNELS if other != path]
        for other in healthy:
            assert daemon.request("POST", other, *CHANNELS[other]()).status in {200, 202}


def test_503_while_the_journal_does_not_answer(tmp_path: Path) -> None:
    """Another program holds the file: no silence, no 2xx, and recovery by itself. What was under
    way is kept although its provider was told to come again.
    """
    with closing(Daemon(tmp_path, SETTINGS)) as daemon:
        daemon.start()
        assert daemon.sms().status == 200
        daemon.wait_for("attempt.succeeded")
        patient = daemon.config.read_text()
        daemon.config.write_text(f"server.ack_timeout_seconds = 0.5\n{patient}")
        daemon.reload()
        before = -1.0
        while (commits := committed(daemon)) != before:  # until nobody asks for anything
            before = commits
        journal = sqlite3.connect(tmp_path / "state" / "journal.db", isolation_level=None)
        with closing(journal):
            journal.execute("BEGIN IMMEDIATE")
            for path, request in CHANNELS.items():
                expect(daemon.request("POST", path, *request()), 503)
            journal.execute("ROLLBACK")
        daemon.wait_for("attempt.succeeded", count=2)
        daemon.config.write_text(patient)
        daemon.reload(count=2)
        for path, request in CHANNELS.items():
            assert daemon.request("POST", path, *request()).status in {200, 202}
        daemon.wait_for("attempt.succeeded", count=2 + len(CHANNELS))


def committed(daemon: Daemon) -> float:
    """How many batches the daemon has committed."""
    text = daemon.request("GET", "/metrics").body.decode()
    (line,) = [one for one in text.splitlines() if "commit_batch_size_count" in one]
    return float(line.split()[-1])


def test_404_for_a_channel_that_is_switched_off(tmp_path: Path) -> None:
    """It has no path then; another may."""
    settings = (
        f'{SETTINGS}\nchannels.email.enabled = false\nchannels.sms.path = "/webhook/elsewhere"'
    )
    with closing(Daemon(tmp_path, settings)) as daemon:
        daemon.start()
        expect(daemon.request("POST", EMAIL_PATH, *posted_mail()), 404)
        expect(daemon.request("POST", SMS_PATH, *signed_sms(sample_sms())), 404)
        body, headers = signed_sms(sample_sms(), url=f"{PUBLIC_URL}/webhook/elsewhere")
        assert daemon.request("POST", "/webhook/elsewhere", body, headers).status == 200


def test_403_for_metrics_from_elsewhere(daemon: Daemon) -> None:
    """Health reasons and figures are not for everybody; whether we are healthy is."""
    elsewhere = {"X-Forwarded-For": "203.0.113.9"}
    expect(daemon.request("GET", "/metrics", headers=elsewhere), 403)
    answer = daemon.request("GET", "/health", headers=elsewhere)
    assert (answer.status, answer.json()) == (200, {"status": "healthy"})
    assert daemon.request("GET", "/metrics").status == 200


REQUEST_IDS = [("abc-1.2_Z", True), ("a" * 64, True), ("a" * 65, False), ("", False)]
REQUEST_IDS += [("a b", False), ("a\tb", False), ("é", False), ("<x>", False), ("a,b", False)]


@pytest.mark.parametrize("path", [*CHANNELS, *PAGES, "/nothing"])
def test_every_answer_has_a_request_id(daemon: Daemon, path: str) -> None:
    """The caller's own if it is harmless, else a fresh one, and the same in the log."""
    for given, kept in REQUEST_IDS:
        body, headers = CHANNELS[path]() if path in CHANNELS else (None, {})
        method = "POST" if path in CHANNELS else "GET"
        sent = {**headers, "X-Request-ID": given.encode("latin-1").decode("latin-1")}
        answered = daemon.request(method, path, body, sent).headers["X-Request-ID"]
        assert (answered == given) == kept, given
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", answered)
        daemon.wait_for("request.finished", request_id=answered)


UNREADABLE = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "words": b"hello there\r\n\r\n",
    "HTTP/9": b"GET / HTTP/9.9\r\n\r\n",
    "a bad method": b"G\x01T / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a header without colon": b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
    "a bare CR": b"GET / HTTP/1.1\r\nHost: x\rX: y\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: x\x00y\r\n\r\n",
    "a blank before the colon": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "a negative length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "no number": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1e3\r\n\r\n",
    "smuggling": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an odd coding": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "a long line": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a long header": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 2000 + b"\r\n",
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_http_that_cannot_be_parsed_gets_a_bare_400(daemon: Daemon, data: bytes) -> None:
    """No text, no traceback, no word on what runs here; and the next caller is served."""
    answer = talk(daemon, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")), answer
    assert body == b""
    for word in (b"Python", b"aiohttp", b"Traceback", b"text/"):
        assert word not in answer
    assert daemon.request("GET", "/health").status == 200


def test_a_body_that_breaks_off_or_lies_is_400(daemon: Daemon) -> None:
    """Chunks that are none, on each channel: a problem document, not a traceback."""
    for path, request in CHANNELS.items():
        _, headers = request()
        chunked = {**headers, "Transfer-Encoding": "chunked"}
        for body in (b"zz\r\n", b"5\r\nabcdefgh\r\n", b"-1\r\n"):
            answer = on_a_connection(daemon, path, chunked, body)
            assert answer.status in {400, 408}, (path, body)
