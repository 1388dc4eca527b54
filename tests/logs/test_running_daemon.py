"""The logs of a real daemon: rotated, unusable, and without people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.daemon import RECORDER, Daemon

TALKER = RECORDER.replace(
    '        return {"status": "success"',
    """        data = input_data["data"]
        print("got", data["body"], "from", data["sender"])
        print(json.dumps(data))
        print(f"{data['body'][:20]}...", flush=True)
        raise ValueError(data["body"] + data["sender"])
        return {"status": "success\"""",
)
BODY = "Bonjour, je suis intéressé par votre offre 🙂"
PEOPLE = ("33639980001", "33639980002", "Bonjour", "ress\\u00e9", "intéressé")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The logs, beside the daemon's other files."""
    return tmp_path / "unified_logs"


@pytest.fixture
def start(tmp_path: Path, folder: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts a daemon that logs into the folder."""
    daemons: list[Daemon] = []

    def start_one(settings: str = "", *, agent: str = RECORDER) -> Daemon:
        settings = f'logs.dir = "{folder}"\n{settings}'
        daemons.append(Daemon(tmp_path, settings, agent=agent))
        return daemons[-1].start()

    yield start_one
    for daemon in daemons:
        daemon.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_log_has_what_belongs_there(start: Callable[..., Daemon], folder: Path) -> None:
    """Everything, what concerns one channel, and what concerns agents; the errors."""
    daemon = start()
    daemon.sms(Body=BODY)
    daemon.wait_for("attempt.succeeded")
    assert daemon.stop() == 0
    found = {path.stem: [line["event"] for line in lines(path)] for path in folder.iterdir()}
    assert {"server.started", "event.accepted", "server.stopped"} < set(found["webhook"])
    assert {"event.accepted", "request.finished", "attempt.succeeded"} <= set(found["sms"])
    assert {"attempt.started", "attempt.succeeded", "agent_host.started"} <= set(found["agents"])
    assert "event.accepted" not in found["agents"]
    assert set(found) <= {"webhook", "sms", "agents", "error"}


def test_nobody_is_named_in_any_log(start: Callable[..., Daemon], folder: Path) -> None:
    """Not in what the agent prints, as it is, as JSON or cut short, nor in what it raises."""
    daemon = start(agent=TALKER)
    daemon.sms(Body=BODY)
    daemon.wait_for("attempt.failed")
    daemon.wait_for("agent.output", count=3)
    said = json.dumps(daemon.lines)
    assert daemon.stop() == 0
    written = "".join(path.read_text() for path in folder.iterdir())
    assert "ValueError" in written
    assert [word for word in PEOPLE if word in written + said] == []


def test_people_are_named_where_that_was_chosen(start: Callable[..., Daemon], folder: Path) -> None:
    """`logs.personal_data = full`."""
    daemon = start('logs.personal_data = "full"', agent=TALKER)
    daemon.sms(Body=BODY)
    daemon.wait_for("agent.output", count=3)
    assert daemon.stop() == 0
    assert f"got {BODY} from +33639980001" in (folder / "agents.log").read_text()


def test_no_line_is_lost_over_rotation(start: Callable[..., Daemon], folder: Path) -> None:
    """By rename, with no word to the daemon."""
    daemon = start()
    log = folder / "webhook.log"
    daemon.sms()
    daemon.wait_for("event.accepted", count=1)
    log.rename(folder / "webhook.log.1")
    daemon.sms()
    daemon.wait_for("event.accepted", count=2)
    daemon.wait_for("attempt.succeeded", count=2)
    assert daemon.stop() == 0
    events = [line["event"] for line in lines(folder / "webhook.log.1") + lines(log)]
    assert events.count("event.accepted") == 2
    assert events[-1] == "server.stopped"


def break_by_file(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))
    folder.write_text("in the way")


def break_by_full_disk(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("make_unusable", [break_by_file, break_by_full_disk])
def test_logs_that_cannot_be_written_stop_nothing(
    start: Callable[..., Daemon], folder: Path, make_unusable: Callable[[Path], None]
) -> None:
    """Messages are taken and handled; stderr goes on, and says what is lost."""
    daemon = start()
    daemon.sms()
    daemon.wait_for("attempt.succeeded")
    make_unusable(folder)
    assert daemon.sms(Body=BODY).status == 200
    daemon.wait_for("attempt.succeeded", count=2)
    assert str(folder) in str(daemon.wait_for("logs.lines_lost")["detail"])
    assert [seen["data"]["body"] for seen in daemon.seen()][-1] == BODY
    assert daemon.stop() == 0


def test_a_folder_for_logs_that_cannot_be_made_stops_nothing(
    start: Callable[..., Daemon], folder: Path
) -> None:
    """Not even the start."""
    folder.symlink_to("/dev/null/nowhere")
    daemon = start()
    assert daemon.sms().status == 200
    daemon.wait_for("logs.lines_lost")
    assert daemon.stop() == 0
