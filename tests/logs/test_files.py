"""The log files, whatever becomes of them while they are written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from berinia_webhookd.logs import files as module
from berinia_webhookd.logs.files import QUEUE_LINES, Line, LogWriter

PATIENCE_SECONDS = 180


class Screen:
    """Stands for stderr."""

    def __init__(self) -> None:
        self.text = b""
        self.fails: OSError | None = None

    def __call__(self, text: bytes) -> None:
        if self.fails is not None:
            raise self.fails
        self.text += text


@pytest.fixture
def screen() -> Screen:
    """What was written to stderr."""
    return Screen()


@pytest.fixture
def open_writer(tmp_path: Path, screen: Screen) -> Iterator[Callable[[], LogWriter]]:
    """Opens writers over one folder; they are closed at the end."""
    writers: list[LogWriter] = []

    def open_one(*, stderr_json: bool = False) -> LogWriter:
        writers.append(LogWriter(tmp_path, stderr=screen, stderr_json=stderr_json))
        return writers[-1]

    yield open_one
    for writer in writers:
        writer.close()


@pytest.fixture
def writer(open_writer: Callable[[], LogWriter]) -> LogWriter:
    """One writer."""
    return open_writer()


def say(writer: LogWriter, text: str, *files: str) -> None:
    """Put one line and wait until the writer is through with it."""
    writer.put(Line(files or ("webhook",), f"{text}\n".encode(), f"screen: {text}\n".encode()))
    assert writer.flush(PATIENCE_SECONDS)


def test_a_line_goes_to_each_of_its_files_and_to_stderr(
    writer: LogWriter, tmp_path: Path, screen: Screen
) -> None:
    """Each in its form."""
    say(writer, "one", "webhook", "sms")
    say(writer, "two", "webhook")
    assert (tmp_path / "webhook.log").read_text() == "one\ntwo\n"
    assert (tmp_path / "sms.log").read_text() == "one\n"
    assert screen.text == b"screen: one\nscreen: two\n"


def test_a_line_that_cannot_be_made_is_lost_alone(
    writer: LogWriter, tmp_path: Path, screen: Screen
) -> None:
    """Those of others before and after it are written, and it is said."""

    def fail() -> Line:
        raise MemoryError("with what was to be said")

    writer.put(Line(("webhook",), b"before\n", b""))
    writer.put(fail)
    writer.put(Line(("webhook",), b"after\n", b""))
    assert writer.flush(PATIENCE_SECONDS)
    assert (tmp_path / "webhook.log").read_text() == "before\nafter\n"
    assert screen.text == (
        b"berinia-webhookd: logs: a line could not be made and is lost: MemoryError\n"
    )


def test_closing_waits_for_as_long_as_lines_are_written(
    open_writer: Callable[[], LogWriter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long all of them take together."""
    monkeypatch.setattr(module, "CLOSE_SECONDS", 1.0)
    monkeypatch.setattr(module, "BATCH_LINES", 1)
    never = threading.Event()

    def dear() -> Line:
        never.wait(0.05)  # which makes twice the above of all of them
        return Line(("webhook",), b"dear\n", b"")

    writer = open_writer()
    for _ in range(40):
        writer.put(dear)
    writer.close()
    assert (tmp_path / "webhook.log").read_text() == "dear\n" * 40


def test_the_files_are_for_their_owner_only(writer: LogWriter, tmp_path: Path) -> None:
    """With `personal_data = full` they hold people."""
    say(writer, "one")
    assert (tmp_path / "webhook.log").stat().st_mode & 0o777 == 0o600


def test_what_is_in_a_file_stays(open_writer: Callable[[], LogWriter], tmp_path: Path) -> None:
    """A new start appends."""
    (tmp_path / "webhook.log").write_text("of yesterday\n")
    say(open_writer(), "of today")
    assert (tmp_path / "webhook.log").read_text() == "of yesterday\nof today\n"


def test_a_renamed_file_is_left_for_a_new_one(writer: LogWriter, tmp_path: Path) -> None:
    """As logrotate does, without a signal: no line is lost, none is in both."""
    log = tmp_path / "webhook.log"
    say(writer, "before")
    log.rename(tmp_path / "webhook.log.1")
    say(writer, "after")
    assert (tmp_path / "webhook.log.1").read_text() == "before\n"
    assert log.read_text() == "after\n"


def test_a_file_that_logrotate_made_anew_is_used(writer: LogWriter, tmp_path: Path) -> None:
    """With `create` another file stands there at once."""
    log = tmp_path / "webhook.log"
    say(writer, "before")
    log.rename(tmp_path / "webhook.log.1")
    log.touch(mode=0o640)
    say(writer, "after")
    assert (log.read_text(), log.stat().st_mode & 0o777) == ("after\n", 0o640)


def test_a_truncated_file_begins_at_its_beginning(writer: LogWriter, tmp_path: Path) -> None:
    """With `copytruncate`: no hole of zero bytes before the next line."""
    log = tmp_path / "webhook.log"
    say(writer, "before " * 100)
    os.truncate(log, 0)
    say(writer, "after")
    assert log.read_text() == "after\n"


def test_a_removed_file_comes_back(writer: LogWriter, tmp_path: Path) -> None:
    """Even with its whole folder."""
    say(writer, "before")
    (tmp_path / "webhook.log").unlink()
    tmp_path.rename(tmp_path.with_name("moved away"))
    say(writer, "after")
    assert (tmp_path / "webhook.log").read_text() == "after\n"


def test_other_writers_lines_stay_whole(writer: LogWriter, tmp_path: Path) -> None:
    """Each writer appends, so none overwrites another's lines."""
    with (tmp_path / "webhook.log").open("a", buffering=1) as other:
        for n in range(20):
            say(writer, f"ours {n}")
            other.write(f"theirs {n}\n")
    lines = (tmp_path / "webhook.log").read_text().splitlines()
    assert lines == [f"{who} {n}" for n in range(20) for who in ("ours", "theirs")]


def break_by_directory(log: Path) -> None:
    log.mkdir()


def break_by_link(log: Path) -> None:
    log.symlink_to(log.with_name("elsewhere"))


def break_by_pipe(log: Path) -> None:
    os.mkfifo(log)


@pytest.mark.parametrize("make_unusable", [break_by_directory, break_by_link, break_by_pipe])
def test_one_unusable_file_costs_its_own_lines_only(
    writer: LogWriter, tmp_path: Path, screen: Screen, make_unusable: Callable[[Path], None]
) -> None:
    """The others are written, stderr says which file it is, and it is used again once it can be."""
    log = tmp_path / "webhook.log"
    make_unusable(log)
    say(writer, "lost", "webhook", "sms")
    assert (tmp_path / "sms.log").read_text() == "lost\n"
    assert f"{log}: " in screen.text.decode()
    assert not (tmp_path / "elsewhere").exists()
    log.rmdir() if log.is_dir() else log.unlink()
    say(writer, "found")
    assert log.read_text() == "found\n"


def test_a_folder_that_is_no_folder_stops_nothing(
    writer: LogWriter, tmp_path: Path, screen: Screen
) -> None:
    """What is left of the logs goes on, and says what is wrong."""
    tmp_path.rmdir()
    tmp_path.write_text("in the way")
    say(writer, "one")
    say(writer, "two")
    assert b"screen: one\nscreen: two\n" in screen.text.replace(complaints(screen), b"")
    assert os.strerror(errno.EEXIST) in screen.text.decode()
    tmp_path.unlink()
    say(writer, "three")
    assert (tmp_path / "webhook.log").read_text() == "three\n"


def complaints(screen: Screen) -> bytes:
    found = [line for line in screen.text.splitlines(keepends=True) if b"berinia-webhookd:" in line]
    return b"".join(found)


def test_the_same_trouble_is_not_said_again_and_again(
    writer: LogWriter, tmp_path: Path, screen: Screen
) -> None:
    """Each lost line would else cost a line on stderr."""
    (tmp_path / "webhook.log").mkdir()
    for n in range(5):
        say(writer, f"{n}")
    assert complaints(screen).count(b"\n") == 1


def test_trouble_is_said_as_json_where_lines_are(
    open_writer: Callable[..., LogWriter], tmp_path: Path, screen: Screen
) -> None:
    """A collector reads stderr line by line."""
    (tmp_path / "webhook.log").mkdir()
    writer = open_writer(stderr_json=True)
    writer.put(Line(("webhook",), b"{}\n", b"{}\n"))
    assert writer.flush(PATIENCE_SECONDS)
    writer.close()
    found = [json.loads(line) for line in screen.text.splitlines()]
    assert [line.get("event") for line in found if line] == ["logs.lines_lost"]


# Its files may not grow over 100 bytes, which for a writer is a full disk.
FULL_DISK = """
import os, pathlib, resource, sys
from berinia_webhookd.logs.files import Line, LogWriter

folder = pathlib.Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
writer = LogWriter(folder, stderr=lambda text: os.write(2, text))


def say(number):
    writer.put(Line(("webhook",), f"{number:029}\\n".encode(), b""))
    assert writer.flush(30)


for number in range(8):
    say(number)
os.truncate(folder / "webhook.log", 20)
say(8)
"""


def test_a_full_disk_costs_lines_and_leaves_whole_ones(tmp_path: Path) -> None:
    """Half a line that still found room is not glued to the first line after."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, "webhook.log: " in done.stderr) == (0, True), done.stderr
    torn, *whole = (tmp_path / "webhook.log").read_text().splitlines()
    assert (torn, whole) == ("0" * 20, [f"{8:029}"])


def test_a_stderr_that_is_full_for_a_while_comes_back(writer: LogWriter, screen: Screen) -> None:
    """Only a reader who is gone is given up."""
    screen.fails = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    say(writer, "lost")
    screen.fails = None
    say(writer, "shown")
    assert screen.text == b"screen: shown\n"


def test_a_stderr_that_nobody_reads_costs_no_line_of_the_files(
    writer: LogWriter, tmp_path: Path, screen: Screen
) -> None:
    """`serve 2>&1 | head` ends its reader, not the daemon."""
    screen.fails = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
    say(writer, "one")
    say(writer, "two")
    assert (tmp_path / "webhook.log").read_text() == "one\ntwo\n"


def test_a_slow_disk_makes_no_caller_wait(
    tmp_path: Path, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is over the bound is dropped, counted, and said once there is room."""
    monkeypatch.setattr(module, "COMPLAIN_SECONDS", 0.0)
    stuck, go_on = threading.Event(), threading.Event()

    def slow(text: bytes) -> None:
        stuck.set()
        assert go_on.wait(PATIENCE_SECONDS)
        screen(text)

    writer = LogWriter(None, stderr=slow)
    line = Line(("webhook",), b"{}\n", b"shown\n")
    writer.put(line)
    assert stuck.wait(PATIENCE_SECONDS)
    for _ in range(QUEUE_LINES + 7):
        writer.put(line)
    go_on.set()
    assert writer.flush(PATIENCE_SECONDS)
    writer.close()
    assert screen.text.count(b"shown\n") == QUEUE_LINES + 1
    assert complaints(screen) == (
        b"berinia-webhookd: logs: 7 log lines were dropped: more came than could be written\n"
    )


def test_closing_writes_what_was_put(tmp_path: Path) -> None:
    """The last lines say why the daemon ended."""
    writer = LogWriter(tmp_path, stderr=None)
    for n in range(1000):
        writer.put(Line(("webhook",), b"%d\n" % n, b""))
    writer.close()
    assert (tmp_path / "webhook.log").read_text().split() == [str(n) for n in range(1000)]


def test_what_creates_no_file_writes_to_those_that_are_there(tmp_path: Path) -> None:
    """A command has its lines in them, and leaves none behind that the daemon could not write."""
    (tmp_path / "webhook.log").touch()
    for folder in (tmp_path, tmp_path / "nowhere"):
        writer = LogWriter(folder, stderr=None, creates=False)
        writer.put(Line(("webhook", "agents"), b"told\n", b""))
        writer.close()
    assert list(tmp_path.iterdir()) == [tmp_path / "webhook.log"]
    assert (tmp_path / "webhook.log").read_text() == "told\n"
