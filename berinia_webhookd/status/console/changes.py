"""The changes on the console: the operations of the commands, requested by forms. Each ends on a
page that shows its result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import structlog
from aiohttp import web

from berinia_webhookd.channels.addresses_of_people import normal_party
from berinia_webhookd.journal.console import dead
from berinia_webhookd.journal.pause import Whose
from berinia_webhookd.journal.replay import Changed
from berinia_webhookd.model import ChannelName, Pause
from berinia_webhookd.status.console.access import Refused, form_of
from berinia_webhookd.status.console.pages import number_of
from berinia_webhookd.status.console.render import page
from berinia_webhookd.status.console.request import LOGIN
from berinia_webhookd.status.console.surroundings import Surroundings

logger = structlog.get_logger()

HOURS: Final = {"1": 3600.0, "12": 43_200.0, "24": 86_400.0, "72": 259_200.0, "": None}
LONGEST_REASON: Final = 500


class Changes:
    """The changes of one console."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    async def replay(self, request: web.Request) -> web.Response:
        """Replay one message."""
        form = await form_of(request)
        again = form.get("once_again") == "yes"
        id_ = request.match_info["id"]
        changed = await request[LOGIN].journal.replay(
            [id_], decode=self._around.decode, once_again=again
        )
        return await self._told(request, "entry.replayed", changed, back=f"/messages/{id_}")

    async def discard(self, request: web.Request) -> web.Response:
        """Give one message up."""
        id_ = request.match_info["id"]
        changed = await request[LOGIN].journal.discard([id_])
        return await self._told(request, "entry.discarded", changed, back=f"/messages/{id_}")

    async def read_again(self, request: web.Request) -> web.Response:
        """Read a rejected delivery again."""
        changed = await request[LOGIN].journal.replay(
            [request.match_info["id"]], decode=self._around.decode
        )
        return await self._told(request, "entry.replayed", changed, back="/refused")

    async def replay_group(self, request: web.Request) -> web.Response:
        """Replay the dead entries of one group, as far as the previous page showed them."""
        form = await form_of(request)
        journal = request[LOGIN].journal
        found = await journal.read(dead, number_of(str(form.get("until", ""))))
        group = found.group(str(form.get("group", "")))
        places = await journal.places_of(group, found.until) if group else []
        if form.get("only") == "one":
            places = places[-1:]
        changed = await journal.replay_places(places)
        return await self._told(request, "entry.replayed", changed, back="/dead")

    async def _told(
        self, request: web.Request, event: str, changed: Sequence[Changed], *, back: str
    ) -> web.Response:
        """Log the result, and show it on a page."""
        done = [one for one in changed if not one.refused]
        for one in done:
            about = {"event_id": one.event_id or one.id, "agent": one.agent, "was": one.was}
            logger.info(event, **about, by=request[LOGIN].person.name)
            if one.consent is not None:
                logger.info("consent.changed", event_id=one.event_id, consent=one.consent)
        refusals = Counter(str(one.refused) for one in changed if one.refused)
        if len(changed) == len(done) == 1 and back != "/dead":
            raise web.HTTPSeeOther(f"/messages/{done[0].event_id or done[0].id}")
        return await page(
            request,
            "done.html",
            event=event,
            done=len(done),
            all=len(changed),
            refusals=refusals,
            back=back,
        )

    async def _whose(self, request: web.Request) -> tuple[str, Whose]:
        """Return the conversation's page, and its parties."""
        id_ = request.match_info["id"]
        state = (await request[LOGIN].journal.show_conversation(id_, limit=1)).state
        if state.sender is None:
            raise Refused(409, "This conversation is erased.")
        return f"/conversations/{state.id}", Whose(state.sender, state.channel, state.party)

    async def pause(self, request: web.Request) -> web.Response:
        """Pause a conversation: a person takes over from the agent."""
        back, whose = await self._whose(request)
        form = await form_of(request)
        hours = str(form.get("hours", ""))
        if hours not in HOURS:
            raise Refused(400, "This request cannot be read.")
        reason = str(form.get("reason", "")).strip()[:LONGEST_REASON] or None
        word = Pause(request[LOGIN].person.name, reason, HOURS[hours])
        for id_ in await request[LOGIN].journal.pause(whose, word):
            logger.info(
                "conversation.paused", conversation=id_, by=word.by, for_seconds=word.seconds
            )
        raise web.HTTPSeeOther(back)

    async def resume(self, request: web.Request) -> web.Response:
        """Resume a conversation, or discard its held entries."""
        back, whose = await self._whose(request)
        form = await form_of(request)
        discard = form.get("discard") == "yes"
        resumed = await request[LOGIN].journal.resume(whose, discard=discard)
        for id_ in resumed.conversations:
            name = request[LOGIN].person.name
            logger.info("conversation.resumed", conversation=id_, by=name)
        raise web.HTTPSeeOther(back)

    async def erase(self, request: web.Request) -> web.Response:
        """Delete a person's data, after the address was typed as confirmation."""
        back, whose = await self._whose(request)
        typed = str((await form_of(request)).get("sender", ""))
        sender, channel = (
            str(whose.sender),
            self._around.channels.of(ChannelName(str(whose.channel))),
        )
        country = None if channel is None else channel.country
        if sender not in {normal_party(typed), normal_party(typed, country)}:
            raise Refused(400, "What was typed is not the address of this person.")
        erasure = await request[LOGIN].journal.erase(sender)
        logger.info("person.erased", events=erasure.events, conversations=erasure.conversations)
        return await page(request, "erased.html", erasure=erasure, back=back)
