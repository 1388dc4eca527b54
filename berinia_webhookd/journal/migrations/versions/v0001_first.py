"""The first schema."""

from __future__ import annotations

from alembic import op
from sqlalchemy import insert, text

from berinia_webhookd.journal.schema import metadata, schema, tallies

revision = "0001"
down_revision = None

# Each state change of an entry moves one count, whoever makes it and by whatever statement.
COUNT = "INSERT INTO tallies (kind, channel, agent, state, total) VALUES ({row}, {by}) "
COUNT += "ON CONFLICT (kind, channel, agent, state) DO UPDATE SET total = total + excluded.total;"
INTO_NEW = COUNT.format(row="new.kind, new.channel, new.agent, new.state", by="1")
OUT_OF_OLD = COUNT.format(row="old.kind, old.channel, old.agent, old.state", by="-1")
TRIGGERS = {
    "entries_come": f"AFTER INSERT ON entries BEGIN {INTO_NEW} END",
    "entries_change": "AFTER UPDATE OF state ON entries WHEN old.state <> new.state "
    f"BEGIN {OUT_OF_OLD} {INTO_NEW} END",
    "entries_go": f"AFTER DELETE ON entries BEGIN {OUT_OF_OLD} END",
}

# On PostgreSQL every session counts in rows of its own, so that nobody waits for another's commit;
# `upkeep.fold_tallies` adds up what ended sessions left.
EACH = "FOR EACH ROW EXECUTE FUNCTION count_entry()"
EACH_CHANGE = EACH.replace("EXECUTE", "WHEN (old.state <> new.state) EXECUTE")
POSTGRESQL = (
    "CREATE SEQUENCE entry_places",
    """
    CREATE TABLE tally_shards (
        session integer, kind text COLLATE "C", channel text COLLATE "C",
        agent text COLLATE "C", state text COLLATE "C", total bigint NOT NULL,
        PRIMARY KEY (session, kind, channel, agent, state)
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE VIEW tallies AS
    SELECT kind, channel, agent, state, sum(total)::bigint AS total
    FROM tally_shards GROUP BY kind, channel, agent, state
    """,
    """
    CREATE FUNCTION count_entry() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP <> 'INSERT' THEN
            INSERT INTO {tally_shards} AS t VALUES
                (pg_backend_pid(), old.kind, old.channel, old.agent, old.state, -1)
            ON CONFLICT (session, kind, channel, agent, state) DO UPDATE SET total = t.total - 1;
        END IF;
        IF TG_OP <> 'DELETE' THEN
            INSERT INTO {tally_shards} AS t VALUES
                (pg_backend_pid(), new.kind, new.channel, new.agent, new.state, 1)
            ON CONFLICT (session, kind, channel, agent, state) DO UPDATE SET total = t.total + 1;
        END IF;
        RETURN NULL;
    END $$
    """,
    f"CREATE TRIGGER entries_come AFTER INSERT ON entries {EACH}",
    f"CREATE TRIGGER entries_change AFTER UPDATE OF state ON entries {EACH_CHANGE}",
    f"CREATE TRIGGER entries_go AFTER DELETE ON entries {EACH}",
)


def upgrade() -> None:
    """Make all tables."""
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        metadata.create_all(connection)
        for name, what in TRIGGERS.items():
            op.execute(f"CREATE TRIGGER {name} {what}")
    else:
        tables = [table for table in metadata.sorted_tables if table is not tallies]
        metadata.create_all(connection, tables)
        # Named in full, because an operator's session may look elsewhere.
        where = connection.execute(text("SELECT quote_ident(current_schema())")).scalar_one()
        for statement in POSTGRESQL:
            op.execute(statement.replace("{tally_shards}", f"{where}.tally_shards"))
    connection.execute(insert(schema).values(version=1, oldest_program="0.1.0"))
