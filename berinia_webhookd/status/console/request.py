"""The console's own data of a request, stored by keys in aiohttp's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from berinia_webhookd.journal.console import ConsoleJournal
from berinia_webhookd.journal.sessions import Person
from berinia_webhookd.status.console.languages import Language


@dataclass(frozen=True, slots=True)
class Login:
    """The person of a request, and the form token of the login."""

    person: Person
    form_token: str
    journal: ConsoleJournal


LANGUAGE: Final[web.RequestKey[Language]] = web.RequestKey("language", Language)
LOGIN: Final[web.RequestKey[Login]] = web.RequestKey("login", Login)
