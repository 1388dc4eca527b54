"""Upgrades a journal's schema to this program's version, one process at a time. A journal that a
newer program upgraded is used unless that program excluded this one, so that machines can be
upgraded one after another. A database of a version before 1, or of another program, is refused.
"""

from __future__ import annotations

from typing import Final

from berinia_webhookd import __version__
from berinia_webhookd.errors import CannotStart, SchemaTooNew
from berinia_webhookd.journal import sql
from berinia_webhookd.journal.database import Transaction

SCHEMA_VERSION: Final = sql.steps()[-1][0]
EARLIER_LAYOUT: Final = frozenset({"alembic_version", "delivery_bodies", "tally_shards"})


async def migrate(transaction: Transaction) -> bool:
    """Apply the missing steps; costs one small read if there are none. Returns whether the journal
    is new.

    Raises:
        CannotStart: as `stored_version` does.
    """
    version = await stored_version(transaction) or 0
    for number, text in sql.steps():
        if number > version:
            await transaction.script(text)
    return version == 0


async def stored_version(transaction: Transaction) -> int | None:
    """Return the version of the journal's schema; None for an empty database.

    Raises:
        CannotStart: it has the layout before version 1 or is another program's, says no version, or
            a newer program excluded this one.
    """
    tables = await transaction.tables()
    if tables & EARLIER_LAYOUT:
        raise CannotStart(
            "the journal has the layout of an earlier program, and was left as it is",
            hint="with that program: `berinia-webhookd events export > journal.jsonl`; "
            "then set journal.url to a new one",
        )
    if not tables:
        return None
    if "schema" not in tables:
        raise CannotStart(
            "the journal's place holds tables of another program",
            hint="set journal.url to a file or database of its own",
        )
    found = await transaction.execute("schema_version")
    if len(found) != 1:
        raise CannotStart(
            f"the journal's table schema has {len(found)} rows instead of one",
            hint="put back a backup, or set journal.url to a new journal",
        )
    version, oldest_program = found[0]
    if _parts(oldest_program) > _parts(__version__):
        raise SchemaTooNew(
            f"the journal needs berinia-webhookd {oldest_program} or newer, "
            f"and this is {__version__}",
            hint="install the newer version again",
        )
    return int(version)


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
