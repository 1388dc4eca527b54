"""`channels`: what is configured, and what a captured request would be."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from berinia_webhookd.cli import root
from berinia_webhookd.model import ChannelName
from berinia_webhookd.tools.captured import captured

CONFIG = """
server.public_url = "https://app.example.com"

[channels.octo]
preset = "octopush"
agent = "LeadAgent"
secrets = ["in-the-url"]

[channels.meta]
preset = "meta-whatsapp"
agent = "LeadAgent"
secrets = ["the-app-secret"]
handshake_secrets = ["verify-me"]
"""
SMS = (
    b"POST /webhook/octo?k=in-the-url HTTP/1.1\r\nHost: app.example.com\r\n"
    b"Content-Type: application/json\r\n\r\n"
    b'{"number": "+33639980001", "text": "Oui", "message_id": "1"}'
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration and nothing else."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text(CONFIG)
    return tmp_path


def run(*words: str, given: bytes = b"") -> Result:
    return CliRunner().invoke(root, ["--config", "c.toml", "channels", *words], input=given)


@pytest.mark.usefixtures("place")
def test_the_list() -> None:
    """A preset stands for its kind."""
    lines = run("list").output.splitlines()
    assert lines[0].split() == ["NAME", "KIND", "PATH", "AGENT"]
    assert ["octo", "octopush", "/webhook/octo", "LeadAgent"] in [line.split() for line in lines]
    names = [one["name"] for one in json.loads(run("list", "--json").output)]
    assert names == ["sms", "email", "whatsapp", "octo", "meta"]


@pytest.mark.usefixtures("place")
def test_a_declaration_with_its_preset() -> None:
    """What is set and where it comes from, the facts of the provider, and no secret."""
    shown = run("show", "octo").output
    assert "in-the-url" not in shown
    assert "deadline: about 1 s" in shown
    assert "signs_body: false" in shown  # as one writes it in a file
    found = json.loads(run("show", "octo", "--json").output)
    assert found["settings"]["token"] == "query:k"
    assert found["settings"]["event"][0]["text"] == "text"
    assert found["provider"]["name"] == "Octopush"


@pytest.mark.parametrize("content", [SMS, SMS.replace(b"\r\n", b"\n")])
def test_a_captured_request(place: Path, content: bytes) -> None:
    """Proven, and the event that it would be; conditions that never held are named."""
    (place / "r.txt").write_bytes(content)
    found = run("test", "octo", "r.txt")
    assert found.exit_code == 0
    assert "proven\nmessage → LeadAgent\n    sender: +33639980001\n    text: Oui\n" in found.output
    assert "block 2: where = 'status' never holds: there is nothing" in found.output


@pytest.mark.usefixtures("place")
def test_what_is_not_proven_and_what_holds_nothing() -> None:
    """Each is exit code 1, with the reason."""
    found = run("test", "octo", "-", given=SMS.replace(b"in-the-url", b"another"))
    assert (found.exit_code, found.output) == (1, "not proven\n  The token is missing or wrong.\n")
    found = run("test", "octo", "-", given=SMS.replace(b'"text"', b'"words"'))
    assert found.exit_code == 1
    assert "No block of the channel found an event in it." in found.output
    assert "block 1: where = 'text' never holds" in found.output


@pytest.mark.usefixtures("place")
def test_a_question_before_anything_is_sent() -> None:
    """Its answer is shown."""
    target = "/webhook/meta?hub.mode=subscribe&hub.challenge=115&hub.verify_token=verify-me"
    found = run("test", "meta", "-", given=f"GET {target} HTTP/1.1\nHost: x\n\n".encode())
    assert "answered: 115" in found.output


@pytest.mark.parametrize("content", [b"", b"{}", b"POST /x HTTP/1.1\r\nHost: x\r\n", b"\xff\n\n"])
def test_what_is_no_request(tmp_path: Path, content: bytes) -> None:
    """It is said how one is written."""
    (tmp_path / "r.txt").write_bytes(content)
    with pytest.raises(click.UsageError, match="not a captured request"):
        captured(tmp_path / "r.txt", ChannelName("x"), datetime.now(UTC))


@pytest.mark.usefixtures("place")
def test_a_channel_on_which_nothing_is_set() -> None:
    """Where it receives, of which kind it is, and who gets it."""
    lines = [line.split() for line in run("show", "whatsapp").output.splitlines()]
    assert lines == [
        ["kind", "default", "berinia-whatsapp"],
        ["path", "default", "/webhook/whatsapp"],
        ["agent", "default", "MetaAgent"],
    ]
