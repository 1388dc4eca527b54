"""`logs -f`: following a log over its rotation, and `--since`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berinia_webhookd.logs import reading
from berinia_webhookd.logs.reading import MAX_LINE_BYTES, Follower
from berinia_webhookd.tools.since import Duration, Since, instant_of

PATIENCE_SECONDS = 180
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class EnoughError(Exception):
    """The test has seen what it wanted to see."""


def follow(log: Path, *steps: Callable[[], object]) -> list[list[str]]:
    """What a follower shows: first of what was there, then after each of these steps."""
    left = iter(steps)
    with Follower(log) as follower:
        shown = [follower.last(100)]

        def pause() -> None:
            step = next(left, None)
            if step is None:
                raise EnoughError
            shown.append([])
            step()

        try:
            for line in follower.follow(pause):
                # Before the first step there is nothing new to show.
                shown[-1].append(line) if len(shown) > 1 else shown.append([line])
        except EnoughError:
            return shown
    raise AssertionError("following does not end by itself")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with two lines."""
    path = tmp_path / "webhook.log"
    path.write_text("one\ntwo\n")
    return path


def add(log: Path, text: str) -> Callable[[], object]:
    def append() -> None:
        with log.open("a") as stream:
            stream.write(text)

    return append


def test_first_the_last_lines_then_the_new_ones(log: Path) -> None:
    """Each once."""
    assert follow(log, add(log, "three\n"), add(log, "four\nfive\n")) == [
        ["one", "two"],
        ["three"],
        ["four", "five"],
    ]


def test_a_renamed_log_is_followed_into_the_new_one(log: Path) -> None:
    """Including what its writer still put into the old one."""

    def rotate() -> None:
        add(log, "three\n")()
        log.rename(log.with_suffix(".1"))
        log.write_text("four\n")

    assert follow(log, rotate, add(log, "five\n")) == [["one", "two"], ["three", "four"], ["five"]]


def test_until_there_is_a_new_log_the_old_one_counts(log: Path) -> None:
    """The daemon makes the new one with its next line, and may still be writing the last."""
    old = log.with_suffix(".1")
    steps = (
        lambda: log.rename(old),
        add(old, "three\n"),
        lambda: log.write_text("four\n"),
        add(log, "five\n"),
    )
    assert follow(log, *steps) == [["one", "two"], [], ["three"], ["four"], ["five"]]


def test_a_truncated_log_is_read_from_its_beginning(log: Path) -> None:
    """As `copytruncate` does it, half a line forgotten."""
    steps = (add(log, "half"), lambda: os.truncate(log, 0), add(log, "four\n"))
    assert follow(log, *steps) == [["one", "two"], [], [], ["four"]]


def test_a_log_that_does_not_exist_yet_is_waited_for(tmp_path: Path) -> None:
    """And shown from its first line."""
    log = tmp_path / "later" / "sms.log"
    steps = (log.parent.mkdir, lambda: log.write_text("one\n"), add(log, "two\n"))
    assert follow(log, *steps) == [[], [], ["one"], ["two"]]


def test_half_a_line_is_shown_when_it_is_whole(log: Path) -> None:
    """Or when nothing can follow it any more."""

    def replace() -> None:
        log.rename(log.with_suffix(".1"))
        log.write_text("four\n")

    assert follow(log, add(log, "th"), add(log, "ree\nha"), replace) == [
        ["one", "two"],
        [],
        ["three"],
        ["ha", "four"],
    ]


def test_a_link_is_not_followed(log: Path, tmp_path: Path) -> None:
    """Nor a pipe; a log that takes their place is."""
    secret = tmp_path / "secret"
    secret.write_text("secret\n")

    def link() -> None:
        log.unlink()
        log.symlink_to(secret)

    def pipe() -> None:
        log.unlink()
        os.mkfifo(log)

    def back() -> None:
        log.unlink()
        log.write_text("back\n")

    assert follow(log, link, pipe, back) == [["one", "two"], [], [], ["back"]]


def test_bytes_that_are_no_text_are_shown_all_the_same(log: Path) -> None:
    """As replacement characters; other writers may use the folder."""
    assert follow(log, lambda: log.write_bytes(log.read_bytes() + b"\xff\xfe!\n"))[1] == ["��!"]


def test_an_endless_line_is_cut(log: Path) -> None:
    """It costs no more memory than is shown of it."""

    def endless() -> None:
        with log.open("ab") as stream:
            for _ in range(64):
                stream.write(b"x" * 1024 * 1024)
            stream.write(b"\nnext\n")

    tracemalloc.start()
    try:
        _, (line, after) = follow(log, endless)
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert (line, after) == ("x" * MAX_LINE_BYTES + "...", "next")


@given(
    text=st.text(st.sampled_from("ab\n é🙂"), max_size=60),
    cuts=st.lists(st.integers(0, 90), max_size=6),
    block=st.integers(1, 20),
)
def test_it_does_not_matter_in_which_pieces_lines_come(
    tmp_path_factory: pytest.TempPathFactory, text: str, cuts: list[int], block: int
) -> None:
    """Nor in which blocks they are read: the lines are those of the whole."""
    log = tmp_path_factory.mktemp("following") / "x.log"
    log.touch()
    whole = f"{text}\n".encode()
    borders = [0, *sorted(cuts), len(whole)]

    def piece(start: int, end: int) -> Callable[[], object]:
        def append() -> None:
            with log.open("ab") as stream:
                stream.write(whole[start:end])

        return append

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK_BYTES", block)
        shown = follow(log, *map(piece, borders[:-1], borders[1:]))
    assert [line for lines in shown for line in lines] == text.split("\n")


class Command:
    """`logs` as a user runs it, into a pipe."""

    def __init__(self, folder: Path, *words: str) -> None:
        config = folder / "berinia.toml"
        config.write_text(f'logs.dir = "{folder}"\n')
        config.chmod(0o600)
        environ = {"PATH": os.environ["PATH"], "STATE_DIRECTORY": str(folder / "state")}
        program = [sys.executable, "-m", "berinia_webhookd", "--config", str(config), "logs"]
        self.process = subprocess.Popen(
            [*program, *words],
            env=environ,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._overdue = threading.Timer(PATIENCE_SECONDS, self.process.kill)
        self._overdue.start()

    def line(self) -> str:
        """The next line; the process ends if there is none in time."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def close(self) -> None:
        self._overdue.cancel()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts `logs` over a folder of the test's own."""
    commands: list[Command] = []

    def start(*words: str) -> Command:
        commands.append(Command(tmp_path, *words))
        return commands[-1]

    yield start
    for command in commands:
        command.close()


def test_the_command_follows_over_rotation(run: Callable[..., Command], log: Path) -> None:
    """By rename and by truncation, until it is interrupted; then without a traceback."""
    command = run("-f", "-n", "1")
    assert command.line() == "two\n"
    log.rename(log.with_suffix(".1"))
    log.write_text("three, and more of it\n")
    assert command.line() == "three, and more of it\n"
    os.truncate(log, 0)
    add(log, "four\n")()
    assert command.line() == "four\n"
    command.process.send_signal(signal.SIGINT)
    _, problems = command.process.communicate(timeout=PATIENCE_SECONDS)
    assert "Traceback" not in problems


def test_the_command_follows_a_log_that_is_not_there_yet(
    run: Callable[..., Command], tmp_path: Path
) -> None:
    """A channel that got nothing so far."""
    command = run("-f", "--type", "sms")
    (tmp_path / "sms.log").write_text("one\n")
    assert command.line() == "one\n"


def test_the_command_without_a_log_says_so(run: Callable[..., Command], tmp_path: Path) -> None:
    """Exit 1 and one line, with the file it looked for."""
    out, problems = run("--type", "email").process.communicate(timeout=PATIENCE_SECONDS)
    assert (out, problems.count("\n")) == ("", 1)
    assert str(tmp_path / "email.log") in problems


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("30m", NOW - timedelta(minutes=30)),
        ("2h", NOW - timedelta(hours=2)),
        ("3d", NOW - timedelta(days=3)),
        ("1w", NOW - timedelta(weeks=1)),
        (" 2 h ", NOW - timedelta(hours=2)),
        ("0s", NOW),
        ("2026-02-28", datetime(2026, 2, 28, tzinfo=UTC)),
        ("2026-02-28T10:30", datetime(2026, 2, 28, 10, 30, tzinfo=UTC)),
        ("2026-02-28 10:30:05.5", datetime(2026, 2, 28, 10, 30, 5, 500_000, UTC)),
        ("2026-02-28T10:30:00Z", datetime(2026, 2, 28, 10, 30, tzinfo=UTC)),
        ("2026-02-28T10:30:00+02:00", datetime(2026, 2, 28, 8, 30, tzinfo=UTC)),
    ],
)
def test_since_an_instant_or_how_long_ago(text: str, instant: datetime) -> None:
    """What has no offset is UTC, as everything that is shown."""
    found = instant_of(text, NOW)
    assert (found, found.utcoffset()) == (instant, timedelta(0))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2 hours",
        "h",
        "-2h",
        "1.5h",
        "٣h",
        "999999w",
        "9999999999d",
        "2026-02-30",
        "0001-01-01T00:00+14:00",
        "1e3s",
    ],
)
def test_since_nothing_that_can_be_understood(text: str) -> None:
    """Exit 2, with the forms that can."""
    with pytest.raises(click.BadParameter, match="2026-03-01T12:00") as refusal:
        Since().convert(text, None, None)
    assert refusal.value.exit_code == 2
    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize("text", ["11575d", "99999999d", "9" * 99 + "w"])
def test_how_long_at_the_most(text: str) -> None:
    """What is too long is said to be, with what is not."""
    with pytest.raises(click.BadParameter, match="is too long: 11574d is the longest"):
        Duration().convert(text, None, None)
    assert Duration().convert("11574d", None, None) == 11574 * 86400.0


@given(
    st.datetimes(
        datetime(1, 1, 2),  # noqa: DTZ001 - hypothesis takes limits without a zone
        datetime(9999, 12, 30),  # noqa: DTZ001
        timezones=st.integers(-840, 840).map(lambda n: timezone(timedelta(minutes=n))),
    )
)
def test_any_instant_is_read_as_it_is_written(instant: datetime) -> None:
    """In any zone, to the microsecond."""
    assert instant_of(instant.isoformat(), NOW) == instant


@given(st.text(max_size=20))
def test_no_text_fails_otherwise(text: str) -> None:
    """An instant with its zone, or a usage error."""
    try:
        found = Since().convert(text, None, None)
    except click.BadParameter:
        return
    assert found.utcoffset() == timedelta(0)
