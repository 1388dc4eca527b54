"""`journal copy`, as an operator calls it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.model import Decoded

from ..end_to_end.daemon import Daemon
from ..journal.world import a_delivery, an_event


@pytest.fixture
def source(tmp_path: Path) -> str:
    """The URL of a journal with one event."""
    url = f"sqlite:///{tmp_path / 'old.db'}"

    async def make() -> None:
        journal = SqlJournal(url, node="here", clock=lambda: datetime.now(UTC))
        await journal.open()
        event = an_event("one")
        await journal.accept(a_delivery(event), Decoded((event,)))
        await journal.close()

    asyncio.run(make())
    return url


def test_a_copy_says_what_it_counted(tmp_path: Path, source: str) -> None:
    """On both sides, table by table; without --to it goes to the configured journal."""
    daemon = Daemon(tmp_path)
    done = daemon.run("journal", "copy", "--from", source)
    assert "entries                     1           1" in done.stdout
    assert str(tmp_path / "state" / "journal.db") in done.stderr
    again = json.loads(daemon.run("journal", "copy", "--from", source, "--json").stdout)
    assert again["complete"] is True
    assert {"table": "events", "from": 1, "to": 1} in again["tables"]
    assert len(json.loads(daemon.run("events", "list", "--json").stdout)) == 1


def test_a_password_on_the_command_line_is_refused(tmp_path: Path, source: str) -> None:
    """Everybody who lists processes would see it; the message says where to put it, not what."""
    target = "postgresql://postgres:geheim@127.0.0.1:1/berinia"
    refused = Daemon(tmp_path).run("journal", "copy", "--from", source, "--to", target, check=False)
    assert refused.returncode == 2
    assert "PGPASSWORD" in refused.stderr
    assert "geheim" not in refused.stdout + refused.stderr


@pytest.mark.parametrize(
    "words", [[], ["--from", "nonsense"], ["--from", "{source}", "--to", "{source}"]]
)
def test_what_makes_no_sense_is_a_usage_error(
    tmp_path: Path, source: str, words: list[str]
) -> None:
    """No place at all, no journal's place, or the same place twice."""
    given = [word.format(source=source) for word in words]
    refused = Daemon(tmp_path).run("journal", "copy", *given, check=False)
    assert refused.returncode == 2
    assert refused.stdout == ""
