"""`send`: signed samples to this machine only, and what is shown of the answers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from twilio.request_validator import RequestValidator

from berinia_webhookd.cli import main
from berinia_webhookd.tools import installation
from berinia_webhookd.tools.installation import RunningDaemon

from .receiver import Receiver

TOKEN = "0123456789abcdef0123456789abcdef"
CHANNELS = """
[channels.email]
signing_keys = ["key-0123456789abcdef"]
[channels.whatsapp]
secret = "0123456789abcdef0123456789abcdef"
[channels.crm]
kind = "declared"
agent = "ResponseListenerAgent"
verify = "token"
token = "header:X-Token"
secrets = ["0123456789abcdef0123456789abcdef"]
[[channels.crm.event]]
id = ["lead.id"]
sender = "lead.phone"
text = "lead.note"
"""
Send = Callable[..., int]


@pytest.fixture
def send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Send:
    """Runs `send` as the command line does; gives its exit code."""
    for name in [name for name in os.environ if name.startswith(("BERINIA_", "TWILIO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "berinia.toml"
    config.write_text(f'channels.sms.tokens = ["{TOKEN}"]\n')
    config.chmod(0o600)

    def run(*words: str) -> int:
        with pytest.raises(SystemExit) as end:
            main(["--config", str(config), "send", *words])
        assert isinstance(end.value.code, int)
        return end.value.code

    return run


Output = pytest.CaptureFixture[str]


def test_a_sample_is_signed_as_twilio_signs(send: Send, receiver: Receiver) -> None:
    """Twilio's own library agrees; numbers are from the range for fiction."""
    assert send("sms", "--to", receiver.address, "--set", "Body=Bonjour & merci") == 0
    (got,) = receiver.received
    form = got.form()
    url = f"http://{receiver.address}{got.path}"
    assert RequestValidator(TOKEN).validate(url, form, got.headers["x-twilio-signature"])
    assert form["Body"] == "Bonjour & merci"
    assert form["From"].startswith("+3363998")


def test_the_whole_url_of_the_endpoint_is_an_address(
    send: Send, receiver: Receiver, capsys: Output
) -> None:
    """As a provider's console has it; another path is a usage error that names the channel's."""
    whole = f"http://{receiver.address}/webhook/sms-response"
    assert send("sms", "--to", whole) == 0
    (got,) = receiver.received
    assert got.path == "/webhook/sms-response"
    assert RequestValidator(TOKEN).validate(whole, got.form(), got.headers["x-twilio-signature"])
    assert send("sms", "--to", f"http://{receiver.address}/webhook/sms") == 2
    assert "nor http://host:port/webhook/sms-response" in capsys.readouterr().err


def test_each_sample_is_a_new_message(send: Send, receiver: Receiver, capsys: Output) -> None:
    """With an id of its own; a line each and a summary."""
    assert send("sms", "--to", receiver.address, "--count", "3") == 0
    assert len({got.form()["MessageSid"] for got in receiver.received}) == 3
    *lines, summary = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["#1", "200"], ["#2", "200"], ["#3", "200"]]
    assert summary.startswith(f"3 sent to http://{receiver.address} in ")
    assert "3 × 200" in summary


def test_a_bad_signature_is_meant_to_be_refused(send: Send, receiver: Receiver) -> None:
    """403 is the right answer to it, and any other is the problem."""
    receiver.status = 403
    assert send("sms", "--to", receiver.address, "--bad-signature") == 0
    (got,) = receiver.received
    url = f"http://{receiver.address}{got.path}"
    assert not RequestValidator(TOKEN).validate(url, got.form(), got.headers["x-twilio-signature"])
    receiver.status = 200
    assert send("sms", "--to", receiver.address, "--bad-signature") == 1


@pytest.mark.parametrize("status", [303, 403, 404, 429, 503])
def test_an_answer_that_is_no_success_is_exit_one(
    send: Send, receiver: Receiver, status: int, capsys: Output
) -> None:
    """And is shown with its reason."""
    receiver.status, receiver.answer = status, b'{"detail": "because"}'
    assert send("sms", "--to", receiver.address) == 1
    shown = capsys.readouterr().out
    assert f"{status} " in shown
    assert "because" in shown


def test_the_answers_as_json(send: Send, receiver: Receiver, capsys: Output) -> None:
    """One document, with each answer and the figures."""
    assert send("sms", "--to", receiver.address, "--count", "2", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["channel"], document["to"]) == ("sms", f"http://{receiver.address}")
    assert [(each["status"], each["answer"]) for each in document["requests"]] == [
        (200, "<Response/>"),
        (200, "<Response/>"),
    ]
    summary = document["summary"]
    assert (summary["sent"], summary["unexpected"], summary["statuses"]) == (2, 0, {"200": 2})
    assert set(summary["latency_ms"]) == {"min", "median", "p95", "max"}


def test_an_answer_cannot_steer_the_terminal(
    send: Send, receiver: Receiver, capsys: Output
) -> None:
    """Whoever answers there."""
    receiver.answer = b"\x1b[2J\r\n\xff\x9b31m" + "\u202e".encode() * 300
    assert send("sms", "--to", receiver.address) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert r"\x1b[2J" in line
    assert not set("\x1b\x9b\u202e") & set(line)
    assert len(line) < 300


@pytest.mark.parametrize("elsewhere", ["192.0.2.1:8001", "https://198.51.100.1", "[2001:db8::1]"])
def test_nothing_leaves_this_machine_without_really(
    send: Send, elsewhere: str, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 2, before a connection is tried; the flag to give is named."""

    def connect(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr("berinia_webhookd.tools.send.post_all", connect)
    assert send("sms", "--to", elsewhere) == 2
    assert "--really" in capsys.readouterr().err


def test_really_sends_all_the_same(send: Send, receiver: Receiver) -> None:
    """The unspecified address is not loopback, and leads here."""
    everywhere = f"0.0.0.0:{receiver.port}"
    assert send("sms", "--to", everywhere) == 2
    assert receiver.received == []
    assert send("sms", "--to", everywhere, "--really") == 0
    assert len(receiver.received) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_by_default_the_running_daemon_gets_it(
    send: Send, receiver: Receiver, tmp_path: Path, host: str
) -> None:
    """Where it says it listens; one that listens everywhere listens here as well."""
    here = RunningDaemon(
        pid=os.getpid(),
        address=f"{host}:{receiver.port}",
        version="1",
        configuration=tmp_path / "berinia.toml",
        journal=None,
        logs=tmp_path,
        state=tmp_path / "state",
        runtime=tmp_path / "run",
    )
    installation.write(here, os.environ)
    assert send("sms") == 0
    assert len(receiver.received) == 1


def test_without_its_secret_nothing_can_be_signed(
    send: Send, receiver: Receiver, tmp_path: Path, capsys: Output
) -> None:
    """The setting is named."""
    (tmp_path / "berinia.toml").write_text("")
    assert send("sms", "--to", receiver.address) == 1
    assert receiver.received == []
    assert "channels.sms.tokens" in capsys.readouterr().err


def test_a_field_that_the_sample_does_not_have_is_named(
    send: Send, receiver: Receiver, capsys: Output
) -> None:
    """It is sent all the same; the nearest is what was meant, most likely."""
    assert send("sms", "--to", receiver.address, "--set", "body=x", "--set", "Body=y") == 0
    form = receiver.received[0].form()
    assert (form["body"], form["Body"]) == ("x", "y")
    (note,) = [line for line in capsys.readouterr().err.splitlines() if "note:" in line]
    assert "no field body, which is sent all the same; did you mean Body?" in note


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("email Subject", None),  # another spelling of it takes its place
        ("email recipent", "recipient"),
        ("whatsapp content", None),
        ("whatsapp Group", "group"),
        ("crm text", None),  # a name of the declaration
        ("crm lead.note", None),  # what it is a name of
        ("crm lead.nota", "lead.note"),
    ],
)
def test_every_channel_knows_the_fields_of_its_sample(
    send: Send, receiver: Receiver, capsys: Output, given: str, nearest: str | None
) -> None:
    """Forms in either letter case, JSON by its paths."""
    Path("berinia.toml").write_text(CHANNELS)
    channel, field = given.split()
    assert send(channel, "--to", receiver.address, "--set", f"{field}=x") == 0
    told = capsys.readouterr().err
    assert (f"did you mean {nearest}?" in told) if nearest else ("note:" not in told)


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_connection_that_breaks_ends_with_the_tally(
    send: Send, receiver: Receiver, capsys: Output, words: tuple[str, ...]
) -> None:
    """Of what was answered until then; and why it ended."""
    receiver.breaks_after = 2
    assert send("sms", "--to", receiver.address, "--count", "5", *words) == 1
    shown = capsys.readouterr()
    if words:
        summary = json.loads(shown.out)["summary"]
        assert (summary["sent"], summary["statuses"]) == (2, {"200": 2})
        assert "closed the connection" in summary["broken"]
    else:
        assert shown.out.splitlines()[-1].startswith(f"2 answered by http://{receiver.address} in")
        assert "2 × 200" in shown.out
    assert "closed the connection" in shown.err


@pytest.mark.parametrize(
    "words",
    [
        ("fax",),
        ("sms", "--set", "Body"),
        ("sms", "--set", "=x"),
        ("sms", "--count", "0"),
        ("sms", "--rate", "0"),
        ("sms", "--to", "http://[::1"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(send: Send, words: tuple[str, ...]) -> None:
    """Exit 2."""
    assert send(*words) == 2
