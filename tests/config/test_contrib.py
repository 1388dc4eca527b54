"""The commented file and the example of `.env` in contrib say what is true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from . import reference
from .place import KEYS, Place

CONTRIB = Path(__file__).parents[2] / "contrib" / "config"
GROUPS = "channels.whatsapp.groups"


def test_the_file_says_what_the_settings_are() -> None:
    """Each key once in its table, commented out at its default."""
    assert reference.FILE.read_text() == reference.file(), "python -m tests.config.reference"


def test_the_table_of_the_readme_says_what_the_settings_are() -> None:
    assert reference.PAGE.read_text() == reference.page(), "python -m tests.config.reference"


@pytest.mark.parametrize("key", [key for key, one in KEYS.items() if not one.flag_only])
def test_every_setting_has_something_to_write_down(key: str) -> None:
    """Its default, or an example that is read as a value."""
    setting = KEYS[key]
    assert setting.meaning
    if not reference.has_value(setting):
        setting.read(setting.example)


def test_it_is_a_valid_configuration_without_a_warning_about_limits(place: Place) -> None:
    """As it stands."""
    place.config_file = reference.FILE
    loaded = place.load()
    assert loaded.settings.rate_limit.verified_requests == 6000
    assert "rate_limit.verified_requests" not in {one.subject for one in loaded.warnings}


def test_only_the_limit_differs_from_the_defaults(place: Place) -> None:
    """Whoever copies the file gets what is documented."""
    place.config_file = reference.FILE
    set_there = [name for name, origin in place.load().origins.items() if origin.source == "file"]
    assert set_there == ["rate_limit.verified_requests"]


def test_with_every_line_in_use_only_further_channels_and_agents_come_to_it(place: Place) -> None:
    """Each commented line is a setting."""
    text = re.sub(r"(?m)^#(?! |$)", "", reference.FILE.read_text())
    first, _, rest = text.partition("# The table above")
    place.toml(first + rest[rest.index("# Any other name") :])
    set_there = {key for key, origin in place.load().origins.items() if origin.source == "file"}
    assert {key for key, one in KEYS.items() if not one.flag_only} - set_there == {
        f"channels.{name}.kind" for name in ("sms", "email", "whatsapp")
    }


def test_the_table_of_groups_is_the_default_and_the_other_map_stands_below() -> None:
    """Which is BerinIA's guide, and which is what its old server did."""
    above, _, below = reference.FILE.read_text().partition("# The table above")
    table = above.split(f"#[{GROUPS}]\n")[1].split("\n\n")[0]
    assert tomllib.loads(re.sub(r"(?m)^#", "", table)) == KEYS[GROUPS].default
    assert "#groups = {}\n" in below


def test_the_example_of_dotenv_sets_nothing_and_names_only_what_exists(place: Place) -> None:
    """Copied as it is it changes nothing; with every line in use it is still valid."""
    example = (CONTRIB / "env.example").read_text()
    place.dotenv(example)
    assert {origin.source for origin in place.load().origins.values()} == {"default"}
    used = re.sub(r"(?m)^#([A-Z_]+=)", r"\1", example)
    place.dotenv(re.sub(r"(?m)^([A-Z_]+=)$", r"\g<1>x", used))
    origins = place.load().origins
    assert {name for name, origin in origins.items() if origin.source == ".env"} == {
        "channels.sms.tokens",
        "channels.email.signing_keys",
        "logs.password",
        "server.public_url",
        "channels.whatsapp.secret",
        "debug",
    }
