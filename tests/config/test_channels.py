"""Channels by other names than the built-in ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.channels.settings import TwilioSettings
from berinia_webhookd.config.channel_settings import ChannelSettings
from berinia_webhookd.config.fields import setting
from berinia_webhookd.config.load import examine
from berinia_webhookd.config.reload import changes
from berinia_webhookd.config.secret import Secret
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.config.values import text
from berinia_webhookd.findings import Finding
from berinia_webhookd.model import ChannelName

from .place import Place, sms

SECOND = ChannelName("second-number")
TABLE = '[channels.second-number]\nkind = "twilio"\nagent = "SalesAgent"\n'
VARIABLE = "BERINIA_WEBHOOKD_CHANNELS__SECOND_NUMBER__TOKENS"


def test_three_exist_by_themselves(place: Place) -> None:
    """Each of its kind."""
    channels = place.load().settings.channels
    assert {name: channel.kind for name, channel in channels.items()} == {
        "sms": "twilio",
        "email": "mailgun",
        "whatsapp": "berinia-whatsapp",
    }


def test_a_table_with_a_kind_is_a_channel(place: Place) -> None:
    """It has the keys of its kind, and a path of its own."""
    place.toml(f'{TABLE}tokens = ["two"]\naccount_sids = ["AC1"]')
    channel = place.load().settings.channels[SECOND]
    assert isinstance(channel, TwilioSettings)
    assert (channel.name, channel.path, channel.agent, channel.tokens, channel.account_sids) == (
        SECOND,
        "/webhook/second-number",
        "SalesAgent",
        (Secret("two"),),
        ("AC1",),
    )


def test_what_is_skipped_by_default_depends_on_the_kind(place: Place) -> None:
    """And of SMS on whether somebody wants the receipts."""
    channels = place.load().settings.channels
    assert {name: {*channel.skipped_marks} for name, channel in channels.items()} == {
        "sms": {"receipt"},
        "email": {"auto_reply"},
        "whatsapp": {"empty", "broadcast"},
    }
    place.toml('channels.sms.receipt_agent = "ReceiptAgent"')
    twilio = place.load().settings.channels[ChannelName("sms")]
    assert twilio.skipped_marks == frozenset()
    assert twilio.agents == {"ResponseListenerAgent", "ReceiptAgent"}
    place.toml('channels.sms.receipt_agent = "ReceiptAgent"\nchannels.sms.skip = ["receipt"]')
    assert place.load().settings.channels[ChannelName("sms")].skipped_marks == {"receipt"}


def test_words_of_opt_outs_are_given_by_their_meaning(place: Place) -> None:
    place.toml('channels.email.opt_out_words = { stop = ["+", "BASTA"], help = [] }')
    words = place.load().settings.channels[ChannelName("email")].opt_out_words
    assert words == {"STOP": ("+", "BASTA"), "HELP": ()}


class TestSources:
    def test_a_variable_has_low_lines(self, place: Place) -> None:
        """A hyphen cannot stand in one."""
        place.toml(TABLE)
        place.environ[VARIABLE] = "one,two"
        origin = place.origin("channels.second-number.tokens")
        assert (origin.value, origin.where) == ((Secret("one"), Secret("two")), VARIABLE)

    def test_a_credential_has_its_key(self, place: Place) -> None:
        place.toml(TABLE)
        place.credential("channels.second-number.tokens", "one")
        assert place.origin("channels.second-number.tokens").value == (Secret("one"),)

    def test_a_variable_alone_makes_no_channel(self, place: Place) -> None:
        place.environ[VARIABLE] = "one"
        assert place.problem().subject == VARIABLE

    def test_the_older_names_belong_to_the_built_in_channels(self, place: Place) -> None:
        """A second number would else take the first one's token for its own."""
        place.toml(TABLE)
        place.environ["TWILIO_TOKEN"] = "one"
        settings = place.load().settings
        second = settings.channels[SECOND]
        assert isinstance(second, TwilioSettings)
        assert (sms(settings).tokens, second.tokens) == ((Secret("one"),), ())


DECLARED = """
[channels.gateway]
kind = "declared"
path = "/webhook/gateway"
agent = "A"
verify = "token"
token = "header:X-Token"
secrets = ["s"]
reconcile_secret = "k"
event = [{ id = ["id"], text = "text", sender = "from", recipient = "to" }]
reconcile = { url = "https://api.example.com/m?{since}", items = "m", time = "at", auth = "basic" }
"""


class TestRefused:
    @pytest.mark.parametrize(
        ("right", "typo", "key"),
        [("items =", "itemz =", "reconcile"), ('"token"', '"tokem"', "verify")],
    )
    def test_once_where_a_declaration_has_a_typo(
        self, place: Place, right: str, typo: str, key: str
    ) -> None:
        """Not again for what merely follows from it."""
        place.toml(DECLARED.replace(right, typo))
        problem = place.problem()
        assert problem.subject == f"channels.gateway.{key}"
        assert "is not valid" in problem.what

    def test_without_a_kind(self, place: Place) -> None:
        """The nearest channel is named, and the kinds there are."""
        place.toml('[channels.smss]\ntokens = ["x"]')
        problem = place.problem()
        assert problem.subject == "channels.smss"
        assert "did you mean channels.sms?" in problem.fix[0]
        assert 'kind = "mailgun"' in problem.fix[0]

    def test_of_an_unknown_kind(self, place: Place) -> None:
        place.toml('[channels.fax]\nkind = "fax"\nagent = "FaxAgent"')
        problem = place.problem()
        assert problem.subject == "channels.fax.kind"
        assert 'kind = "twilio"' in problem.fix[0]

    @pytest.mark.parametrize("name", ["Sales", "2nd", "a_b", "a" * 33, '"a.b"', "agents", "logs"])
    def test_by_a_name_that_is_none(self, place: Place, name: str) -> None:
        place.toml(f'[channels.{name}]\nkind = "twilio"\nagent = "SalesAgent"')
        problem = place.problem()
        assert problem.subject == "channels." + name.strip('"')
        assert problem.what == "is not a name for a channel"

    def test_without_an_agent(self, place: Place) -> None:
        """Nobody would get what it receives."""
        place.toml('[channels.second-number]\nkind = "twilio"')
        assert place.problem().subject == "channels.second-number.agent"
        assert "who gets what arrives" in place.problem().fix[0]

    def test_without_an_agent_and_whatever_else_it_lacks(self, place: Place) -> None:
        """All at once."""
        place.toml(
            '[channels.sales]\npreset = "telnyx"\n'
            '[channels.stock]\npreset = "telnyx"\nsecrets = ["MTIz"]'
        )
        found = examine(kinds=KINDS, environ=place.environ, working_folder=place.folder)
        lacking = {one.subject: one.what for one in (*found.problems, *found.warnings)}
        assert lacking["channels.sales.agent"] == "is not set"
        assert lacking["channels.sales.secrets"] == "not set, so an SMS is answered 503"
        assert lacking["channels.stock.agent"] == "is not set"
        assert "3 bytes" in lacking["channels.stock.secrets"]
        assert not {"sales", "stock"} & found.settings.channels.keys()

    def test_a_built_in_channel_of_another_kind(self, place: Place) -> None:
        place.toml('channels.sms.kind = "mailgun"')
        problem = place.problem()
        assert (problem.subject, problem.fix) == ("channels.sms.kind", ("give one of twilio",))

    def test_a_key_of_another_kind(self, place: Place) -> None:
        """The nearest one of its own kind is named."""
        place.toml(f'{TABLE}token = ["x"]')
        problem = place.problem()
        assert problem.subject == "channels.second-number.token"
        assert problem.fix == ("did you mean channels.second-number.tokens?",)

    def test_the_path_of_another_channel(self, place: Place) -> None:
        place.toml(f'{TABLE}path = "/webhook/whatsapp"')
        problem = place.problem()
        assert problem.subject == "channels.second-number.path"
        assert "channels.whatsapp.path" in problem.what


@dataclass(frozen=True, slots=True)
class CarrierSettings(ChannelSettings):
    """A kind with a key that another channel's name can look like."""

    two__path: str = setting(text, "/", "a path")


class CarrierKind:
    settings = CarrierSettings
    preset = None

    def warnings(
        self, channel: ChannelSettings, settings: Settings, came_from: Mapping[str, str]
    ) -> Iterator[Finding]:
        return iter(())


def test_two_settings_of_one_variable(place: Place) -> None:
    """Nobody could tell which of them it sets."""
    place.kinds = {**KINDS, "carrier": CarrierKind()}
    place.toml(
        """
        [channels.one]
        kind = "carrier"
        agent = "SalesAgent"
        [channels.one--two]
        kind = "carrier"
        agent = "SalesAgent"
        """
    )
    problem = place.problem()
    assert problem.subject == "channels.one--two.path"
    assert "channels.one.two__path" in problem.what
    assert "BERINIA_WEBHOOKD_CHANNELS__ONE__TWO__PATH" in problem.what


def test_a_channel_that_comes_with_a_reload(place: Place) -> None:
    """Named once, and it is there; and once more when it goes."""
    old = place.load()
    place.toml(TABLE)
    new = place.load()
    changed = changes(old.settings, old, new)
    assert (changed.come, changed.gone, changed.applied) == ((SECOND,), (), ())
    back = changes(new.settings, new, old)
    assert (back.come, back.gone, back.applied) == ((), (SECOND,), ())
    assert changed.needs_restart == ()
    assert changed.effective.channels[SECOND].path == "/webhook/second-number"


def test_a_file_names_a_further_channel_for_commands_too(place: Place, tmp_path: Path) -> None:
    """Warnings say its own key."""
    place.toml(TABLE)
    subjects = {one.subject: one for one in place.load().warnings}
    assert "channels.second-number.tokens" in subjects
    assert "TWILIO_TOKEN" not in subjects["channels.second-number.tokens"].fix[0]
