"""The journal's schema: made step by step, and used as long as no newer program says otherwise."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import closing

import pytest

from berinia_webhookd.errors import CannotStart, SchemaTooNew
from berinia_webhookd.journal import sql
from berinia_webhookd.journal.store import SqlJournal

from .world import PostgresqlWorld, SqliteWorld, World, on_sqlite


async def url_of_empty(world: World) -> str:
    """A journal that nobody has made yet."""
    if isinstance(world, PostgresqlWorld):
        return world.server.url(await world.server.new_database())
    return world.url


async def execute(world: World, url: str, *statements: str) -> None:
    """Change a journal that nobody has open."""
    if isinstance(world, PostgresqlWorld):
        name = url.partition("@/")[2].partition("?")[0]
        await world.server.execute(name, *statements)
    else:
        assert isinstance(world, SqliteWorld)
        with closing(sqlite3.connect(world.file)) as other, other:
            for statement in statements:
                other.execute(statement)


def table(world: World, name: str) -> str:
    return f"berinia_webhookd.{name}" if isinstance(world, PostgresqlWorld) else name


async def test_a_newer_programs_schema_is_refused_if_it_says_so(closed_world: World) -> None:
    """Nothing is touched, and the version that is needed is named."""
    url = await url_of_empty(closed_world)
    await closed_world.open(url)
    await closed_world.journals.pop().close()
    excluded = f"UPDATE {table(closed_world, 'schema')} SET oldest_program = '99.0'"
    await execute(closed_world, url, excluded)
    with pytest.raises(SchemaTooNew, match=r"99\.0"):
        await SqlJournal(url, node="here", clock=closed_world.clock).open()


async def test_an_older_program_works_with_a_newer_schema(closed_world: World) -> None:
    """What a newer one added does not disturb it, also while it works."""
    url = await url_of_empty(closed_world)
    await closed_world.open(url)
    await closed_world.accept("before")
    if not isinstance(closed_world, PostgresqlWorld):
        await closed_world.journals.pop().close()
    await execute(
        closed_world,
        url,
        *(
            f"ALTER TABLE {table(closed_world, name)} ADD COLUMN later TEXT DEFAULT 'new'"
            for name in ("deliveries", "events", "entries", "conversations", "attempts", "schema")
        ),
        f"UPDATE {table(closed_world, 'schema')} SET version = version + 1",
    )
    if not closed_world.journals:
        await closed_world.open(url)
    await closed_world.accept("after", sender="+33639980002")
    before, after = await closed_world.claim()
    assert (await closed_world.settle(before)).kept
    await closed_world.fail(after, retry_in=5)
    assert await closed_world.states() == {"done": 1, "waiting": 1}


async def test_two_that_start_on_an_empty_database_make_one_journal(closed_world: World) -> None:
    """The schema is made once, and completely; on a file, the second is told who has it."""
    url = await url_of_empty(closed_world)
    both = [SqlJournal(url, node=node, clock=closed_world.clock) for node in ("here", "there")]
    opened = await asyncio.gather(*(one.open() for one in both), return_exceptions=True)
    working = [one for one, failed in zip(both, opened, strict=True) if failed is None]
    closed_world.journals += working
    assert len(working) == (2 if isinstance(closed_world, PostgresqlWorld) else 1)
    for number, one in enumerate(working):
        closed_world.journals.append(one)
        await closed_world.accept(f"m{number}")
        closed_world.journals.pop()
    assert await closed_world.states() == {"ready": len(working)}


EARLIER = (
    "CREATE TABLE {alembic} (version_num TEXT)",
    "CREATE TABLE {bodies} (delivery TEXT, body TEXT)",
    "INSERT INTO {bodies} VALUES ('one', 'kept')",
)


async def test_an_earlier_layout_is_refused_and_left_alone(closed_world: World) -> None:
    """Exit 3, with the line that exports it; not a byte of it is changed."""
    url = await url_of_empty(closed_world)
    names = {
        "alembic": table(closed_world, "alembic_version"),
        "bodies": table(closed_world, "delivery_bodies"),
    }
    if isinstance(closed_world, PostgresqlWorld):
        await execute(closed_world, url, "CREATE SCHEMA berinia_webhookd")
    await execute(closed_world, url, *(statement.format(**names) for statement in EARLIER))
    journal = SqlJournal(url, node="here", clock=closed_world.clock)
    with pytest.raises(CannotStart) as refused:
        await journal.open()
    assert refused.value.exit_code == 3
    assert "events export" in str(refused.value.hint)
    await execute(closed_world, url, f"UPDATE {names['bodies']} SET body = 'still there'")


async def test_another_programs_database_gets_no_tables_of_ours(closed_world: World) -> None:
    """Exit 3: whoever mistyped `journal.url` keeps what is there."""
    url = await url_of_empty(closed_world)
    if isinstance(closed_world, PostgresqlWorld):
        await execute(closed_world, url, "CREATE SCHEMA berinia_webhookd")
    theirs = table(closed_world, "customers")
    await execute(closed_world, url, f"CREATE TABLE {theirs} (name TEXT)")
    with pytest.raises(CannotStart, match="another program") as refused:
        await SqlJournal(url, node="here", clock=closed_world.clock).open()
    assert refused.value.exit_code == 3
    await execute(closed_world, url, f"CREATE TABLE {table(closed_world, 'events')} (name TEXT)")


@on_sqlite
async def test_an_earlier_file_keeps_its_bytes(closed_world: SqliteWorld) -> None:
    """Also where it is a file."""
    made = EARLIER[0].format(alembic="alembic_version")
    await execute(closed_world, closed_world.url, "PRAGMA journal_mode = WAL", made)
    before = closed_world.file.read_bytes()
    with pytest.raises(CannotStart):
        await SqlJournal(closed_world.url, node="here", clock=closed_world.clock).open()
    assert closed_world.file.read_bytes() == before


@on_sqlite
@pytest.mark.parametrize("mode", ["delete", "wal"])
async def test_another_programs_file_is_left_as_it_is(closed_world: SqliteWorld, mode: str) -> None:
    """Neither its bytes nor its mode change, nor how its program keeps its own journal."""
    file = closed_world.file
    await execute(closed_world, "", f"PRAGMA journal_mode = {mode}", "CREATE TABLE customers (a)")
    file.chmod(0o644)
    before = file.read_bytes()
    with pytest.raises(CannotStart, match="another program"):
        await SqlJournal(closed_world.url, node="here", clock=closed_world.clock).open()
    assert file.read_bytes() == before
    assert file.stat().st_mode & 0o777 == 0o644


async def test_a_journal_that_says_no_version_is_refused(closed_world: World) -> None:
    """Exit 3, with what to do: nobody knows what it needs."""
    url = await url_of_empty(closed_world)
    await closed_world.open(url)
    await closed_world.journals.pop().close()
    await execute(closed_world, url, f"DELETE FROM {table(closed_world, 'schema')}")
    with pytest.raises(CannotStart, match="0 rows") as refused:
        await SqlJournal(url, node="here", clock=closed_world.clock).open()
    assert refused.value.exit_code == 3


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_statements_name_their_columns(engine: str) -> None:
    """A node goes on working when a newer one adds a column to a table it reads."""
    for name, text in sql.statements(engine).items():
        assert not re.search(r"SELECT\s+(\w+\.)?\*|RETURNING\s+\*", text), name
        assert re.match("SELECT|INSERT INTO [a-z_{}]+ \\(|UPDATE|DELETE|WITH|LOCK", text), name


def test_no_two_statements_have_one_name() -> None:
    """Whatever files they stand in."""
    names = [
        name
        for file in sql.FOLDER.glob("[a-z]*.sql")
        for name in re.findall(r"^-- name: (\w+)$", file.read_text(), re.MULTILINE)
    ]
    assert sorted(set(names)) == sorted(names)
    assert set(names) == set(sql.statements("sqlite"))
