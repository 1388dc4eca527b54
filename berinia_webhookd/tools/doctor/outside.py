"""Whether what is meant for this machine alone is closed to the outside: bot and logs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from berinia_webhookd.channels.contract import Channel, SignedRequest
from berinia_webhookd.findings import Finding, note, ok, wrong
from berinia_webhookd.tools.doctor.probe import Reply, Sender
from berinia_webhookd.tools.doctor.signatures import enabled, probe
from berinia_webhookd.tools.doctor.subject import Subject
from berinia_webhookd.tools.posting import Target

_SAY: Final = "outside"
LOGS_PATH: Final = "/webhook/logs"
_NO_ENTRY: Final = "in nginx: `location = {path} {{ return 404; }}`"


async def closed(subject: Subject) -> AsyncIterator[Finding]:
    """Through every public URL, as a stranger."""
    if subject.running is None:
        return
    for url in subject.settings.server.public_url:
        sender = Sender(Target.from_text(url))
        # Nothing is posted there: a daemon says so with 405, and what is before it otherwise.
        logs = await sender.post(SignedRequest(LOGS_PATH, {}, b""))
        if logs.failure is not None:
            continue  # the check of nginx says so
        yield _of_logs(url + LOGS_PATH, logs)
        for channel in enabled(subject, url).values():
            if not channel.provider.from_outside:
                reply = await sender.post(_stranger(channel, url))
                yield _of_local(url + channel.path, channel, reply)


def _stranger(channel: Channel, url: str) -> SignedRequest:
    """Without the bearer token, which a stranger lacks and which is nobody's business out there."""
    request = probe(channel, url, valid=True)
    headers = {name: text for name, text in request.headers.items() if name != "Authorization"}
    return SignedRequest(request.path, headers, request.body)


def _of_local(shown: str, channel: Channel, reply: Reply) -> Finding:
    if reply.seen is not None and not reply.seen.forwarded:
        return wrong(
            _SAY,
            f"{shown}: whoever calls this from outside counts as {channel.provider.name}",
            _NO_ENTRY.format(path=channel.path),
            "nginx -t && systemctl reload nginx",
            why="the proxy hides where requests come from, so strangers can command the agents",
        )
    if reply.seen is not None:
        return note(_SAY, f"{shown}: is open, and {reply.seen.client} may call it")
    if reply.of_daemon:
        return note(
            _SAY,
            f"{shown}: is open to the outside; the daemon refuses all but the listed addresses",
            _NO_ENTRY.format(path=channel.path),
            why=f"needed only if {channel.provider.name} runs on another machine",
        )
    return ok(_SAY, f"{shown}: is closed to the outside")


def _of_logs(shown: str, reply: Reply) -> Finding:
    if reply.of_daemon:
        return note(
            _SAY,
            f"{shown}: is open to the outside; the daemon asks for the password",
            _NO_ENTRY.format(path=LOGS_PATH),
            why="the logs say what happened to whom",
        )
    return ok(_SAY, f"{shown}: is closed to the outside")
