"""The journal's schema: made step by step, and used as long as no newer program says otherwise."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import Connection, inspect

from berinia_webhookd.errors import SchemaTooNew
from berinia_webhookd.journal.engine import Database
from berinia_webhookd.journal.migrate import migrate
from berinia_webhookd.journal.schema import metadata, tallies
from berinia_webhookd.journal.store import SqlJournal

from .world import PostgresqlWorld, SqliteWorld, World

# Alembic's own, and what is a view on PostgreSQL.
NOT_COMPARED = {"alembic_version", "tally_shards", tallies.name}


def described(connection: Connection) -> dict[str, Any]:
    """What is in the database, by table."""
    found = inspect(connection)
    return {
        table: {
            "columns": by_name(found.get_columns(table)),
            "key": found.get_pk_constraint(table)["constrained_columns"],
            "foreign": in_order(found.get_foreign_keys(table)),
            "unique": in_order(found.get_unique_constraints(table)),
            "indexes": in_order(map(readable, found.get_indexes(table))),
        }
        for table in found.get_table_names()
        if table not in NOT_COMPARED
    }


def by_name(columns: Iterable[Any]) -> dict[str, str]:
    """Their order is that of the steps."""
    return {column["name"]: repr({**column, "name": ""}) for column in columns}


def readable(index: Any) -> object:
    options = index.get("dialect_options", {})
    return {**index, "dialect_options": {name: str(value) for name, value in options.items()}}


def in_order(things: Iterable[object]) -> list[str]:
    return sorted(map(repr, things))


async def new_database(world: World, name: str) -> Database:
    if isinstance(world, PostgresqlWorld):
        url = world.server.url(await world.server.new_database())
    else:
        assert isinstance(world, SqliteWorld)
        file = world.folder / name
        file.touch()
        url = f"sqlite:///{file}"
    return Database(url, clock=lambda: world.clock.now)


async def test_the_steps_make_what_the_program_works_with(closed_world: World) -> None:
    """All of them together make the tables and indexes that the queries are written for."""
    by_steps = await new_database(closed_world, "steps.db")
    at_once = await new_database(closed_world, "at_once.db")
    try:
        await migrate(by_steps)
        async with at_once.writing() as connection:
            if not at_once.is_sqlite:
                await connection.exec_driver_sql("CREATE SCHEMA berinia_webhookd")
            await connection.run_sync(metadata.create_all)
            expected = await connection.run_sync(described)
        async with by_steps.reading() as connection:
            assert await connection.run_sync(described) == expected
    finally:
        await by_steps.close()
        await at_once.close()
    assert set(expected) == set(metadata.tables) - NOT_COMPARED


async def test_a_newer_programs_schema_is_refused_if_it_says_so(closed_world: World) -> None:
    """Nothing is touched, and the version that is needed is named."""
    excluded = "UPDATE {}schema SET oldest_program = '99.0'"
    if isinstance(closed_world, PostgresqlWorld):
        name = await closed_world.server.new_database()
        url = closed_world.server.url(name)
        await closed_world.open(url)
        await closed_world.server.execute(name, excluded.format("berinia_webhookd."))
    else:
        assert isinstance(closed_world, SqliteWorld)
        url = closed_world.url
        await closed_world.open(url)
        await closed_world.journals.pop().close()
        with closing(sqlite3.connect(closed_world.file)) as other, other:
            other.execute(excluded.format(""))
    with pytest.raises(SchemaTooNew, match=r"99\.0"):
        await SqlJournal(url, node="here", clock=closed_world.clock).open()
