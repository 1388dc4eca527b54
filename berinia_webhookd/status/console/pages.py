"""The read-only pages. Each reads the journal once, by the operations of the commands."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from berinia_webhookd import json_text
from berinia_webhookd.findings import Level
from berinia_webhookd.journal import console, queries
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.journal.rejected_items import why_rejected
from berinia_webhookd.journal.show import Shown, ShownEntry
from berinia_webhookd.model import (
    ChannelName,
    EntryKind,
    EntryState,
    EventId,
    VerifiedDelivery,
)
from berinia_webhookd.status.console import languages
from berinia_webhookd.status.console.refused_requests import refused_requests
from berinia_webhookd.status.console.render import page
from berinia_webhookd.status.console.request import LOGIN
from berinia_webhookd.status.console.search_field import meaning
from berinia_webhookd.status.console.surroundings import Surroundings
from berinia_webhookd.status.console.text import LONGEST
from berinia_webhookd.status.console.traffic import Traffic

ROWS: Final = 50
SEARCH_SECONDS: Final = 2.0  # a search that takes longer shows how far it came
ATTEMPTS: Final = 20  # attempts of an entry, the newest
MESSAGES: Final = 100  # messages of a conversation
STATES: Final = tuple(state.value for state in EntryState)
PERIODS: Final[Mapping[str, timedelta | None]] = {
    "1h": timedelta(hours=1),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "all": None,
}
DEFAULT_PERIOD: Final = "30d"
OWN_PATH: Final = re.compile(r"(?:/[a-z0-9-]+)+|/")
LONGEST_NUMBER: Final = 18
LATEST: Final = 2**62


class Pages:
    """The pages of one console."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._traffic = Traffic()

    async def now(self, request: web.Request) -> web.Response:
        """The overview: one sentence, each agent, each channel."""
        channels = self._around.channels
        names = [str(channel.name) for channel in channels.enabled]
        journal = request[LOGIN].journal
        overview = await journal.read(console.overview, map(str, sorted(channels.agents)))
        traffic = await self._traffic.of(journal, names, self._around.clock())
        findings = [
            one
            for one in await self._around.findings()
            if one.level in {Level.WRONG, Level.WARNING}
        ]
        findings.reverse()  # the worst first
        return await page(
            request, "now.html", overview=overview, traffic=traffic, findings=findings
        )

    async def messages(self, request: web.Request) -> web.Response:
        """The list of messages, filtered by state, words, channel, agent and period."""
        asked = {name: value.strip() for name, value in request.query.items()}
        journal = request[LOGIN].journal
        names = [str(channel.name) for channel in self._around.channels.enabled]
        period = asked.get("period") if asked.get("period") in PERIODS else DEFAULT_PERIOD
        filters = Filters(
            state=asked["state"] if asked.get("state") in STATES else None,  # type: ignore[arg-type]
            channel=asked.get("channel") or None,
            agent=asked.get("agent") or None,
        )
        viewer = request[LOGIN].person.viewer
        channels = self._around.channels.enabled
        meant = await meaning(asked.get("q", ""), filters, journal, channels, by_id_alone=viewer)
        if meant.event is not None:
            raise web.HTTPSeeOther(f"/messages/{meant.event}")
        since = PERIODS[period or DEFAULT_PERIOD]
        wanted = meant.filters
        if since is not None and not wanted.few:
            wanted = replace(wanted, since=self._around.clock() - since)
        start = number_of(asked.get("before"))
        found = await journal.search(wanted, ROWS + 1, before=start, seconds=SEARCH_SECONDS)
        rows = found.events[:ROWS]
        before = rows[-1].event if len(found.events) > ROWS else found.end
        given = {name: asked[name] for name in ("q", "channel", "agent") if asked.get(name)}
        given |= {"period": str(period)} | ({"state": filters.state} if filters.state else {})
        older = None if before is None else urlencode({**given, "before": before})
        return await page(
            request,
            "messages.html",
            rows=rows,
            counts=await journal.read(console.counts),
            states=STATES,
            given=given,
            tabs={state: urlencode({**given, "state": state}) for state in ("", *STATES)},
            older=older,
            periods=tuple(PERIODS),
            channels=names,
            agents=sorted(map(str, self._around.channels.agents)),
            looked_back_to=found.reached_at,
            is_first=not asked.get("before"),
        )

    async def message(self, request: web.Request) -> web.Response:
        """One message: its history from arrival to outcome, its text, its raw request."""
        journal = request[LOGIN].journal
        shown = await journal.show(request.match_info["id"])
        delivery = await journal.read(queries.delivery_of, shown.id)
        conversation, given = None, None
        if shown.rejection is None:
            conversation = (await journal.show_conversation(shown.id, limit=1)).state
            entry = await journal.read(console.entry_of, EventId(shown.id))
            given = entry and self._around.given(entry)
        data = dict(shown.data or {})
        return await page(
            request,
            "message.html",
            shown=shown,
            rejection=None if shown.rejection is None else why_rejected(shown.rejection),
            happened=_happened(shown),
            data=data,
            attachments=data.get("attachments") or (),
            conversation=conversation,
            given=given,
            got=partial(indented, given[1] if given else {}),
            tried=any(entry.attempts for entry in shown.entries if entry.kind == EntryKind.AGENT),
            raw=raw_text(delivery),
            can_replay=_can_replay(shown),
            can_discard=_can_discard(shown),
            may_have_acted=any(entry.may_have_acted for entry in shown.entries),
        )

    async def attachment(self, request: web.Request) -> web.StreamResponse:
        """One attachment, as a download: it is never displayed."""
        login, id_ = request[LOGIN], request.match_info["id"]
        number = number_of(request.match_info["number"])
        delivery = await login.journal.read(queries.delivery_of, id_)
        channel = delivery and self._around.channels.of(ChannelName(delivery.channel))
        if delivery is None or not channel or login.person.viewer:
            raise web.HTTPNotFound
        contents = await asyncio.to_thread(lambda: list(channel.attachment_contents(delivery)))
        if number >= len(contents):
            raise web.HTTPNotFound
        return web.Response(
            body=contents[number],
            content_type="application/octet-stream",
            headers={"Content-Disposition": f'attachment; filename="{id_[:13]}-{number}.bin"'},
        )

    async def conversation(self, request: web.Request) -> web.Response:
        """One conversation: its messages, its next entries, its holds."""
        journal = request[LOGIN].journal
        shown = await journal.show_conversation(request.match_info["id"], limit=MESSAGES)
        sender = shown.state.sender
        consents = await journal.consents_of(sender) if sender else ()
        return await page(
            request,
            "conversation.html",
            conversation=shown.state,
            messages=shown.messages,
            next=shown.next,
            consents=consents,
        )

    async def dead(self, request: web.Request) -> web.Response:
        """Entries that failed for good, grouped by agent, kind and error."""
        found = await request[LOGIN].journal.read(console.dead)
        return await page(request, "dead.html", dead=found)

    async def dead_group(self, request: web.Request) -> web.Response:
        """The confirmation page for replaying a whole group."""
        found = await request[LOGIN].journal.read(console.dead)
        group = found.group(request.query.get("group", ""))
        if group is None:
            raise web.HTTPSeeOther("/dead")
        return await page(
            request,
            "dead_group.html",
            group=group,
            until=found.until,
            would=group.total - group.may_have_acted,
            passed_over=group.may_have_acted,
        )

    async def refused(self, request: web.Request) -> web.Response:
        """Deliveries that were rejected, and requests whose proof failed."""
        journal = request[LOGIN].journal
        found = await journal.list_events(Filters(state="rejected"), ROWS)
        signatures = await asyncio.to_thread(refused_requests, self._around.log, ROWS)
        return await page(request, "refused.html", rows=found, signatures=signatures)

    async def live(self, request: web.Request) -> web.Response:
        """The page of the live log."""
        return await page(request, "live.html")

    async def actions(self, request: web.Request) -> web.Response:
        """The log of actions."""
        before = number_of(request.query.get("before"))
        found = await request[LOGIN].journal.read(
            console.recent_actions, before=before, limit=ROWS + 1
        )
        older = found[ROWS - 1].number if len(found) > ROWS else None
        about = {one.number: json_text.encode(dict(one.about)).decode() for one in found}
        return await page(request, "actions.html", rows=found[:ROWS], about=about, older=older)

    async def login(self, request: web.Request) -> web.Response:
        """The page whose button exchanges a link for a login."""
        return await page(request, "login.html", link=_link(request))

    async def language(self, request: web.Request) -> web.Response:
        """Store the chosen language in a cookie."""
        code = request.query.get("to", "")
        back = request.query.get("back", "/")
        if not OWN_PATH.fullmatch(back):
            back = "/"
        if back == "/login" and (link := _link(request)):
            back += f"?{urlencode({'link': link})}"
        response = web.Response(status=303, headers={"Location": back})
        if code in languages.languages():
            response.set_cookie(languages.COOKIE, code, path="/", httponly=True, samesite="Strict")
        return response


def _link(request: web.Request) -> str:
    """Return the secret of a login link from the URL, unchecked."""
    return request.query.get("link", "")[:100]


def number_of(text: str | None) -> int:
    """Return a number from a URL; anything else stands for the latest."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > LONGEST_NUMBER:
        return LATEST
    return int(text)


Happened = tuple[datetime, str, Any, ShownEntry | None]  # time, sort, object, entry


def _happened(shown: Shown) -> list[Happened]:
    """Return the history of a message, in order: attempts, ends, actions of people, the reply."""
    found: list[Happened] = [(one.done_at, "action", one, None) for one in shown.actions]
    if shown.reply is not None:
        found.append((shown.reply.decided_at, "reply", shown.reply, None))
    for entry in shown.entries:
        tries = entry.attempts[-ATTEMPTS:]
        found += [(one.started_at, "attempt", one, entry) for one in tries]
        if entry.finished_at is not None:
            found.append((entry.finished_at, "end", entry, entry))
    return sorted(found, key=lambda one: one[0])


def _can_replay(shown: Shown) -> bool:
    return shown.state in {
        EntryState.DEAD,
        EntryState.DISCARDED,
        EntryState.DONE,
        EntryState.SKIPPED,
        EntryState.WAITING,
    }


def _can_discard(shown: Shown) -> bool:
    return shown.state in {EntryState.DEAD, EntryState.READY, EntryState.WAITING}


def indented(data: Mapping[str, Any]) -> str:
    """Return an agent's payload as indented JSON."""
    return json.dumps(_shortened(data), indent=2, ensure_ascii=False, default=str)


def _shortened(value: Any) -> Any:
    """Return a value with its texts cut to the length that a page shows."""
    if isinstance(value, Mapping):
        return {str(name)[:LONGEST]: _shortened(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(one) for one in value]
    return value[:LONGEST] if isinstance(value, str) else value


def raw_text(delivery: VerifiedDelivery | None) -> str | None:
    """Return a request as received, without secrets; None once it is erased."""
    if delivery is None:
        return None
    head = [delivery.target, f"Content-Type: {delivery.content_type_header}"]
    head += [f"{name}: {value}" for name, value in delivery.headers.items()]
    return "\n".join([*head, "", delivery.body[:LONGEST].decode("utf-8", "replace")])
