"""Renders templates: all values are escaped, and template names never come from a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, Final

import jinja2
from aiohttp import web
from markupsafe import Markup, escape

from berinia_webhookd.logs.personal_data import HIDDEN, scrub
from berinia_webhookd.status.console import text
from berinia_webhookd.status.console.languages import Language
from berinia_webhookd.status.console.request import LANGUAGE, LOGIN
from berinia_webhookd.status.durations import duration

HTML: Final = "text/html"
Show = Callable[..., Markup]
_MAKERS: Final = ThreadPoolExecutor(2, "console")  # a pool of their own: pages delay no other work


@cache
def environment() -> jinja2.Environment:
    """Return the template environment, created once."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("berinia_webhookd.status.console"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        marked=text.marked,
        one_line=text.one_line,
        hides=text.hides,
        instant=instant,
        lasts=duration,
        share=share,
    )
    return made


async def page(
    request: web.Request, template: str, *, status: int = 200, **values: Any
) -> web.Response:
    """Return a page in the language and for the person of a request. It is rendered in a thread,
    because a long text would delay answers to providers.
    """
    language = request[LANGUAGE]
    login = request.get(LOGIN)
    viewer = login is None or login.person.viewer
    made = partial(
        environment().get_template(template).render,
        t=language,
        language=language.code,
        person=login.person if login else None,
        form_token=login.form_token if login else "",
        path=request.path,
        personal=_hidden if viewer else text.marked,
        personal_line=_hidden if viewer else text.one_line,
        said=_scrubbed if viewer else text.marked,
        said_line=_scrubbed_line if viewer else text.one_line,
        may_change=not viewer,
        told=partial(_told, language),
        **values,
    )
    rendered = await asyncio.get_running_loop().run_in_executor(_MAKERS, made)
    return web.Response(text=rendered, status=status, content_type=HTML, charset="utf-8")


def _told(language: Language, value: object, show: Show, *longest: int) -> Markup:
    """Return a sentence of the daemon in the reader's language, or marked as English."""
    sentence = language.told(str(value))
    if sentence is not None:
        return show(sentence, *longest)
    return Markup('<span lang="en">{}</span>').format(show(value, *longest))


def _hidden(value: object, longest: int = 0) -> Markup:
    """Return the placeholder for values hidden from a viewer."""
    del longest
    return escape(HIDDEN if value not in (None, "") else "")


def _scrubbed(value: object, longest: int = text.LONGEST) -> Markup:
    """Return a program's message with personal data masked."""
    return text.marked(scrub(str(value)[:longest]), longest)


def _scrubbed_line(value: object, longest: int = 160) -> Markup:
    return text.one_line(scrub(str(value)[: 4 * longest]), longest)


def instant(at: datetime | None) -> Markup:
    """Return an instant in UTC; a dash for None."""
    if at is None:
        return Markup("–")
    moment = at.astimezone(UTC)
    shown = f"{moment:%Y-%m-%d %H:%M:%S}"
    return Markup('<time datetime="{}">{}</time>').format(f"{moment:%Y-%m-%dT%H:%M:%SZ}", shown)


def share(part: int, counts: Mapping[str, int] | tuple[int, ...]) -> int:
    """Return the height of a bar relative to the others, from 0 to 10."""
    most = max(counts if isinstance(counts, tuple) else counts.values(), default=0)
    return 0 if not most or not part else max(1, round(10 * part / most))
