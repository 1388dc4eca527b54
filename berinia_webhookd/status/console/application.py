"""The console's application: its middlewares and routes, on a socket of its own. It reads through
its own journal connections, so that no page delays the writer or an answer to a provider.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import resources
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from berinia_webhookd.errors import JournalUnavailable, NotFound, WebhookdError
from berinia_webhookd.journal.console import ConsoleJournal
from berinia_webhookd.status.console import languages, render
from berinia_webhookd.status.console.access import Access, Refused
from berinia_webhookd.status.console.changes import Changes
from berinia_webhookd.status.console.live import Live
from berinia_webhookd.status.console.pages import Pages
from berinia_webhookd.status.console.request import LANGUAGE
from berinia_webhookd.status.console.surroundings import Surroundings

logger = structlog.get_logger()

MOST_BODY_BYTES: Final = 64 * 1024
READERS: Final = 4  # pages that read the journal at once
KEPT_OPEN: Final = 2  # open journals on PostgreSQL, kept for the next pages
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "berinia-webhookd",
}
STATUS: Final[Mapping[type[WebhookdError], int]] = {NotFound: 404, JournalUnavailable: 503}
STATIC: Final = {
    "console.css": "text/css",
    "console.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


class Console:
    """The console of one process."""

    def __init__(self, url: str, around: Surroundings) -> None:
        self.url = url
        self._readers = asyncio.Semaphore(READERS)
        self._kept: list[tuple[ConsoleJournal, AsyncExitStack]] = []
        self._stopped = False
        self._open_journal = around.open_journal
        access = Access(url, self._opened)
        pages = Pages(around)
        changes = Changes(around)
        self._live = Live(around.log, access.still)
        self.application = web.Application(
            middlewares=[protected, spoken, explained, access.middleware],
            client_max_size=MOST_BODY_BYTES,
        )
        self.application.add_routes(
            [
                web.get("/", pages.now),
                web.get("/messages", pages.messages),
                web.get("/messages/{id}", pages.message),
                web.get("/messages/{id}/attachments/{number}", pages.attachment),
                web.post("/messages/{id}/replay", changes.replay),
                web.post("/messages/{id}/discard", changes.discard),
                web.get("/conversations/{id}", pages.conversation),
                web.post("/conversations/{id}/pause", changes.pause),
                web.post("/conversations/{id}/resume", changes.resume),
                web.post("/conversations/{id}/erase", changes.erase),
                web.get("/dead", pages.dead),
                web.get("/dead/all", pages.dead_group),
                web.post("/dead/all", changes.replay_group),
                web.get("/refused", pages.refused),
                web.post("/refused/{id}/read", changes.read_again),
                web.get("/live", pages.live),
                web.get("/live/lines", self._live.handle, allow_head=False),
                web.get("/actions", pages.actions),
                web.get("/login", pages.login),
                web.post("/login", access.log_in),
                web.post("/logout", access.log_out),
                web.get("/language", pages.language),
                web.get("/static/{name}", static),
            ]
        )

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[ConsoleJournal]:
        """Return an open journal; on PostgreSQL one that is reused, as connecting takes long."""
        async with self._readers:
            journal, opened = self._kept.pop() if self._kept else await self._open()
            try:
                yield journal
            finally:
                if journal.can_stay_open and len(self._kept) < KEPT_OPEN and not self._stopped:
                    self._kept.append((journal, opened))
                else:
                    await opened.aclose()

    async def _open(self) -> tuple[ConsoleJournal, AsyncExitStack]:
        opened = AsyncExitStack()
        return await opened.enter_async_context(self._open_journal()), opened

    def stop(self) -> None:
        """End long-lasting requests; call it before its server stops."""
        self._live.stop()

    async def close(self) -> None:
        """Close the journal; call it when its server has stopped."""
        self._stopped = True
        while self._kept:
            _, opened = self._kept.pop()
            await opened.aclose()


@web.middleware
async def protected(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Add the security headers, which allow a page no content from elsewhere."""
    try:
        response = await handler(request)
    except web.HTTPException as error:  # a redirect
        error.headers.update(HEADERS)
        raise
    if not response.prepared:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
    return response


@web.middleware
async def spoken(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Choose the language of a request."""
    accepts = request.headers.get("Accept-Language", "")[:200]
    request[LANGUAGE] = languages.chosen(request.cookies.get(languages.COOKIE), accepts)
    return await handler(request)


@web.middleware
async def explained(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn errors into pages."""
    try:
        return await handler(request)
    except Refused as refused:
        status, why = refused.status, refused.why
    except web.HTTPException as error:
        if error.status < web.HTTPBadRequest.status_code:
            raise
        status, why = error.status, "This request cannot be read."
        if status == web.HTTPNotFound.status_code:
            why = "There is nothing here."
    except ConnectionError:
        raise  # the client has gone
    except WebhookdError as error:
        status = STATUS.get(type(error), web.HTTPConflict.status_code)
        return await render.page(request, "error.html", status=status, error=error)
    except Exception as error:
        logger.exception("console.failed", path=request.path, error=type(error).__name__)
        status, why = 500, "A mistake of the console itself; the log says more."
    return await render.page(request, "refusal.html", status=status, why=why)


async def static(request: web.Request) -> web.Response:
    """Answer with one of the three files that pages need."""
    name = request.match_info["name"]
    if name not in STATIC:
        raise web.HTTPNotFound
    content = resources.files(__package__).joinpath("static", name).read_bytes()
    return web.Response(body=content, content_type=STATIC[name], charset="utf-8")
