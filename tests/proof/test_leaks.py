"""Nothing leaks: after a run with every kind of request, all that the daemon let out is searched
for every secret and for everything personal.
"""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.channels.deliveries import PUBLIC_URL, SMS_PATH, twilio_signs
from tests.end_to_end.daemon import Daemon

from . import forged_chat, forged_mail, forged_sms
from .conftest import Say
from .storm import descendants
from .wire import FORM, Request, as_headers, exchange

TOKEN = "7c3e0f9b1d2a4c5e8f60718293a4b5c6"
MAILGUN_KEY = "key-9f8e7d6c5b4a39281706f5e4d3c2b1a0"
BOT_SECRET = "bot-5b1cf0d2e3a4978866554433"
PASSWORD = "logs-Zk3vQ8mWx2"
SIGNING = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SECRETS = (TOKEN, MAILGUN_KEY, BOT_SECRET, PASSWORD, SIGNING, SIGNING.removeprefix("whsec_"))

PEOPLE = {
    "number": "+33639980187",
    "bot number": "33639980186@c.us",
    "address": "margaux.tessier@example.com",
    "name": "Margaux Tessier",
    "text": "mon code confidentiel est abracadabra",
    "subject": "urgent et privé",
    "group": "Cercle Secret",
    "file name": "ordonnance-margaux.pdf",
    "file content": "diagnostic-tres-personnel",
}
AGENT = """
import os, pathlib, stat, sys

MODES = pathlib.Path(__file__).with_name("modes.txt")


class Recorder:
    def handle(self, event):
        data = event["data"]
        for file in data["attachments"]:
            path = pathlib.Path(file["path"])
            with MODES.open("a") as modes:
                for one in (path, path.parent):
                    modes.write(f"{stat.S_IMODE(one.stat().st_mode):o}\\n")
        print("printed", data)
        print("complained of", data["sender"], data["body"], file=sys.stderr)
        if "fail" in data["body"]:
            raise ValueError(f"cannot read {data['body']!r} of {data['sender']}")
        return {"response": "noted"}
"""
SETTINGS = f"""
    channels.email.signing_keys = ["{MAILGUN_KEY}"]
    channels.whatsapp.secret = "{BOT_SECRET}"
    channels.whatsapp.groups = {{ "{PEOPLE["group"].upper()}" = "GroupAgent" }}
    channels.whatsapp.reply_wait_seconds = 0.1
    channels.whatsapp.retry_schedule_seconds = [0.05]
    logs.password = "{PASSWORD}"
    agents.MetaAgent.target = "http://127.0.0.1:9/hook"
    agents.MetaAgent.signing_secret = "{SIGNING}"
    agents.GroupAgent.target = "log:"
"""


@dataclass
class Run:
    """What came out, by where it was found."""

    daemon: Daemon
    temporary: Path
    found: dict[str, bytes] = field(default_factory=dict)
    signatures: list[str] = field(default_factory=list)

    def send(self, what: str, request: Request) -> None:
        self.found[f"answer to {what}"] = exchange(self.daemon.port, request.wire)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A daemon to which everything happened."""
    folder = tmp_path_factory.mktemp("daemon")
    temporary = tmp_path_factory.mktemp("temporary")
    daemon = Daemon(folder, SETTINGS, agent=AGENT)
    daemon.config.write_text(
        daemon.config.read_text().replace("0123456789abcdef0123456789abcdef", TOKEN)
    )
    daemon.start(environment={"TMPDIR": str(temporary), "TWILIO_TOKEN": TOKEN})
    try:
        done = Run(daemon, temporary)
        _send_all(done)
        daemon.wait_for("entry.dead", count=4)
        _look_around(done)
        yield done
    finally:
        daemon.close()


def _send_all(run: Run) -> None:
    for text in (PEOPLE["text"], f"fail {PEOPLE['text']}"):
        for channel, request in _honest(text):
            run.send(channel, request)
            run.send(f"{channel}, again", request)
    for channel, request in _broken():
        run.send(channel, request)
    run.send("nothing", Request(b"/webhook/nothing?token=x", (), b""))
    basic = base64.b64encode(f"berinia:{PASSWORD}x".encode())
    for header in (b"Basic " + basic, b"Basic !", b"Bearer " + PASSWORD.encode()[:-1]):
        asked = Request(b"/webhook/logs", ((b"Authorization", header),), b"", b"GET")
        run.send("a wrong password", asked)


def _honest(text: str) -> Iterator[tuple[str, Request]]:
    pairs = forged_sms.fresh_fields(Body=text, From=PEOPLE["number"], ProfileName=PEOPLE["name"])
    yield "an SMS", _signed_sms(pairs, twilio_signs(pairs, token=TOKEN))
    yield "a mail", _mail(text, forged_mail.proof(key=MAILGUN_KEY))
    for group in ("", PEOPLE["group"]):
        yield "a chat", _chat(text, group, BOT_SECRET)


def _signed_sms(pairs: forged_sms.Pairs, signature: str) -> Request:
    headers = {"Content-Type": FORM.decode(), "X-Twilio-Signature": signature}
    return Request(SMS_PATH.encode(), as_headers(headers), forged_sms.encoded(pairs))


def _mail(text: str, proof: Mapping[str, str]) -> Request:
    fields = {**forged_mail.fresh_fields(), **proof}
    fields |= {"sender": PEOPLE["address"], "subject": PEOPLE["subject"], "stripped-text": text}
    file = (
        f'--x\r\nContent-Disposition: form-data; name="attachment-1"; '
        f'filename="{PEOPLE["file name"]}"\r\n\r\n{PEOPLE["file content"]}\r\n--x--\r\n'
    )
    body = forged_mail.as_multipart([*fields.items()], ending=file.encode())
    bare = forged_mail.posted([], b"multipart/form-data; boundary=x")
    return bare.carrying(body)


def _chat(text: str, group: str, secret: str) -> Request:
    document = forged_chat.fresh_document(
        content=text, author=PEOPLE["bot number"], profile_name=PEOPLE["name"]
    )
    document |= {"type": "group", "group": group} if group else {"type": "direct", "group": None}
    request = forged_chat.posted(document)
    return request.having(b"Authorization", b"Bearer " + secret.encode())


def _broken() -> Iterator[tuple[str, Request]]:
    """Verified and malformed; and forged in ways that the daemon looks into."""
    text = PEOPLE["text"]
    pairs = forged_sms.fresh_fields(Body=text, From=f"{PEOPLE['number']}, {PEOPLE['name']}")
    yield "a malformed SMS", _signed_sms(pairs, twilio_signs(pairs, token=TOKEN))
    proof = forged_mail.proof(key=MAILGUN_KEY)
    pairs = [(PEOPLE["address"], text), *proof.items()]
    yield "a malformed mail", forged_mail.posted(pairs)
    headers = _chat(text, "", BOT_SECRET)
    yield "a malformed chat", headers.carrying(json.dumps({text: PEOPLE["number"]}).encode())
    pairs = forged_sms.fresh_fields(Body=text, From=PEOPLE["number"])
    for url in ("http://app.example.com", "https://app.example.com:8443", "https://evil"):
        yield "a forged SMS", _signed_sms(pairs, twilio_signs(pairs, url + SMS_PATH, TOKEN))
    yield "a forged mail", _mail(text, forged_mail.proof(key=MAILGUN_KEY + " "))
    yield "a stale mail", _mail(text, forged_mail.proof(key=MAILGUN_KEY, age_seconds=10**6))
    yield "a forged chat", _chat(text, "", BOT_SECRET[:-1])


def _look_around(run: Run) -> None:
    """Collect everything that is to be searched."""
    daemon = run.daemon
    assert daemon.process is not None
    for path in ("/", "/health", "/metrics"):
        run.found[path] = daemon.request("GET", path).body
    for words in (
        ("check-config",),
        ("check-config", "--json"),
        ("events", "stats"),
        ("--version",),
    ):
        done = daemon.run(*words, check=False)
        run.found[" ".join(words)] = (done.stdout + done.stderr).encode()
    for pid in (daemon.process.pid, *descendants(daemon.process.pid)):
        run.found[f"cmdline of {pid}"] = Path(f"/proc/{pid}/cmdline").read_bytes()
    for pid in descendants(daemon.process.pid):
        run.found[f"environment of the host {pid}"] = Path(f"/proc/{pid}/environ").read_bytes()
    _collect_files(run)


def _collect_files(run: Run) -> None:
    daemon = run.daemon
    run.found["stderr"] = "\n".join(map(json.dumps, daemon.lines)).encode()
    for path in (daemon.folder / "state").rglob("*"):
        if path.is_file() and not path.name.startswith("journal.db"):
            run.found[path.name] = path.read_bytes()
    for path in run.temporary.rglob("*"):
        run.found[f"temporary {path.name}"] = path.read_bytes() if path.is_file() else b""


def spellings(text: str) -> set[bytes]:
    """A text as it might be written."""
    raw = text.encode()
    shifted = (base64.b64encode(b"x" * skip + raw)[4:-4] for skip in range(3))
    plain = {
        raw,
        quote(text, safe="").encode(),
        json.dumps(text)[1:-1].encode(),
        raw.hex().encode(),
    }
    return {spelling for spelling in (*plain, *shifted) if len(spelling) >= 8}


def leaks(run: Run, wanted: Mapping[str, str]) -> list[str]:
    return [
        f"{what} in {where}"
        for what, text in wanted.items()
        for where, content in run.found.items()
        if any(spelling in content for spelling in spellings(text))
    ]


def test_no_secret_leaves_the_daemon(run: Run, say: Say) -> None:
    """In no answer, log, metric, command line, host, command's output or file of its own."""
    found = leaks(run, {f"secret {n}": secret for n, secret in enumerate(SECRETS)})
    say("searched for secrets", places=len(run.found), secrets=len(SECRETS), found=len(found))
    assert found == []


def test_nothing_personal_leaves_the_daemon(run: Run, say: Say) -> None:
    """Neither who wrote, nor what, with `logs.personal_data` as it is by default."""
    found = leaks(run, PEOPLE)
    say("searched for people", places=len(run.found), data=len(PEOPLE), found=len(found))
    assert found == []


def test_no_right_signature_is_told(run: Run) -> None:
    """Whoever forges does not read in any answer or log what would have been right."""
    pairs = forged_sms.fresh_fields(Body="x")
    signature = twilio_signs(pairs, PUBLIC_URL + SMS_PATH, TOKEN)
    run.send("a probe", _signed_sms(pairs, "A" * 28))
    run.daemon.wait_for("signature.invalid", count=6)
    _collect_files(run)
    assert leaks(run, {"the signature": signature}) == []


def test_nobody_else_may_read_the_files(run: Run, say: Say) -> None:
    """No group and no other has access to journal, logs, state or attachments."""
    folder = run.daemon.folder / "state"
    paths = [folder, *folder.rglob("*")]
    open_ones = [
        f"{path.relative_to(folder)} {stat.S_IMODE(path.stat().st_mode):o}"
        for path in paths
        if path.stat().st_mode & 0o077
    ]
    modes = (run.daemon.agents / "modes.txt").read_text().split()
    say("files looked at", files=len(paths), attachments=len(modes) // 2, open=len(open_ones))
    assert open_ones == []
    assert set(modes) == {"600", "700"}


def test_no_attachment_stays_behind(run: Run) -> None:
    """The folder for temporary files is as empty as before."""
    assert [path.name for path in run.temporary.rglob("*")] == []


def test_control_characters_are_neutralised(run: Run) -> None:
    """Not one reaches a log file, whatever a stranger calls himself."""
    nasty = b"\x1b]0;owned\x07\x1b[2J\x9b31m"
    run.send("control characters", Request(b"/x", ((b"User-Agent", nasty),), b"", b"GET"))
    pairs = forged_sms.fresh_fields(Body="\x1b[31mfail\x07\u009b2J\u202e", ProfileName="\x1b[2J")
    run.send("control characters", _signed_sms(pairs, twilio_signs(pairs, token=TOKEN)))
    run.daemon.wait_for("attempt.failed", count=2, channel="sms")
    allowed = {0x0A}
    for path in (run.daemon.folder / "state" / "unified_logs").iterdir():
        text = path.read_text()
        odd = {hex(ord(c)) for c in text if (ord(c) < 32 or 127 <= ord(c) < 160)} - {
            hex(c) for c in allowed
        }
        assert odd == set(), path.name
        assert "\u202e" not in text
