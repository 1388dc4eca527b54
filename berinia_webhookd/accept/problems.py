"""Middleware, and the one table from errors to answers, as problem documents (RFC 9457).

It refuses to say more than the table and the error's own message for the caller: no traceback, no
word on why a signature failed, nothing about the journal's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from berinia_webhookd.accept.body import is_end_certain
from berinia_webhookd.accept.request_context import CONTEXT
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.errors import (
    AccountRefused,
    AddressRefused,
    BodyTooLarge,
    BodyTooSlow,
    ChannelNotConfigured,
    DeliveryRejected,
    FieldsMoved,
    JournalUnavailable,
    MalformedDelivery,
    MediaTypeUnsupported,
    MethodNotAllowed,
    Overloaded,
    RateLimited,
    SignatureInvalid,
    Unauthorized,
    UnknownPath,
)

_log = structlog.get_logger()

CONTENT_TYPE: Final = "application/problem+json"
LATER: Final = (408, 429, 503)  # what says "not now", not "never"
QUOTA_EXCEEDED: Final = "https://iana.org/assignments/http-problem-types#quota-exceeded"


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind of error is answered. Without a type of its own it is titled by its status."""

    status: int
    detail: str | None = None  # None: the error's own message, written for the caller
    headers: Mapping[str, str] | None = None
    type: str = "about:blank"
    title: str | None = None


def _later(seconds: int) -> Mapping[str, str]:
    return {"Retry-After": str(seconds)}


TABLE: Final[Mapping[type[Exception], Row]] = {
    MalformedDelivery: Row(400),
    FieldsMoved: Row(403),
    Unauthorized: Row(
        401, headers={"WWW-Authenticate": 'Basic realm="berinia-webhookd", charset="UTF-8"'}
    ),
    SignatureInvalid: Row(403, detail="The request could not be verified."),
    AddressRefused: Row(403),
    AccountRefused: Row(403),
    UnknownPath: Row(404),
    MethodNotAllowed: Row(405),
    BodyTooSlow: Row(408),
    BodyTooLarge: Row(413),
    MediaTypeUnsupported: Row(415),
    RateLimited: Row(
        429,
        type=QUOTA_EXCEEDED,
        title="Request cannot be satisfied as assigned quota has been exceeded",
    ),
    ChannelNotConfigured: Row(503, headers=_later(60)),
    Overloaded: Row(503, headers=_later(10)),
    JournalUnavailable: Row(
        503, detail="The message cannot be stored right now.", headers=_later(10)
    ),
}
_BUG: Final = Row(500, detail="The request could not be served.")
_REFUSED: Final = Row(400)  # a DeliveryRejected that nobody gave a row


def problem(error: Exception, request_id: str, channel: Channel | None = None) -> web.Response:
    """Return the answer to an error; to one that is not in the table, a 500 that says nothing. The
    channel says which status makes its provider try again, or stop.
    """
    if isinstance(error, web.HTTPException):
        return _document(Row(error.status, detail=error.reason), {}, request_id, _allow(error))
    row = TABLE.get(type(error)) or _inherited(error)
    if channel is not None:
        row = _as_said_to(channel, row, error)
    members: dict[str, object] = {"detail": row.detail or str(error)}
    headers = dict(row.headers or ())
    if isinstance(error, MalformedDelivery):
        members["missing"], members["invalid"] = error.missing, error.invalid
    elif isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.allowed)
    elif isinstance(error, RateLimited):
        members["violated-policies"] = [error.policy]
        headers |= _rate_limit_headers(error)
    return _document(row, members, request_id, headers)


def document(status: int, members: Mapping[str, object], request_id: str) -> bytes:
    """Return the body of a problem that is titled by its status."""
    return _encoded(Row(status), members, request_id)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what was raised further in into an answer."""
    context = request[CONTEXT]
    endpoint = context.endpoint
    try:
        return await handler(request)
    except (DeliveryRejected, JournalUnavailable, web.HTTPException) as error:
        response = problem(error, context.request_id, endpoint.channel)
    except Exception as error:  # noqa: BLE001 the outermost boundary: a bug of ours
        _log.exception("request.failed", request_id=context.request_id, channel=endpoint.label)
        response = problem(error, context.request_id, endpoint.channel)
    if not request.content.is_eof() or not is_end_certain(request):
        # The rest of its body is not wanted, or may be taken for another request.
        response.force_close()
    return response


def _as_said_to(channel: Channel, row: Row, error: Exception) -> Row:
    if isinstance(error, SignatureInvalid | AddressRefused):
        return replace(row, status=channel.unproven_status)
    if row.status in LATER and channel.later_status != HTTPStatus.SERVICE_UNAVAILABLE:
        return replace(row, status=channel.later_status)
    return row


def _inherited(error: Exception) -> Row:
    for kind in type(error).__mro__:
        if issubclass(kind, Exception) and kind in TABLE:
            return TABLE[kind]
    return _REFUSED if isinstance(error, DeliveryRejected) else _BUG


def _document(
    row: Row, members: Mapping[str, object], request_id: str, headers: Mapping[str, str]
) -> web.Response:
    return web.Response(
        status=row.status,
        body=_encoded(row, members, request_id),
        headers={"Content-Type": CONTENT_TYPE, **headers},
    )


def _encoded(row: Row, members: Mapping[str, object], request_id: str) -> bytes:
    return orjson.dumps(
        {
            "type": row.type,
            "title": row.title or HTTPStatus(row.status).phrase,
            "status": row.status,
            "detail": row.detail,
            **members,
            "request_id": request_id,
        }
    )


def _allow(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}


def _rate_limit_headers(error: RateLimited) -> dict[str, str]:
    """Return the headers of draft-ietf-httpapi-ratelimit-headers, text of May 2026."""
    seconds = error.retry_after_seconds
    return {
        "Retry-After": str(seconds),
        "RateLimit": f'"{error.policy}";r=0;t={seconds}',
        "RateLimit-Policy": f'"{error.policy}";q={error.quota};w={error.window_seconds}',
    }
