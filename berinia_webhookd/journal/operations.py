"""The operators' operations on a journal, with or without a running daemon: look, replay, discard,
erase, export. They use short transactions, so that the daemon never waits long, and never create a
journal.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from typing import Final

from berinia_webhookd.errors import NotFound
from berinia_webhookd.journal import (
    actions,
    consents,
    consents_key,
    conversations,
    erase,
    pause,
    queries,
    replay,
    search,
    show,
)
from berinia_webhookd.journal.access import JournalAccess, explained
from berinia_webhookd.journal.actions import About
from berinia_webhookd.journal.consents import ListedConsent
from berinia_webhookd.journal.contract import MissingAgent, Statistics
from berinia_webhookd.journal.conversations import ConversationState, ShownConversation
from berinia_webhookd.journal.database import in_batches
from berinia_webhookd.journal.deliveries import EVENTS_EACH
from berinia_webhookd.journal.erase import Erasure, Found
from berinia_webhookd.journal.pause import Resumed, Whose
from berinia_webhookd.journal.queries import NEVER_BY_FILTER, Filters, Listed, ListedState
from berinia_webhookd.journal.replay import Changed, Decode
from berinia_webhookd.journal.search import Searched
from berinia_webhookd.journal.show import Shown
from berinia_webhookd.model import ChannelName, Pause, PauseRequest

REPLAY: Final = "events replay"
DISCARD: Final = "events discard"
ERASE: Final = "events erase"
BATCH: Final = 200
RANGE: Final = 1000 * EVENTS_EACH  # the range of numbers of one page of an export
PATIENCE_SECONDS: Final = 10.0  # how long to wait for running attempts and readers of the WAL
PAUSE_SECONDS: Final = 0.2


class Operations(JournalAccess):
    """The operations on one journal: `async with Operations(url) as journal`."""

    # ---- looking

    async def list_events(self, filters: Filters, limit: int = 50) -> list[Listed]:
        """Return the entries (of state `rejected`: deliveries) that match, newest first."""
        return (await self.search(filters, limit, described=False)).events

    async def search(
        self,
        filters: Filters,
        limit: int = 50,
        *,
        described: bool = True,
        before: int = queries.ALL,
        seconds: float = math.inf,
    ) -> Searched:
        """Do the same with contents, for events before a number. Filters without an index search a
        hundred thousand events; no new page is begun after `seconds`.
        """
        found: list[Listed] = []
        looked_at, rows = 0, min(search.FIRST_PAGE, search.PAGE)
        deadline = time.monotonic() + seconds
        first, last = await self.read(queries.numbers_of, filters)
        end: int | None = min(before, last + 1)
        while end is not None and len(found) < limit:
            how = {"first": first, "end": end, "limit": limit - len(found), "rows": rows}
            page = await self.read(search.page, filters, **how, described=described)
            found, rows = found + page.found, min(4 * rows, search.PAGE)
            looked_at, end = looked_at + page.looked_at, page.end
            enough = filters.is_scan and looked_at >= search.MOST_SEARCHED
            if end is not None and len(found) < limit and (enough or time.monotonic() > deadline):
                return Searched(found, end, await self.read(queries.received_from, end))
        return Searched(found)

    async def short_ids(self, ids: Iterable[str]) -> dict[str, str]:
        """Return for each id a unique prefix."""
        return await self.read(search.short_ids, sorted({*ids}))

    async def show(self, prefix: str) -> Shown:
        """Return one event or rejected delivery by its id or a prefix of it.

        Raises:
            NotFound: there is none, or more than one.
        """
        id_, what = await self.read(queries.find, prefix)
        look = show.show_event if what == "event" else show.show_delivery
        shown = await self.read(look, id_)
        if shown is None:
            raise NotFound(f"{id_} was deleted just now")
        return shown

    async def export(self, filters: Filters) -> AsyncIterator[Shown]:
        """Yield every event that matches, oldest first, read in small pages."""
        start, last = await self.read(queries.numbers_of, filters)
        for first in range(start, last + 1, queries.ALL if filters.few else RANGE):
            end = queries.ALL if filters.few else first + RANGE
            page = await self.read(search.range_of, filters, first=first, end=end)
            for id_ in dict.fromkeys(one.id for one in reversed(page)):
                shown = await self.read(show.show_event, id_)
                if shown is not None:
                    yield shown

    async def consents(self, *, channel: str | None = None, limit: int = 50) -> list[ListedConsent]:
        """Return the latest statements of consent, the newest first."""
        return await self.read(consents.latest, channel=channel, limit=limit)

    async def consents_of(self, sender: str) -> list[ListedConsent]:
        """Return the register's rows of a person, given in normal form.

        Raises:
            CannotStart: it holds digests of erased people made with another key.
        """
        await self.read(consents_key.require_fit, self._key)
        return await self.read(consents.of_person, self._key, sender)

    async def export_consents(self) -> AsyncIterator[ListedConsent]:
        """Yield the whole register, read in small pages."""
        after, found = await self.read(consents.page, after=("", ""))
        while found:
            for one in found:
                yield one
            after, found = await self.read(consents.page, after=after)

    async def list_conversations(
        self, *, paused: bool = False, limit: int = 50
    ) -> list[ConversationState]:
        """Return the held conversations, then the most recent; or only the paused ones."""
        look = conversations.list_conversations
        return await self.read(look, paused=paused, limit=limit)

    async def show_conversation(self, name: str, *, limit: int = 50) -> ShownConversation:
        """Return one conversation by its number, or that of an event by a prefix of its id.

        Raises:
            NotFound: there is none, or more than one such event.
        """
        found = await self.read(conversations.find, name)
        return await self.read(conversations.show_conversation, found, limit=limit)

    async def show_conversations(self, whose: Whose, *, limit: int = 50) -> list[ShownConversation]:
        """Return the matching conversations.

        Raises:
            NotFound: there is none.
        """
        show_one = conversations.show_conversation
        return [await self.read(show_one, found, limit=limit) for found in await self._meant(whose)]

    async def stats(self) -> Statistics:
        """Return counts, ages and rates."""
        return await self.read(queries.statistics)

    async def missing_agents(self) -> list[MissingAgent]:
        """Return which agents cannot be loaded, where, and why."""
        return await self.read(queries.missing_agents)

    async def last_error_of(self, agent: str) -> str | None:
        """Return the agent's last error among its newest messages."""
        found = await self.search(Filters(agent=agent))
        errors = (one.content.error for one in found.events if one.content)
        return next(filter(None, errors), None)

    async def last_received_at(self) -> datetime | None:
        """Return when the newest delivery came."""
        return await self.read(queries.last_received_at)

    async def server_settings(self, *names: str) -> dict[str, str]:
        """Return settings of the PostgreSQL server; none on SQLite."""
        return await self.read(queries.server_settings, names)

    # ---- changing

    async def replay(
        self,
        prefixes: Sequence[str],
        *,
        decode: Decode,
        dry_run: bool = False,
        once_again: bool = False,
    ) -> list[Changed]:
        """Make entries ready again, and decode rejected deliveries again, by id.

        Raises:
            NotFound: an id is not there, or not unique; nothing was done then.
        """
        results: list[Changed] = []
        about = self._about_replay(dry_run=dry_run, once_again=once_again)
        how = {"dry_run": dry_run, "once_again": once_again}
        for id_, what in [await self.read(queries.find, prefix) for prefix in prefixes]:
            if any(one.id == id_ for one in results):
                continue  # it shares the attempt of one before
            if what == "event":
                results += await self._act(REPLAY, about, replay.replay_events, [id_], **how)
            else:
                results += await self._read_again(id_, decode, about, dry_run=dry_run)
        return results

    async def replay_matching(
        self,
        filters: Filters,
        *,
        decode: Decode,
        dry_run: bool = False,
        once_again: bool = False,
    ) -> list[Changed]:
        """Replay matching entries; never `done` or `erased` ones, and those that may have acted
        only with `once_again`.
        """
        results: list[Changed] = []
        about = self._about_replay(filters, dry_run=dry_run, once_again=once_again)
        how = {"dry_run": dry_run, "once_again": once_again}
        if filters.state == "rejected":
            for one in reversed(await self.list_events(filters, queries.ALL)):
                results += await self._read_again(one.id, decode, about, dry_run=dry_run)
            return results
        for some in in_batches(await self._places(filters, queries.REPLAYABLE), BATCH):
            results += await self._act(REPLAY, about, replay.replay_entries, some, **how)
        return results

    async def _places(self, filters: Filters, states: set[ListedState]) -> list[int]:
        """Return the places of matching entries, ascending, in the given state or one of these;
        never of done, skipped or erased ones.
        """
        given = states if filters.state is None else {filters.state} - NEVER_BY_FILTER
        found = [
            await self.list_events(replace(filters, state=state), queries.ALL)
            for state in sorted(given)
        ]
        return sorted(one.place for some in found for one in some)

    def _about_replay(
        self, filters: Filters | None = None, *, dry_run: bool, once_again: bool
    ) -> Callable[[Iterable[Changed]], About]:
        return partial(actions.of_changed, filters=filters, done=not dry_run, once_again=once_again)

    async def _read_again(
        self,
        id_: str,
        decode: Decode,
        about: Callable[[Iterable[Changed]], About],
        *,
        dry_run: bool,
    ) -> list[Changed]:
        step = partial(
            replay.replay_delivery,
            node=self._node,
            key=self._key,
            gathering_of=self._gathering_of,
            dry_run=dry_run,
        )
        return await self._act(REPLAY, about, step, id_, decode)

    async def discard(self, prefixes: Sequence[str], *, dry_run: bool = False) -> list[Changed]:
        """Discard events; running, done or erased ones are refused.

        Raises:
            NotFound: an id is not there, or not unique; nothing was done then.
        """
        found = [await self.read(queries.find, prefix) for prefix in prefixes]
        if rejected := [id_ for id_, what in found if what == "delivery"]:
            raise NotFound(f"{rejected[0]} was rejected when it came; there is nothing to discard")
        results: list[Changed] = []
        for some in in_batches([id_ for id_, _ in found], BATCH):
            about = partial(actions.of_changed, done=not dry_run)
            results += await self._act(DISCARD, about, replay.discard_events, some, dry_run=dry_run)
        return results

    async def discard_matching(self, filters: Filters, *, dry_run: bool = False) -> list[Changed]:
        """Discard matching unfinished entries, except running ones."""
        results: list[Changed] = []
        about = partial(actions.of_changed, filters=filters, done=not dry_run)
        for some in in_batches(await self._places(filters, queries.DISCARDABLE), BATCH):
            results += await self._act(
                DISCARD, about, replay.discard_entries, some, dry_run=dry_run
            )
        return results

    async def pause(self, whose: Whose, pause_: Pause) -> Sequence[int]:
        """Pause conversations; returns those that were not paused, or for a shorter time.

        Raises:
            NotFound: there is no such conversation.
        """
        found = await self._meant(whose)

        def about(changed: Sequence[int]) -> About:
            return {"conversations": changed, "for_seconds": changed and pause_.seconds}

        what = "conversations pause"
        if whose.sender is not None:
            return await self._act(what, about, pause.pause, found, pause_)
        # A group with all its members, also later ones, on each channel that has it.
        requests = [
            PauseRequest(ChannelName(channel), None, whose.party, pause_)
            for channel in await self.read(pause.channels_of, found)
        ]
        return await self._act(what, about, pause.pause_all, requests)

    async def resume(self, whose: Whose, *, discard: bool = False) -> Resumed:
        """End pauses and guards' holds in conversations; or discard the held entries.

        Raises:
            NotFound: there is no such conversation.
        """
        found = await self._meant(whose)
        what = "conversations resume"
        return await self._act(what, asdict, pause.resume, found, discard=discard)

    async def _meant(self, whose: Whose) -> Sequence[int]:
        found = await self.read(pause.of, whose.channel, whose.sender, whose.party)
        if not found:
            raise NotFound("there is no such conversation", hint="see `conversations list`")
        return found

    async def erase(
        self,
        sender: str,
        *,
        dry_run: bool = False,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Erasure:
        """Delete all data of a sender, given in normal form; waits a while for running attempts.

        Raises:
            WebhookdError: the person opted out, and there is no key to keep the opt-out.
            CannotStart: the digests of erased people were made with another key.
        """
        await self.read(consents_key.require_fit, self._key)
        named = await self.read(consents_key.count, self._key, sender)
        found = await self._find_person(sender)
        if dry_run:
            return found.as_erasure(named)
        deadline = asyncio.get_running_loop().time() + patience_seconds
        events, conversations, rejected = 0, set[int](), set[int]()
        while True:
            conversations.update(found.conversations)
            rejected.update(found.rejected)
            events += await self._erase(sender, found)
            found = await self._find_person(sender)
            if not found.running or asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(PAUSE_SECONDS)
        digested = await self._act(
            ERASE, _counted("consents"), consents_key.erase, self._key, sender
        )
        clean = await self._clean_files(deadline)
        counts = events, len(conversations), len(rejected)
        return Erasure(*counts, running=found.running, consents=digested, files_clean=clean)

    async def _erase(self, sender: str, found: Found) -> int:
        erased, events = 0, _counted("events")
        of_events, of_rejected = erase.erase_events, erase.erase_deliveries
        while count := await self._act(ERASE, events, of_events, sender, found.conversations):
            erased += count
        for some in in_batches(found.rejected, erase.BODIES):
            await self._act(ERASE, _counted("rejected"), of_rejected, sender, some)
        return erased

    async def _find_person(self, sender: str) -> Found:
        rejected: list[int] = []
        after: str | None = ""
        while after is not None:
            after, some = await self.read(erase.find_rejected, sender, after=after)
            rejected += some
        return await self.read(erase.find, sender, rejected)

    async def note_discarded_copy(self, name: str) -> None:
        """Note that a saved copy of a lost journal was discarded."""
        await self.write(actions.note, self._actor, "journal discard", {"file": name})

    async def _clean_files(self, deadline: float) -> bool:
        """Empty the WAL, retrying while a reader uses an older state."""
        with explained():
            while not await self._database.truncate_wal():
                if asyncio.get_running_loop().time() > deadline:
                    return False
                await asyncio.sleep(PAUSE_SECONDS)
        return True


def _counted(what: str) -> Callable[[int], About]:
    """Return what is noted of an operation that counts what it did."""
    return lambda count: {what: count}
