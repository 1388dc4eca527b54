"""Access to the console: the check of its address, logins by single-use links, and the CSRF
protection of changes.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from aiolimiter import AsyncLimiter
from multidict import MultiDictProxy

from berinia_webhookd.journal import sessions
from berinia_webhookd.journal.actions import Actor
from berinia_webhookd.journal.console import ConsoleJournal
from berinia_webhookd.journal.sessions import LOGIN_SECONDS, Person
from berinia_webhookd.status.console.address import host_of, is_secure
from berinia_webhookd.status.console.request import LOGIN, Login
from berinia_webhookd.status.console.surroundings import OpenJournal

logger = structlog.get_logger()

OPEN_PATHS: Final = ("/login", "/static/", "/language")  # pages that need no login
LASTING: Final = frozenset({"/live/lines"})  # these keep no journal open
FORM_TOKEN: Final = "form_token"  # noqa: S105 - the field's name
LONGEST_SECRET: Final = 100
FAILURES: Final = 10  # of one caller, within this time
FAILURE_SECONDS: Final = 60.0
CALLERS: Final = 1024
FORM_SECONDS: Final = 10.0
WAY: Final = "console"


class Refused(Exception):
    """The console refuses a request; `why` is an English sentence of `french.toml`."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


@dataclass(slots=True)
class Failures:
    """Counts failed logins by caller, in token buckets."""

    buckets: OrderedDict[str, AsyncLimiter]

    async def are_few(self, caller: str) -> bool:
        """Count one more, and return whether the caller is within its limit; the oldest callers are
        dropped if there are too many.
        """
        bucket = self.buckets.setdefault(caller, AsyncLimiter(FAILURES, FAILURE_SECONDS))
        self.buckets.move_to_end(caller)
        while len(self.buckets) > CALLERS:
            self.buckets.popitem(last=False)
        few = bucket.has_capacity()
        if few:
            await bucket.acquire()
        return few


class Access:
    """The middleware that checks logins."""

    def __init__(self, url: str, open_journal: OpenJournal) -> None:
        self._url = url
        self._host = host_of(url)
        self._secure = is_secure(url)
        self._cookie = "__Host-berinia_console" if self._secure else "berinia_console"
        self._open_journal = open_journal
        self._failures = Failures(OrderedDict())

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the request's host against the console's address, then its login."""
        if request.headers.get("Host", "").lower() != self._host:
            raise Refused(421, "This is not the console's address.")
        if request.method not in {"GET", "HEAD", "POST"}:
            raise Refused(405, "This method is not known here.")
        if request.method == "POST":
            self._require_own_page(request)
            await form_of(request)
        if request.path.startswith(OPEN_PATHS):
            return await handler(request)
        async with self._open_journal() as journal:
            login = await self._login(request, journal)
            if login is None:
                raise Refused(401, "You are not logged in.")
            request[LOGIN] = login
            if request.method == "POST":
                await self._require_token(request, login)
            if request.path not in LASTING:
                return await handler(request)
        return await handler(request)

    async def _login(self, request: web.Request, journal: ConsoleJournal) -> Login | None:
        secret = request.cookies.get(self._cookie, "")
        if not 0 < len(secret) <= LONGEST_SECRET:
            return None
        person = await journal.read(sessions.person_of, secret)
        if person is None:
            return None
        actor = Actor(person.name, WAY)
        return Login(person, form_token_of(secret), journal.by(actor))

    def _require_own_page(self, request: web.Request) -> None:
        """Accept a change only if the browser's headers say that a page of the console sent it."""
        site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
        said = [site in (None, "same-origin"), origin in (None, self._url)]
        if not all(said) or site is origin is None:
            raise Refused(403, "This change was not asked for on a page of the console.")
        if request.content_type != "application/x-www-form-urlencoded":
            raise Refused(415, "This request cannot be read.")

    async def _require_token(self, request: web.Request, login: Login) -> None:
        form = await form_of(request)
        given = form.get(FORM_TOKEN)
        if not isinstance(given, str) or not hmac.compare_digest(
            given.encode("utf-8", "replace"), login.form_token.encode()
        ):
            raise Refused(403, "This change was not asked for on a page of the console.")
        if login.person.viewer and request.path != "/logout":
            raise Refused(403, "You may look, and change nothing.")

    async def still(self, request: web.Request) -> bool:
        """Whether the login of a long-lasting request is still valid."""
        async with self._open_journal() as journal:
            return await self._login(request, journal) is not None

    async def log_in(self, request: web.Request) -> web.Response:
        """Exchange the link for a login."""
        caller = request.remote or ""
        form = await form_of(request)
        link = form.get("link")
        secret = secrets.token_urlsafe(32)
        person: Person | None = None
        if isinstance(link, str) and 0 < len(link) <= LONGEST_SECRET:
            async with self._open_journal() as journal:
                person = await journal.log_in(link, secret)
        if person is None:
            if not await self._failures.are_few(caller):
                raise Refused(429, "Too many logins failed. Wait a minute.")
            reason = "the link is unknown, was used already, or is older than five minutes"
            logger.warning("console.login_refused", client=caller, reason=reason)
            raise Refused(403, "This link was used already, or it is older than five minutes.")
        logger.info("console.login", name=person.name, viewer=person.viewer, client=caller)
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(
            self._cookie,
            secret,
            path="/",
            max_age=LOGIN_SECONDS,
            httponly=True,
            samesite="Strict",
            secure=self._secure,
        )
        return response

    async def log_out(self, request: web.Request) -> web.Response:
        """End the login."""
        await request[LOGIN].journal.write(sessions.log_out, request.cookies[self._cookie])
        response = web.Response(status=303, headers={"Location": "/login"})
        response.del_cookie(self._cookie, path="/", secure=self._secure)
        return response


async def form_of(request: web.Request) -> MultiDictProxy[Any]:
    """Return the fields of a form, which must arrive within the time limit."""
    try:
        async with asyncio.timeout(FORM_SECONDS):
            return await request.post()
    except TimeoutError:
        raise Refused(408, "It took too long to arrive.") from None


def form_token_of(secret: str) -> str:
    """Return the form token of a login; the cookie cannot be derived from it."""
    return hmac.new(secret.encode(), b"console form", hashlib.sha256).hexdigest()
