"""The daemon with two seams opened: its clock can be stepped, and its commits can be made to fail,
crawl or hang, by files in the folder that `PROOF_FAULTS` names. Everything else is the real thing.
"""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from berinia_webhookd import app, cli
from berinia_webhookd.journal.database import Database, Outage
from berinia_webhookd.journal.journal_file import SqliteDatabase
from berinia_webhookd.journal.postgresql import PostgresqlDatabase

FAULTS = Path(os.environ["PROOF_FAULTS"])
CRAWL_SECONDS = 0.3
LOOK_SECONDS = 0.02

_said: dict[str, str] = {}


def wanted(name: str) -> str:
    """What a fault's file says; nothing where there is none."""
    try:
        _said[name] = (FAULTS / name).read_text()
    except FileNotFoundError:
        _said[name] = ""
    except OSError:  # no descriptors left: one of the faults. It holds what was said before.
        _said.setdefault(name, "")
    return _said[name]


def stepped_clock() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=float(wanted("clock") or 0))


def make_faulty(kind: type[Database]) -> None:
    """Let writes fail before the commit, after it (it is on disk, and nobody knows), take their
    time, or hang.
    """
    write = kind.write

    async def faulty_write(self: Database, step: Any) -> Any:
        how = wanted("commits")
        if how == "fail":
            raise Outage("input/output error, injected")
        if how == "crawl":
            await asyncio.sleep(CRAWL_SECONDS)
        while wanted("commits") == "hang":  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(LOOK_SECONDS)
        result = await write(self, step)
        if how == "fail afterwards":
            raise Outage("input/output error after the commit, injected")
        return result

    kind.write = faulty_write  # type: ignore[method-assign]


if __name__ == "__main__":
    app.now = stepped_clock  # type: ignore[attr-defined]
    make_faulty(SqliteDatabase)
    make_faulty(PostgresqlDatabase)
    cli.main()
