"""Whether the configured journal is there and of use to this program. It makes none, and changes
nothing in it.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy.exc import SQLAlchemyError

from berinia_webhookd.config.settings import JournalSettings
from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.findings import Finding, wrong
from berinia_webhookd.journal.engine import Database
from berinia_webhookd.journal.migrate import stored_version
from berinia_webhookd.journal.operations import utc_now
from berinia_webhookd.journal.schema import SCHEMA_VERSION
from berinia_webhookd.tools.folder_check import file_problem, folder_problem
from berinia_webhookd.tools.installation import shown_url

SETTING: Final = "journal.url"
CONNECT_SECONDS: Final = 15.0

State = Literal["usable", "absent", "unusable", "not tried"]


@dataclass(frozen=True, slots=True)
class JournalFinding:
    """The journal as it is found; `shown_url` holds no password."""

    shown_url: str
    state: State
    detail: str
    problem: Finding | None = None


async def check_journal(journal: JournalSettings, *, offline: bool) -> JournalFinding:
    """Open the journal if there is one; `offline` connects to no database server."""
    url = journal.url.reveal()
    shown = shown_url(url)
    try:
        database = Database(url, clock=utc_now)
    except WebhookdError as error:
        return _unusable(shown, str(error), error.hint)
    try:
        known = _without_opening(shown, database, offline=offline)
        return await _opened(shown, database) if known is None else known
    finally:
        await database.close()


def _without_opening(shown: str, database: Database, *, offline: bool) -> JournalFinding | None:
    """What the file's place and modes say already; None if it is worth opening."""
    file = database.path
    if file is None:
        detail = "not connected to (--offline)"
        return JournalFinding(shown, "not tried", detail) if offline else None
    if os.path.lexists(file):
        refusal = file_problem(file)
        return None if refusal is None else _unusable(shown, refusal)
    if refusal := folder_problem(file.parent, makeable=True):
        return _unusable(shown, f"is not there and cannot be made: its folder {refusal}")
    return JournalFinding(shown, "absent", "not there yet; `serve` makes it")


async def _opened(shown: str, database: Database) -> JournalFinding:
    try:
        async with asyncio.timeout(CONNECT_SECONDS), database.reading() as connection:
            version = await connection.run_sync(stored_version)
    except TimeoutError:
        return _unusable(shown, f"no answer within {CONNECT_SECONDS:g} s")
    except WebhookdError as error:
        return _unusable(shown, str(error), error.hint)
    except (SQLAlchemyError, OSError) as error:
        hint = (
            "`serve` cannot use it like that"
            if database.is_sqlite
            else ("`serve` would answer 503 until the database can be reached")
        )
        return _unusable(shown, str(getattr(error, "orig", error)), hint)
    if version is None:
        return JournalFinding(shown, "absent", "no journal in this database yet; `serve` makes it")
    if version < SCHEMA_VERSION:
        detail = f"schema {version}; `serve` upgrades it to {SCHEMA_VERSION}"
        return JournalFinding(shown, "usable", detail)
    return JournalFinding(shown, "usable", f"schema {version}")


def _unusable(shown: str, why: str, hint: str | None = None) -> JournalFinding:
    hint = hint or "give the daemon's user the file and its folder, or set another journal.url"
    return JournalFinding(shown, "unusable", why, wrong(SETTING, why, hint))
