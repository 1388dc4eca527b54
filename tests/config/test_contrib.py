"""The commented file and the example of `.env` in contrib say what is true."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from berinia_webhookd.config.fields import SameAs, Setting
from berinia_webhookd.config.load import known_keys

from .place import Place

CONTRIB = Path(__file__).parents[2] / "contrib" / "config"
FILE = CONTRIB / "berinia-webhookd.toml"
TABLE = re.compile(r"#?\[([A-Za-z_.]+)\]")
SETTING = re.compile(r'(#?)([a-z_]+|"[^"]+") = (.+)')
GROUPS = "channels.whatsapp.groups"


@dataclass(frozen=True)
class Line:
    """One setting as it stands in the file."""

    name: str
    value: Any
    commented: bool
    comment: str  # the text above it


def lines() -> Iterator[Line]:
    """Every setting, commented out or not, but those of the groups' tables."""
    table, comment = "", ""
    for text in FILE.read_text().splitlines():
        if found := TABLE.fullmatch(text):
            table = found[1]
        elif found := SETTING.fullmatch(text):
            value = tomllib.loads(f"value = {found[3]}")["value"]
            if table != GROUPS:
                yield Line(f"{table}.{found[2]}", value, bool(found[1]), comment)
        elif text.startswith("# ") or text == "#":
            comment += text + "\n"
            continue
        elif text:
            raise AssertionError(f"neither table, setting nor comment: {text}")
        if not text:
            comment = ""


def known() -> dict[str, Setting]:
    return {key: setting for key, setting in known_keys().items() if not setting.flag_only}


def test_it_is_a_valid_configuration_without_a_warning_about_limits(place: Place) -> None:
    """As it stands."""
    place.config_file = FILE
    loaded = place.load()
    assert loaded.settings.rate_limit.verified_requests == 6000
    assert "rate_limit.verified_requests" not in {one.subject for one in loaded.warnings}


def test_only_the_limit_differs_from_the_defaults(place: Place) -> None:
    """Whoever copies the file gets what is documented."""
    place.config_file = FILE
    set_there = [name for name, origin in place.load().origins.items() if origin.source == "file"]
    assert set_there == ["rate_limit.verified_requests"]


def test_it_holds_every_key_and_no_other() -> None:
    """Each once, in its table."""
    names = [line.name for line in lines() if "Agent." not in line.name]
    assert sorted(names) == sorted(known().keys() - {GROUPS})
    assert f"[{GROUPS}]" in FILE.read_text()


def test_every_commented_value_is_the_real_default() -> None:
    """Where there is none to write down, the comment says what holds, after `Default:`."""
    keys = known()
    for line in lines():
        key = keys.get(line.name)
        if key is None or not line.commented:
            continue
        default = key.default
        if callable(default) or isinstance(default, SameAs) or default in (None, ()):
            assert "efault:" in line.comment, line.name
        else:
            assert key.read(line.value) == default, line.name


def test_every_example_is_a_valid_value() -> None:
    """Also where it is not the default."""
    for line in lines():
        of_agent = f"agents.defaults.{line.name.rpartition('.')[2]}"
        key = known().get(line.name) or known()[of_agent]
        key.read(line.value)


def test_the_first_table_of_groups_is_the_default_and_the_second_holds_all() -> None:
    """BerinIA's longer map is a comment to take over."""
    default = known()[GROUPS].default
    first, second = (
        tomllib.loads(re.sub(r"(?m)^#", "", part.split("\n\n")[0]))
        for part in FILE.read_text().split(f"#[{GROUPS}]\n")[1:]
    )
    assert first == default
    assert second.items() >= first.items()
    assert len(second) == 6
    assert set(second.values()) == {
        "OverseerAgent",
        "PivotStrategyAgent",
        "LoggerAgent",
        "AdminInterpreterAgent",
    }


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
