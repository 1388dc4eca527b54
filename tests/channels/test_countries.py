"""Phone numbers without their country: `channels.<name>.country`, wherever they are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from berinia_webhookd.channels.addresses_of_people import normal_party
from berinia_webhookd.journal.erase import names
from berinia_webhookd.tools.command_context import CommandContext
from berinia_webhookd.tools.opened_journal import normal_address

from .declared.declarations import read, settings_from

FRENCH = "+33639980001"
SPELLINGS = ("06 39 98 00 01", "0639980001", "06.39.98.00.01", "0033639980001", "+33639980001")


@pytest.mark.parametrize("text", [*SPELLINGS, "639980001", "tel:06-39-98-00-01", "33639980001"])
def test_one_number_of_a_country(text: str) -> None:
    """All its spellings are one."""
    assert normal_party(text, "FR") == FRENCH


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("38080", "38080"),
        ("3615", "3615"),
        ("+447700900123", "+447700900123"),
        ("447700900123", "+447700900123"),
        ("00447700900123", "+447700900123"),
        ("BerinIA", "berinia"),
        ("lead@example.com", "lead@example.com"),
        ("9" * 300, "+" + "9" * 300),
        ("1" * 15, "+" + "1" * 15),
        ("", ""),
    ],
)
def test_what_is_no_number_of_the_country(text: str, normal: str) -> None:
    """Short codes, numbers of other countries, names: as without one."""
    assert normal_party(text, "FR") == normal_party(text) == normal


@pytest.mark.parametrize(
    ("text", "country", "normal"),
    [
        ("0470 12 34 56", "BE", "+32470123456"),
        ("088080", "DE", "+4988080"),
        ("88080", "DE", "88080"),
        ("650-555-0100", "US", "+16505550100"),
        ("06 1234 5678", "IT", "+390612345678"),
    ],
)
def test_other_countries(text: str, country: str, normal: str) -> None:
    """Each has rules of its own, of which libphonenumber knows."""
    assert normal_party(text, country) == normal


def test_a_declared_channel() -> None:
    """Its conversations and blocked senders, where the block says that they are numbers."""
    block = {"sender": "from", "recipient": "to", "text": "text", "address": "phone"}
    body = [{"from": one, "to": "0639980002", "text": "Oui"} for one in SPELLINGS]
    more: dict[str, Any] = {"country": "FR", "block": ["06 39 98 00 01"]}
    events = read(body, {**block, "items": [""]}, **more).events
    assert {one.conversation[1:] for one in events} == {(FRENCH, "+33639980002")}
    assert {one.skipped for one in events} == {"blocked"}
    assert [one.sender for one in events] == list(SPELLINGS)  # as they came


@pytest.mark.parametrize(
    ("address", "country"), [("phone", None), ("other", "FR"), ("email", "FR"), (None, "FR")]
)
def test_what_is_compared_as_written(address: str | None, country: str | None) -> None:
    """Ids with a leading zero are no numbers, and without a country nobody knows."""
    block = {"sender": "from", "text": "text"} | ({"address": address} if address else {})
    more: dict[str, Any] = {"country": country} if country else {}
    (event,) = read({"from": "0639980001", "text": "Oui"}, block, **more).events
    assert event.conversation.sender == "0639980001"


def test_receipts_belong_to_the_same_person() -> None:
    """Whatever the spelling of the provider's statuses."""
    block = {
        "kind": "receipt",
        "recipient": "to",
        "status": "status",
        "message": "id",
        "address": "phone",
    }
    (event,) = read({"to": "0639980001", "status": "sent", "id": "1"}, block, country="FR").events
    assert event.conversation.sender == FRENCH


@pytest.mark.parametrize("country", ["fr", "France", "XX", "", 33])
def test_what_is_no_country(country: object) -> None:
    """It is found at start."""
    with pytest.raises(ValueError, match="such as FR"):
        settings_from({"country": country})


CHANNEL = """
[channels.{name}]
kind = "declared"
agent = "A"
verify = "token"
token = "header:X-Token"
secrets = ["0123456789abcdef"]
country = "{country}"
event = [{{ sender = "from", text = "text", address = "phone" }}]
"""


def asked(tmp_path: Path, text: str, channel: str | None, **countries: str) -> str:
    """What a command looks for."""
    file = tmp_path / "berinia.toml"
    file.write_text("".join(CHANNEL.format(name=n, country=c) for n, c in countries.items()))
    file.chmod(0o600)
    with click.Context(click.Command("list"), obj=CommandContext(file)):
        return normal_address(text, "--sender", channel)


def test_an_operator_writes_it_as_people_do(tmp_path: Path) -> None:
    """By the country of the channel, or the one that the channels have; else it has to be said."""
    assert asked(tmp_path, "06 39 98 00 01", None, octo="FR") == FRENCH
    assert asked(tmp_path, "06 39 98 00 01", "sms", octo="FR") == "0639980001"
    assert asked(tmp_path, "06 39 98 00 01", "octo", octo="FR", sinch="BE") == FRENCH
    assert asked(tmp_path, FRENCH, None, octo="FR", sinch="BE") == FRENCH
    with pytest.raises(click.UsageError, match="by the channels' countries"):
        asked(tmp_path, "0470 12 34 56", None, octo="FR", sinch="BE")
    with pytest.raises(click.UsageError, match="empty"):
        asked(tmp_path, " ", None, octo="FR", sinch="BE")


@pytest.mark.parametrize(
    "text", [b'{"from":"06 39 98 00 01"}', b"from=0639980001", b"+33639980001"]
)
def test_what_could_not_be_read_is_found_by_either_spelling(text: bytes) -> None:
    """When a person is erased."""
    assert names(text, FRENCH)
    assert not names(text, "+33639980002")
