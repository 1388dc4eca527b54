"""From a call of a logger to lines in files and on stderr."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import subprocess
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from berinia_webhookd.logs.control_characters import escape_controls
from berinia_webhookd.logs.files import Line
from berinia_webhookd.logs.personal_data import HIDDEN
from berinia_webhookd.logs.pipeline import LONGEST_LINE_BYTES, PATIENT_CHARACTERS, LogOptions

from .conftest import Logs

logger = structlog.get_logger()
# C0, DEL and C1; what separates lines; what turns the direction of writing; half characters.
OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CONTROLS = "\x00\x07\x08\t\n\r\x1b[31m\x7f\x85\x9b31m\u061c\u2028\u2029\u200e\u202e\u2066\ud800"
ANY_TEXT = st.text(st.characters(exclude_categories=[]) | st.sampled_from(CONTROLS), max_size=12)


def files_of(logs: Logs) -> set[str]:
    logs.raw()
    return {path.stem for path in logs.folder.iterdir()}


@pytest.mark.parametrize(
    ("event", "fields", "files"),
    [
        ("server.started", {}, set()),
        ("request.finished", {"channel": "sms"}, {"sms"}),
        ("event.accepted", {"channel": "email"}, {"email"}),
        ("signature.invalid", {"channel": "whatsapp"}, {"whatsapp"}),
        ("request.finished", {"channel": "logs"}, set()),
        ("request.finished", {"channel": "../../etc/passwd"}, set()),
        ("attempt.started", {"channel": "sms"}, {"sms", "agents"}),
        ("attempt.succeeded", {}, {"agents"}),
        ("agent.output", {}, {"agents"}),
        ("agent.unavailable", {}, {"agents"}),
        ("agent_host.started", {}, {"agents"}),
        ("entry.dead", {"channel": "email"}, {"email", "agents"}),
        ("reply.undeliverable", {"channel": "whatsapp"}, {"whatsapp", "agents"}),
        ("journal.recovered", {}, set()),
    ],
)
def test_a_line_goes_where_it_is_looked_for(
    logs: Logs, event: str, fields: dict[str, str], files: set[str]
) -> None:
    """Everything to webhook.log; its channel's and the agents' to theirs as well."""
    logs.start()
    logger.info(event, **fields)
    assert files_of(logs) == files | {"webhook"}
    assert {logs.raw(name) for name in files} <= {logs.raw()}


def test_a_channel_that_a_reload_adds_has_a_file(logs: Logs) -> None:
    """Whatever its name is; before that its lines are in webhook.log alone."""
    files = logs.start()
    logger.info("event.accepted", channel="orders", number=1)
    assert files_of(logs) == {"webhook"}
    files.reconfigure(LogOptions(channels=frozenset({"sms", "orders"})))
    logger.info("event.accepted", channel="orders", number=2)
    assert [line["number"] for line in logs.lines("orders")] == [2]


@pytest.mark.parametrize(
    ("level", "files"),
    [
        ("info", {"webhook", "sms"}),
        ("warning", {"webhook", "sms"}),
        ("error", {"webhook", "sms", "error"}),
        ("critical", {"webhook", "sms", "error"}),
    ],
)
def test_errors_have_a_file_of_their_own(logs: Logs, level: str, files: set[str]) -> None:
    """Besides those where they would be looked for."""
    logs.start()
    getattr(logger, level)("something", channel="sms")
    assert files_of(logs) == files


def test_a_line_is_one_json_object_with_the_known_names(logs: Logs) -> None:
    """Time in UTC, level and event first, then what was given, with its type."""
    logs.start()
    before = datetime.now(UTC)
    logger.warning("request.finished", status=200, duration_ms=1.5, client="203.0.113.9", ok=True)
    (line,) = logs.lines()
    assert list(line)[:3] == ["timestamp", "level", "event"]
    stamp = line.pop("timestamp")
    assert stamp.endswith("Z")
    assert before <= datetime.fromisoformat(stamp) <= datetime.now(UTC)
    assert line == {
        "level": "warning",
        "event": "request.finished",
        "status": 200,
        "duration_ms": 1.5,
        "client": "203.0.113.9",
        "ok": True,
    }


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_less_than_the_level_is_not_said(logs: Logs, level: str) -> None:
    """Of the four levels those from the configured one on."""
    levels = ["debug", "info", "warning", "error"]
    logs.start(level=level)
    for each in levels:
        getattr(logger, each)("something")
    assert [line["level"] for line in logs.lines()] == levels[levels.index(level) :]


def test_a_reload_changes_level_and_masking_at_once(logs: Logs) -> None:
    """Also for a logger that has spoken before."""
    files = logs.start()
    logger.debug("not said")
    logger.info("said", sender="+33639980001")
    files.reconfigure(LogOptions("debug", "full"))
    logger.debug("said now", sender="+33639980001")
    files.reconfigure(LogOptions("warning", "mask"))
    logger.info("not said again")
    logger.warning("said last", sender="+33639980001")
    assert [(line["event"], line["sender"]) for line in logs.lines()] == [
        ("said", HIDDEN),
        ("said now", "+33639980001"),
        ("said last", HIDDEN),
    ]


def test_a_line_says_what_was_so_when_it_was_said(logs: Logs) -> None:
    """However long it takes until it is written, and whatever becomes of a value until then."""
    logs.start()
    values, text = ["one"], "x" * PATIENT_CHARACTERS
    before = datetime.now(UTC)
    logger.info("plain", said=text)
    logger.info("changes", said=values)
    logger.info("long", said=text + "x")
    after = datetime.now(UTC)
    values.append("two")
    plain, changes, long = logs.lines()
    assert [line["said"] for line in (plain, changes, long)] == [text, ["one"], text + "x"]
    stamps = [datetime.fromisoformat(line["timestamp"]) for line in (plain, changes, long)]
    assert before <= stamps[0] <= stamps[1] <= stamps[2] <= after


def test_what_waits_for_the_writer_is_bounded(logs: Logs) -> None:
    """Long values are cut and rendered before they wait: a queue of them would fill the memory."""
    logs.start()
    (say,) = structlog.get_config()["processors"]
    for text, made in (("x" * PATIENT_CHARACTERS, False), ("x" * (PATIENT_CHARACTERS + 1), True)):
        ((put,), _) = say(None, "info", {"event": "said", "text": text})
        assert isinstance(put, Line) is made


def test_people_are_hidden_unless_chosen_otherwise(
    logs: Logs, capfd: pytest.CaptureFixture[str]
) -> None:
    """In files and on stderr alike; `debug` does not unmask."""
    logs.start(level="debug")
    say_something_about_people()
    hidden = logs.raw().decode() + capfd.readouterr().err
    assert [word for word in PEOPLE if word in hidden] == []
    logs.stop()
    logs.start(personal_data="full")
    say_something_about_people()
    for shown in (logs.raw().decode(), capfd.readouterr().err):
        assert [word for word in PEOPLE if word not in shown] == []


PEOPLE = ("33639980001", "alice", "Bonjour", "Jeanne")


def say_something_about_people() -> None:
    logger.info("event.accepted", sender="+33639980001", body="Bonjour")
    logger.info("library", detail="no route for alice@example.com")
    try:
        raise LookupError("nobody called Jeanne at +33639980001")  # noqa: TRY301 - to be logged
    except LookupError:
        logger.exception("request.failed", detail={"rcpt": ["alice@example.com"]})


def test_an_exception_is_told_with_its_place(logs: Logs) -> None:
    """Where it is the one at hand, given as it is, or as `sys.exc_info` gives it."""
    logs.start()
    try:
        raise LookupError  # noqa: TRY301 - to be logged
    except LookupError as error:
        logger.exception("one")
        logger.warning("two", exc_info=error)
        logger.warning("three", exc_info=(type(error), error, error.__traceback__))
    logger.error("none", exc_info=None)
    *three, none = logs.lines()
    for line in three:
        assert f"{__file__}:" in line["exception"]
        assert line["exception"].endswith("LookupError")
    assert "exception" not in none


def test_a_long_traceback_keeps_its_end(logs: Logs) -> None:
    """Which says what was raised."""
    logs.start(personal_data="full")

    try:
        raise LookupError("a" * 50_000 + " at last")  # noqa: TRY301 - to be logged
    except LookupError:
        logger.exception("request.failed")
    (line,) = logs.lines()
    assert line["exception"].endswith(" at last")
    assert len(line["exception"]) < 20_000


def values() -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.binary()
    return st.recursive(
        leaves | st.dates() | st.sets(st.integers(), max_size=3),
        lambda inside: (
            st.lists(inside, max_size=3)
            | st.dictionaries(ANY_TEXT | st.integers(), inside, max_size=3)
        ),
        max_leaves=4,
    )


RESERVED = {"event", "level", "timestamp", "exc_info", "self"}
OURS = ["exception", "channel", "client", "body"]
NAMES = ANY_TEXT.filter(lambda name: name not in RESERVED) | st.sampled_from(OURS)


@pytest.mark.parametrize("stderr_json", [True, False])
@pytest.mark.parametrize("personal_data", ["mask", "full"])
def test_no_value_breaks_a_line_or_reaches_a_reader_raw(
    logs: Logs, capfd: pytest.CaptureFixture[str], personal_data: Any, stderr_json: bool
) -> None:
    """Whatever is said: one line of JSON in the file, and nothing that a terminal would obey."""
    logs.start(personal_data=personal_data, stderr_json=stderr_json)

    @given(st.lists(st.dictionaries(NAMES, values(), max_size=3), min_size=1, max_size=4))
    @settings(max_examples=20)
    def check(said: list[dict[str, Any]]) -> None:
        before = len(logs.raw())
        for fields in said:
            logger.info("something", **fields)
        written = logs.raw()[before:].decode().removesuffix("\n").split("\n")
        shown = capfd.readouterr().err.removesuffix("\n").split("\n")
        assert [json.loads(line)["event"] for line in written] == ["something"] * len(said)
        assert len(shown) >= len(said)  # a traceback has lines of its own
        for line in written + [COLOUR.sub("", line) for line in shown]:
            assert OBEYED.search(line) is None

    check()


@pytest.mark.parametrize("control", ["\x7f", "\x85", "\u2028", "\u202e"])
def test_what_stands_beside_what_is_hidden_is_escaped_too(logs: Logs, control: str) -> None:
    """A line is no cleaner for the marks in it, which are ours."""
    logs.start()
    logger.info("something", sender="+33639980001", detail=f"a{control}b")
    assert OBEYED.search(logs.raw().decode().removesuffix("\n")) is None
    (line,) = logs.lines()
    assert (line["sender"], line["detail"]) == (HIDDEN, f"a{control}b")


@given(ANY_TEXT)
def test_no_control_character_survives(text: str) -> None:
    """Each becomes an escape; all else stays as it is."""
    harmless = escape_controls(text)
    assert OBEYED.search(harmless) is None
    assert [c for c in OBEYED.sub("", text) if c not in harmless] == []
    if OBEYED.search(text) is None:
        assert harmless == text


def test_a_control_character_is_still_seen() -> None:
    """As the escape that programmers know."""
    assert escape_controls("a\x1b[2Jb\r\nc\u202ed") == r"a\x1b[2Jb\r\nc\u202ed"


@pytest.mark.parametrize(
    "fields",
    [
        {"detail": "é" * 10**6},
        {"detail": ["x" * 10**5] * 100},
        {"detail": {"x" * 10**5 + str(n): "\x00" * 10**4 for n in range(100)}},
        {"detail": "[" * 10**6},
        {f"field_{n}": "\x01" * 10**4 for n in range(200)},
        {"detail": ValueError("x" * 10**6)},
        {"detail": 10**4000},
    ],
)
@pytest.mark.parametrize("personal_data", ["mask", "full"])
def test_a_line_is_bounded(logs: Logs, fields: dict[str, Any], personal_data: Any) -> None:
    """Readers take lines up to 64 KiB whole."""
    logs.start(personal_data=personal_data)
    logger.info("something", **fields)
    assert len(logs.raw()) <= LONGEST_LINE_BYTES < 65_536
    (line,) = logs.lines()
    assert line["event"] == "something"


def test_what_contains_itself_ends(logs: Logs) -> None:
    """Nesting is cut at some depth."""
    endless: list[object] = []
    endless.append(endless)
    logs.start(personal_data="full")
    logger.info("something", detail=endless)
    assert len(logs.lines()) == 1


def test_libraries_speak_through_the_same_logs(logs: Logs) -> None:
    """Warnings and errors of the standard logging, and Python's own warnings; nothing less."""
    logs.start()
    logging.getLogger("aiohttp.server").info("chatter")
    logging.getLogger("aiohttp.server").warning("bad %s from %s", "line", "+33639980001")
    logging.getLogger("asyncio").error("broken: %d", "no number")
    with warnings.catch_warnings(action="always"):
        warnings.warn("old ways", stacklevel=1)
    *said, warned = [(line["level"], line["logger"], line["detail"]) for line in logs.lines()]
    assert said == [
        ("warning", "aiohttp.server", f"bad line from {HIDDEN}"),
        ("error", "asyncio", "broken: %d"),
    ]
    assert warned[:2] == ("warning", "py.warnings")
    assert "UserWarning: old ways" in warned[2]
    assert [line["logger"] for line in logs.lines("error")] == ["asyncio"]


def test_stderr_gets_json_when_it_is_no_terminal(
    logs: Logs, capfd: pytest.CaptureFixture[str]
) -> None:
    """The very lines of webhook.log, for systemd to collect."""
    logs.start()
    logger.info("server.started", address="127.0.0.1:8001")
    assert logs.raw().decode() == capfd.readouterr().err


def test_the_folder_is_made_when_there_is_something_to_write(logs: Logs) -> None:
    """For its owner only."""
    logs.start()
    assert not logs.folder.exists()
    logger.info("server.started")
    assert logs.lines()
    assert logs.folder.stat().st_mode & 0o777 == 0o700


ON_A_TERMINAL = """
import sys
from pathlib import Path
import structlog
from berinia_webhookd.logs.pipeline import LogOptions, configure

logs = configure(Path(sys.argv[1]), LogOptions())
structlog.get_logger().warning("signature.invalid", client="203.0.113.9", diagnosis="a\\x1b[2Jb")
try:
    int("x")
except ValueError:
    structlog.get_logger().exception("request.failed")
logs.close()
"""


def test_stderr_is_readable_on_a_terminal(tmp_path: Path) -> None:
    """Coloured, one event a line, traceback below; the files have JSON all the same."""
    leader, follower = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-c", ON_A_TERMINAL, str(tmp_path)],
            stderr=follower,
            timeout=60,
            check=True,
        )
        screen = os.read(leader, 65_536).decode()
    finally:
        os.close(leader)
        os.close(follower)
    plain = COLOUR.sub("", screen)
    assert plain != screen
    assert re.search(r"^\d\d:\d\d:\d\d\.\d{3} \[warning +\] signature\.invalid", plain)
    assert r"a\x1b[2Jb" in plain
    assert "\x1b[2J" not in screen
    assert plain.rstrip().endswith("ValueError")
    assert len((tmp_path / "webhook.log").read_text().splitlines()) == 2
