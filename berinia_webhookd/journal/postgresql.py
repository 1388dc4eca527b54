"""PostgreSQL below the level of statements: how sessions are opened, what bounds them in time, and
what its errors mean. No statement waits without end, so that a lock, a slow disk or a cable that
was pulled out is known within one `server.ack_timeout_seconds`.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from berinia_webhookd.errors import CannotStart

NAMESPACE: Final = "berinia_webhookd"  # the PostgreSQL schema that holds our tables

CONNECT_SECONDS: Final = 4.0
CLOSE_SECONDS: Final = 0.5
LOCK_SECONDS: Final = 3
STATEMENT_SECONDS: Final = 5
COMMAND_SECONDS: Final = 6.0  # measured here, for a server that says nothing any more
POOL_SECONDS: Final = 5.0
PATIENT_SECONDS: Final = 600  # for upgrades, and for what an operator asks

# What the database's or the role's own settings must not change.
SESSION: Final = {
    "application_name": "berinia-webhookd",
    "search_path": NAMESPACE,
    "synchronous_commit": "on",  # a commit that returned is on disk
    "default_transaction_isolation": "read committed",  # what a lock waited for is then seen
    "idle_in_transaction_session_timeout": f"{2 * STATEMENT_SECONDS}s",
    "jit": "off",  # compiling takes longer than any statement of ours
}

# Kinds of periodic work, which one node does at a time.
PURGING: Final = 1
RECOVERING: Final = 2
TAKE_TURN: Final = text(f"SELECT pg_try_advisory_xact_lock(hashtext('{NAMESPACE}'), :work)")

# The first two or all five characters of an SQLSTATE.
AWAY: Final = (
    "08",  # connection lost
    "25006",  # read only: a standby
    "28",  # refused to let us in
    "3D000",  # no such database
    "3F000",  # no such schema
    "42501",  # not allowed
    "42P01",  # no such table: the database was put back to an earlier state
    "53",  # disk full, out of memory, too many connections
    "55P03",  # a lock was not to be had
    "57",  # shut down, starting up, or timed out
    "58",  # the server's own files
    "XX",
)
CANNOT_WRITE: Final = ("53", "58", "XX")  # of these, what a server says that is there
NEVER_BY_ITSELF: Final = ("28", "3D000", "42501")
CONFLICT: Final = ("40",)  # deadlock, serialization


def make_engine(url: str, *, pool_size: int, patient: bool = False) -> AsyncEngine:
    """Connections to one database; everything libpq knows may stand in the URL, TLS included.

    Raises:
        CannotStart: the driver is not installed.
    """
    try:
        import asyncpg  # noqa: PLC0415 - only installed where it is needed
    except ModuleNotFoundError as error:
        raise CannotStart(
            "journal.url is PostgreSQL's, and its driver is not installed",
            hint="pip install 'berinia-webhookd[postgresql]', or use a sqlite:/// journal.url",
        ) from error
    own = frozenset(make_url(url).query)
    limits = {
        "lock_timeout": f"{PATIENT_SECONDS if patient else LOCK_SECONDS}s",
        "statement_timeout": f"{PATIENT_SECONDS if patient else STATEMENT_SECONDS}s",
    }
    session = {key: value for key, value in {**SESSION, **limits}.items() if key not in own}

    class Connection(asyncpg.Connection):  # type: ignore[misc]  # the driver has no types
        """One that is let go at once: asyncpg would wait for a server that says nothing any more,
        also for the news that its own cancelling was heard.
        """

        async def close(self, **_: object) -> None:
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await super().close()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                self.terminate()

    async def connect() -> Any:
        # The URL goes to the driver as it is: SQLAlchemy's reading of it knows no `sslmode`.
        return await asyncpg.connect(
            url,
            connection_class=Connection,
            timeout=CONNECT_SECONDS,
            command_timeout=PATIENT_SECONDS if patient else COMMAND_SECONDS,
            server_settings=session,
        )

    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_SECONDS,
        pool_pre_ping=True,
        hide_parameters=True,  # an error's message must not hold what was to be stored
    )


def take_turn(connection: Connection, work: int) -> bool:
    """Whether nobody else does this kind of periodic work just now; ours until the commit."""
    return bool(connection.execute(TAKE_TURN, {"work": work}).scalar_one())


def sqlstate(error: BaseException) -> str:
    """The five characters by which PostgreSQL names an error; empty for any other error."""
    return str(getattr(getattr(error, "orig", error), "sqlstate", None) or "")


def is_away(error: BaseException) -> bool:
    """Whether the database, and not what was to be written, is why it failed."""
    code = sqlstate(error)
    if code:
        return code.startswith(AWAY)
    # Without a code it is the driver's own word: a connection that is closed, or a value that
    # does not fit, which it says by a ValueError.
    cause = getattr(getattr(error, "orig", None), "__cause__", None)
    return not isinstance(cause, ValueError)


def cannot_write(error: BaseException) -> bool:
    """Whether the server is there and lacks what it needs to write: as a rule, room on its disk."""
    return sqlstate(error).startswith(CANNOT_WRITE)


def is_conflict(error: BaseException) -> bool:
    """Whether another node was faster; trying again then sees what it did."""
    if isinstance(error, DBAPIError):
        return isinstance(error, IntegrityError) or sqlstate(error).startswith(CONFLICT)
    return False


def hint_for(error: BaseException) -> str:
    """What an operator can do about being refused."""
    code = sqlstate(error)
    if code.startswith("28"):
        return "see the user and the password in journal.url, and the server's pg_hba.conf"
    if code == "3D000":
        return "make the database that journal.url names, or name another one"
    if code == "42501":
        return f"make the schema: CREATE SCHEMA {NAMESPACE} AUTHORIZATION the user of journal.url"
    return "see the options in journal.url"


def refuses_for_good(error: BaseException) -> bool:
    """Whether nobody but an operator can change that we are not let in."""
    cause = getattr(getattr(error, "orig", error), "__cause__", None) or error
    return sqlstate(error).startswith(NEVER_BY_ITSELF) or isinstance(cause, ValueError)
