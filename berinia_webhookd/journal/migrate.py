"""Brings a journal's schema to what this program works with, one process at a time.

A journal that a newer program upgraded is used as long as that program did not exclude this one, so
that machines can be upgraded one after another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, select, text

from berinia_webhookd import __version__
from berinia_webhookd.errors import SchemaTooNew
from berinia_webhookd.journal.engine import Database
from berinia_webhookd.journal.postgresql import NAMESPACE
from berinia_webhookd.journal.schema import SCHEMA_VERSION, schema

ADVISORY_LOCK: Final = 0x62657269_6E696121  # any number, the same on every node


async def migrate(database: Database) -> None:
    """Apply what is missing; costs one small read when nothing is.

    Raises:
        SchemaTooNew: a newer program excluded this one.
    """
    if database.is_sqlite:
        async with database.writing() as connection:
            await connection.run_sync(_migrate)
        return
    async with database.reading() as connection:
        if (await connection.run_sync(stored_version) or 0) >= SCHEMA_VERSION:
            return
    patient = database.patiently()
    try:
        async with patient.writing() as connection:
            await connection.run_sync(_migrate)
    finally:
        await patient.close()


def stored_version(connection: Connection) -> int | None:
    """The version of the journal's schema; None for an empty database.

    Raises:
        SchemaTooNew: a newer program excluded this one.
    """
    if not inspect(connection).has_table(schema.name):
        return None
    stored = connection.execute(select(schema)).one()
    if _parts(stored.oldest_program) > _parts(__version__):
        raise SchemaTooNew(
            f"the journal needs berinia-webhookd {stored.oldest_program} or newer, "
            f"and this is {__version__}",
            hint="install the newer version again",
        )
    return int(stored.version)


def _migrate(connection: Connection) -> None:
    if connection.dialect.name != "sqlite":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        # Looked at first: a role that may not make it can still use one that an operator made.
        if connection.execute(text(f"SELECT to_regnamespace('{NAMESPACE}')")).scalar() is None:
            connection.execute(text(f"CREATE SCHEMA {NAMESPACE}"))
    version = stored_version(connection)
    if version is None or version < SCHEMA_VERSION:
        _upgrade(connection)


def _upgrade(connection: Connection) -> None:
    # Imported here, because most starts have nothing to upgrade.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    folder = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
