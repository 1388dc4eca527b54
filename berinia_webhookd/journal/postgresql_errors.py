"""Maps errors of PostgreSQL and its driver to those of `database.py`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import asyncpg

from berinia_webhookd.journal.database import (
    NAMESPACE,
    Conflict,
    DatabaseError,
    Outage,
    Unstorable,
)

# The first two or all five characters of an SQLSTATE.
UNREACHABLE: Final = (
    "08",  # connection lost
    "25006",  # read only: a standby
    "28",  # access denied
    "3D000",  # no such database
    "3F000",  # no such schema
    "42501",  # insufficient privilege
    "42P01",  # no such table: the database was restored to an earlier state
    "53",  # disk full, out of memory, too many connections
    "55P03",  # a lock timed out
    "57",  # shut down, starting up, or timed out
    "58",  # errors of the server's files
    "XX",
)
# Of the driver, or of the network. `InternalClientError`: the server has said that it ends the
# connection, and the end itself has not arrived yet.
BROKEN: Final = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
CONFLICT: Final = ("23", "40")  # another node inserted the row; deadlock; serialization
HINTS: Final = {
    "28": "see the user and the password in journal.url, and the server's pg_hba.conf",
    "3D": "make the database that journal.url names, or name another one",
    "42": f"make the schema: CREATE SCHEMA {NAMESPACE} AUTHORIZATION the user of journal.url",
}


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise errors of the server and the driver as those of `database.py`."""
    try:
        yield
    except asyncpg.PostgresError as error:
        raise _meaning(error, str(error.sqlstate or "")) from error
    except asyncpg.DataError as error:
        raise Unstorable(type(error).__name__) from error
    except BROKEN as error:
        text = "no answer in time" if isinstance(error, TimeoutError) else str(error)
        raise Outage(text or type(error).__name__) from error
    except ArithmeticError as error:
        raise Unstorable(type(error).__name__) from error


def _meaning(error: Exception, code: str) -> DatabaseError:
    said = str(getattr(error, "message", "") or type(error).__name__)  # without the values
    if code.startswith(UNREACHABLE):
        for_good = code.startswith(("28", "3D000", "42501"))
        return Outage(said, passing=not for_good, hint=HINTS[code[:2]] if for_good else None)
    return Conflict(said) if code.startswith(CONFLICT) else Unstorable(said)
