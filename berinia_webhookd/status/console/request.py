"""What the console knows of a request, beside aiohttp's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from berinia_webhookd.journal.console import ConsoleJournal
from berinia_webhookd.journal.sessions import Person
from berinia_webhookd.status.console.languages import Language


@dataclass(frozen=True, slots=True)
class Login:
    """Who asks, and what proves that a form is this login's own."""

    person: Person
    form_token: str
    journal: ConsoleJournal


LANGUAGE: Final[web.RequestKey[Language]] = web.RequestKey("language", Language)
LOGIN: Final[web.RequestKey[Login]] = web.RequestKey("login", Login)
