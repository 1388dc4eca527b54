"""Access of a command to the journal, with or without a running daemon: its checks, its short
transactions, and the actor noted in them.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Concatenate, Final, ParamSpec, Self, TypeVar

from berinia_webhookd.clock import now
from berinia_webhookd.errors import CannotStart, JournalUnavailable, NotFound, NotPermitted
from berinia_webhookd.journal import actions
from berinia_webhookd.journal.accept import GatheringOf, no_gathering
from berinia_webhookd.journal.actions import About, Actor
from berinia_webhookd.journal.consents_key import ConsentsKey
from berinia_webhookd.journal.database import (
    Conflict,
    DatabaseError,
    Transaction,
    open_database,
    path_of,
)
from berinia_webhookd.journal.lock import real_path, require_one_name
from berinia_webhookd.journal.migrate import SCHEMA_VERSION, stored_version
from berinia_webhookd.journal.saved_copies import saved_copies

P = ParamSpec("P")
ResultT = TypeVar("ResultT")

UNKNOWN: Final = Actor("operator")
TRIES: Final = 5  # after conflicts with other processes


class JournalAccess:
    """One journal: `async with` opens it, but never creates one."""

    def __init__(
        self,
        url: str,
        *,
        node: str = "operator",
        actor: Actor = UNKNOWN,
        clock: Callable[[], datetime] = now,
        key: ConsentsKey | None = None,
        gathering_of: GatheringOf = no_gathering,
    ) -> None:
        """`key` is that of the register of consents, `gathering_of` returns an agent's gathering
        settings.
        """
        self._path = path_of(url)
        self._database = open_database(url, clock=clock, pool_size=2, patient=True)
        self._node = node
        self._actor = actor
        self._key = key
        self._gathering_of = gathering_of

    async def __aenter__(self) -> Self:
        """Check that the journal exists, and that this program can use it.

        Raises:
            NotFound: there is no journal.
            NotPermitted: it is not for this user.
            CannotStart: its schema is not this program's, or its file has several names.
        """
        if self._path is not None:
            if not is_there(self._path):
                raise NotFound(f"there is no journal at {self._path}", hint=_why_none(self._path))
            require_one_name(real_path(self._path))
        try:
            await self._require_version()
        except BaseException:
            await self._database.close()
            raise
        return self

    async def _require_version(self) -> None:
        version = await self.read(stored_version)
        if version is None:
            raise NotFound("there is no journal in this database", hint="`serve` makes it")
        if version < SCHEMA_VERSION:
            raise CannotStart(
                "the journal is older than this program", hint="start `serve` once: it upgrades it"
            )

    @property
    def can_stay_open(self) -> bool:
        """Whether the connection may be kept: a SQLite file may be replaced meanwhile."""
        return self._path is None

    def by(self, actor: Actor) -> Self:
        """Return the same journal for another actor."""
        others = copy.copy(self)
        others._actor = actor
        return others

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._database.close()

    # ---- how

    async def read(
        self,
        look: Callable[Concatenate[Transaction, P], Awaitable[ResultT]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> ResultT:
        """Answer one of the journal's questions, in one transaction that only reads."""
        with explained():
            return await self._database.read(lambda transaction: look(transaction, *args, **kwargs))

    async def write(
        self,
        change: Callable[Concatenate[Transaction, P], Awaitable[ResultT]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> ResultT:
        """Do a change in one transaction, tried again after conflicts with other processes."""
        with explained():
            for _ in range(TRIES):
                with contextlib.suppress(Conflict):
                    return await self._database.write(
                        lambda transaction: change(transaction, *args, **kwargs)
                    )
            raise Conflict("other processes were faster, again and again")

    async def _act(
        self,
        what: str,
        about: Callable[[ResultT], About],
        change: Callable[Concatenate[Transaction, P], Awaitable[ResultT]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> ResultT:
        """Run a change, and note in the same transaction its actor and result."""

        async def noted(transaction: Transaction) -> ResultT:
            result = await change(transaction, *args, **kwargs)
            await actions.note(transaction, self._actor, what, about(result))
            return result

        return await self.write(noted)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn errors of the database into errors for commands."""
    try:
        yield
    except DatabaseError as error:
        raise JournalUnavailable(
            f"the journal cannot be used: {error}", hint=getattr(error, "hint", None)
        ) from error


def is_there(path: Path) -> bool:
    """Whether a journal's file exists and this user may use it.

    Raises:
        NotPermitted: this user may not use it, or cannot see whether it exists.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError as error:
        raise NotPermitted(path) from error
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        raise NotPermitted(path)
    return True


def _why_none(path: Path) -> str:
    if saved := saved_copies(path):
        command = f"berinia-webhookd journal restore {saved[-1]}"
        return f"it was lost, and what was saved of it waits: {command}"
    return "`serve` makes it; see journal.url"
