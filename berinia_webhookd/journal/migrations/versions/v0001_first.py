"""The first schema."""

from __future__ import annotations

from alembic import op
from sqlalchemy import insert

from berinia_webhookd.journal.schema import metadata, schema

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


def upgrade() -> None:
    """Make all tables."""
    connection = op.get_bind()
    metadata.create_all(connection)
    for name, what in TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} {what}")
    connection.execute(insert(schema).values(version=1, oldest_program="0.1.0"))
