"""Secrets are shown to nobody: not by `repr`, not by `str`, not by errors."""

from __future__ import annotations

import dataclasses
import traceback

import pytest

from berinia_webhookd.config.secret import Secret
from berinia_webhookd.errors import ConfigurationError

from .place import KEYS, Place, sms

WORD = "hunter2"

HOLDING_SECRETS = f"""
[server]
public_url = "https://app.example.com"
[journal]
url = "postgresql://berinia:{WORD}@localhost/berinia"
[consents]
key = "{WORD * 5}"
[logs]
password = "{WORD}"
[channels.sms]
tokens = ["{WORD}", "{WORD}2"]
[reconcile.mailgun]
api_key = "{WORD}"
[channels.email]
signing_keys = ["{WORD}"]
[channels.whatsapp]
secret = "{WORD}"
[agents.MetaAgent]
target = "https://agents.example.com/meta"
signing_secret = "{WORD}"
"""


def test_a_secret_shows_itself_to_nobody() -> None:
    """However it is printed or formatted."""
    secret = Secret(WORD)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", repr((secret,))]
    assert not [text for text in shown if WORD in text]
    assert secret.reveal() == WORD


def test_settings_show_no_secret(place: Place) -> None:
    """Neither as a whole nor part by part."""
    place.toml(HOLDING_SECRETS)
    loaded = place.load()
    assert WORD not in repr(loaded)
    assert WORD not in str(loaded.settings)
    assert WORD not in str(dataclasses.asdict(loaded.settings))
    assert sms(loaded.settings).tokens[0].reveal() == WORD


def test_every_secret_key_was_looked_at(place: Place) -> None:
    """So that a new one joins the test above; these are URLs, hidden by `check-config`."""
    place.toml(HOLDING_SECRETS)
    origins = place.load().origins
    urls = {"alerts.url", "tracing.url", "channels.whatsapp.late_reply_url"}
    names = {key for key, setting in KEYS.items() if setting.secret} - urls
    names = {name.replace("agents.defaults", "agents.MetaAgent") for name in names}
    assert not [name for name in names if origins[name].source != "file"]


WRONG = {
    "journal.url": f'"mysql://berinia:{WORD}@localhost/berinia"',
    "logs.password": f'["{WORD}"]',
    "alerts.url": f'"//{WORD}@example.com"',
    "tracing.url": f'"//{WORD}@example.com"',
    "channels.sms.tokens": f'{{ one = "{WORD}" }}',
    "reconcile.mailgun.api_key": f'["{WORD}"]',
    "channels.email.signing_keys": f'[["{WORD}"]]',
    "channels.whatsapp.secret": f'["{WORD}"]',
    "channels.whatsapp.late_reply_url": f'"file://{WORD}"',
    "agents.MetaAgent.signing_secret": f'["{WORD}"]',
    "agents.MetaAgent.target": f'"http://user:{WORD}@agents.example.com"',
    "server.public_url": f'"https://user:{WORD}@app.example.com"',
}


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_secret_is_not_quoted(place: Place, key: str) -> None:
    """The problem says where it stands instead."""
    place.toml(f"{key} = {WRONG[key]}")
    with pytest.raises(ConfigurationError) as caught:
        place.load()
    said = [str(caught.value), repr(caught.value), str(caught.value.hint)]
    said += [str(problem) for problem in caught.value.findings]
    said += traceback.format_exception(caught.value)
    assert not [text for text in said if WORD in text]


def test_broken_toml_is_not_quoted(place: Place) -> None:
    """The line is named, its text is not."""
    place.toml(f'logs.password = "{WORD}\n')
    assert WORD not in str(place.problem())


def test_an_unknown_variable_is_named_without_its_value(place: Place) -> None:
    place.environ["BERINIA_WEBHOOKD_CHANNELS__SMS__TOKEN"] = WORD
    problem = place.problem()
    assert WORD not in str(problem)
    assert "CHANNELS__SMS__TOKENS" in problem.fix[0]
