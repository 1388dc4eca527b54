"""The pages that show something. Each reads the journal once, by the operations of the commands."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from berinia_webhookd import json_text
from berinia_webhookd.findings import Level
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.journal.rejected_items import why_rejected
from berinia_webhookd.journal.show import Shown
from berinia_webhookd.model import ChannelName, EntryState, EventId, VerifiedDelivery
from berinia_webhookd.status.console import languages
from berinia_webhookd.status.console.refused_requests import refused_requests
from berinia_webhookd.status.console.render import page
from berinia_webhookd.status.console.request import LOGIN
from berinia_webhookd.status.console.search_field import meaning
from berinia_webhookd.status.console.surroundings import Surroundings
from berinia_webhookd.status.console.text import LONGEST

ROWS: Final = 50
MESSAGES: Final = 100  # of a conversation
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

    async def now(self, request: web.Request) -> web.Response:
        """How things stand: one sentence, each agent, each channel."""
        channels = self._around.channels
        names = [str(channel.name) for channel in channels.enabled]
        journal = request[LOGIN].journal
        overview = await journal.overview(names, map(str, sorted(channels.agents)))
        findings = [
            one
            for one in await self._around.findings()
            if one.level in {Level.WRONG, Level.WARNING}
        ]
        findings.reverse()  # the worst first
        return await page(request, "now.html", overview=overview, findings=findings)

    async def messages(self, request: web.Request) -> web.Response:
        """Messages in a list, by state, words, channel, agent and period."""
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
        meant = await meaning(asked.get("q", ""), filters, journal, names, by_id_alone=viewer)
        if meant.event is not None:
            raise web.HTTPSeeOther(f"/messages/{meant.event}")
        since = PERIODS[period or DEFAULT_PERIOD]
        wanted = meant.filters
        if since is not None and not wanted.few:
            wanted = replace(wanted, since=self._around.clock() - since)
        found = await journal.search(wanted, ROWS + 1, before=number_of(asked.get("before")))
        rows, more = found.events[:ROWS], len(found.events) > ROWS
        given = {
            name: asked[name] for name in ("q", "state", "channel", "agent") if asked.get(name)
        }
        given["period"] = str(period)
        older = urlencode({**given, "before": rows[-1].event}) if more else None
        return await page(
            request,
            "messages.html",
            rows=rows,
            counts=await journal.counts(),
            states=STATES,
            given=given,
            tabs={state: urlencode({**given, "state": state}) for state in ("", *STATES)},
            older=older,
            periods=tuple(PERIODS),
            channels=names,
            agents=sorted(map(str, self._around.channels.agents)),
            looked_back_to=found.last.received_at if found.last else None,
            is_first=not asked.get("before"),
        )

    async def message(self, request: web.Request) -> web.Response:
        """One message: its way from arrival to outcome, its text, its raw request."""
        journal = request[LOGIN].journal
        shown = await journal.show(request.match_info["id"])
        delivery = await journal.delivery(shown.id, rejected=shown.rejection is not None)
        conversation = None
        if shown.rejection is None:
            conversation = (await journal.show_conversation(shown.id, limit=1)).state
        data = dict(shown.data or {})
        return await page(
            request,
            "message.html",
            shown=shown,
            rejection=None if shown.rejection is None else why_rejected(shown.rejection),
            data=data,
            attachments=data.get("attachments") or (),
            conversation=conversation,
            got=partial(indented, data),
            raw=raw_text(delivery),
            can_replay=_can_replay(shown),
            can_discard=_can_discard(shown),
            may_have_acted=any(entry.may_have_acted for entry in shown.entries),
        )

    async def attachment(self, request: web.Request) -> web.StreamResponse:
        """One attachment, to be saved: it is never shown."""
        login, id_ = request[LOGIN], request.match_info["id"]
        number = number_of(request.match_info["number"])
        delivery = await login.journal.delivery(str(EventId(id_)), rejected=False)
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
        """What was said with one person, what is next, what holds it."""
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
        """What failed for good, grouped by agent, kind and error."""
        found = await request[LOGIN].journal.dead()
        return await page(request, "dead.html", dead=found)

    async def dead_group(self, request: web.Request) -> web.Response:
        """What replaying a whole group would do, before it is done."""
        journal = request[LOGIN].journal
        found = await journal.dead()
        group = found.group(request.query.get("group", ""))
        if group is None:
            raise web.HTTPSeeOther("/dead")
        foreseen = await journal.replay_places(group.places, dry_run=True)
        return await page(
            request,
            "dead_group.html",
            group=group,
            last=found.last,
            would=sum(one.refused is None for one in foreseen),
            passed_over=sum(one.passed_over for one in foreseen),
        )

    async def refused(self, request: web.Request) -> web.Response:
        """Deliveries that were rejected, and requests whose proof failed."""
        journal = request[LOGIN].journal
        found = await journal.list_events(Filters(state="rejected"), ROWS)
        signatures = await asyncio.to_thread(refused_requests, self._around.log, ROWS)
        return await page(request, "refused.html", rows=found, signatures=signatures)

    async def live(self, request: web.Request) -> web.Response:
        """The page on which the log is followed."""
        return await page(request, "live.html")

    async def actions(self, request: web.Request) -> web.Response:
        """Who did what."""
        before = number_of(request.query.get("before"))
        found = await request[LOGIN].journal.actions(before=before, limit=ROWS + 1)
        older = found[ROWS - 1].number if len(found) > ROWS else None
        told = {one.number: json_text.encode(dict(one.about)).decode() for one in found}
        return await page(request, "actions.html", rows=found[:ROWS], told=told, older=older)

    async def login(self, request: web.Request) -> web.Response:
        """The page whose button takes a link for a login."""
        return await page(request, "login.html", link=request.query.get("link", "")[:100])

    async def language(self, request: web.Request) -> web.Response:
        """Remember a language."""
        code = request.query.get("to", "")
        back = request.query.get("back", "/")
        if not OWN_PATH.fullmatch(back):
            back = "/"
        response = web.Response(status=303, headers={"Location": back})
        if code in languages.languages():
            response.set_cookie(languages.COOKIE, code, path="/", httponly=True, samesite="Strict")
        return response


def number_of(text: str | None) -> int:
    """Return a number that stands in a URL; what is none is the latest."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > LONGEST_NUMBER:
        return LATEST
    return int(text)


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
    """Return what an agent gets, as JSON that people can read."""
    return json.dumps(_shortened(data), indent=2, ensure_ascii=False, default=str)


def _shortened(value: Any) -> Any:
    """A value whose texts are no longer than a page shows."""
    if isinstance(value, Mapping):
        return {str(name)[:LONGEST]: _shortened(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(one) for one in value]
    return value[:LONGEST] if isinstance(value, str) else value


def raw_text(delivery: VerifiedDelivery | None) -> str | None:
    """Return a request as it came, without secrets; None once it is erased."""
    if delivery is None:
        return None
    head = [delivery.target, f"Content-Type: {delivery.content_type_header}"]
    head += [f"{name}: {value}" for name, value in delivery.headers.items()]
    return "\n".join([*head, "", delivery.body[:LONGEST].decode("utf-8", "replace")])
