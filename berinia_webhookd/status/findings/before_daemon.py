"""What can stop a request before it reaches the daemon: DNS, a closed port, a bad certificate,
nginx without the location or upstream, another server. And whether nginx closes to the outside what
is only for this machine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import aiohttp

from berinia_webhookd.channels.contract import Channel, SignedRequest
from berinia_webhookd.findings import Finding, note, ok, wrong
from berinia_webhookd.own_requests import InstallationKey
from berinia_webhookd.status.findings.installation import Installation
from berinia_webhookd.status.findings.probe import Reply, Sender, describe, sign_probe

NGINX: Final = "nginx"
OUTSIDE: Final = "outside"
RELOAD: Final = "nginx -t && systemctl reload nginx"
LOGS_PATH: Final = "/webhook/logs"
_NONE_GETS_IN: Final = "no callback arrives from outside"
_NO_ENTRY: Final = "in nginx: `location = {path} {{ return 404; }}`"


def unreachable(installation: Installation, public_url: str, error: Exception) -> Finding:
    """Return the finding on a public URL without an answer."""
    retries = (one.retries for one in installation.providers if one.from_outside)
    why = "; ".join((_NONE_GETS_IN, *retries))
    return wrong(
        NGINX,
        f"{public_url} cannot be reached: {describe(error)}",
        *_fixes(public_url, error),
        why=why,
    )


def _fixes(public_url: str, error: Exception) -> tuple[str, ...]:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return ("correct `server.public_url`, or the DNS entry of the name",)
        case aiohttp.ClientSSLError():
            return (
                "renew the certificate: `certbot renew && systemctl reload nginx`",
                f"see what is wrong with it: `curl -v {public_url}/`",
            )
        case aiohttp.ClientConnectorError():
            return (
                "systemctl status nginx",
                "see who listens: `ss -ltnp 'sport = :443 or sport = :80'`; then the firewall",
            )
        case _:
            return (
                f"curl -v {public_url}/",
                "if that works elsewhere only, add the name to `/etc/hosts` of this machine",
            )


def intercepted(shown: str, address: str, channel: Channel, reply: Reply) -> Finding:
    """Return the finding on an answer that is not the daemon's."""
    provider = channel.provider
    location = f"in nginx: `location = {channel.path} {{ proxy_pass http://{address}; … }}`"
    include = "in the server block: `include /etc/nginx/berinia-webhook.conf;` (contrib/nginx)"
    why = f"{_NONE_GETS_IN}; {provider.retries}"
    status = reply.status
    match status:
        case 301 | 302 | 303 | 307 | 308:
            what = f"is redirected to {reply.location or 'another URL'}"
            fixes: tuple[str, ...] = (
                f"enter the other URL at {provider.name} and as `server.public_url`",
                "or remove the redirect from this location",
            )
            why = provider.if_redirected
        case 404 | 405:
            what = f"nginx has no location for {channel.path}"
            fixes = (include, RELOAD)
        case 502 | 504:
            what = "nginx does not reach the daemon"
            fixes = (f"in nginx: `proxy_pass http://{address};`", RELOAD)
        case 413:
            what = "the request is too large for nginx"
            size = f"{channel.max_body_bytes // 1024**2}m"
            fixes = (
                f"in nginx, in `location = {channel.path}`: `client_max_body_size {size};`",
                RELOAD,
            )
            why = "larger messages are lost before the daemon sees them"
        case 401 | 403:
            what = "is refused before it reaches the daemon, which itself verifies who calls"
            fixes = (
                "remove allow, deny, auth_basic and firewall rules from this location",
                RELOAD,
            )
        case _:
            server = f" by {reply.server}" if reply.server else ""
            return wrong(
                NGINX,
                f"{shown}: is answered{server}, not by this daemon ({status})",
                location,
                include,
                why=why,
            )
    return wrong(NGINX, f"{shown}: {what} ({status})", *fixes, why=why)


# ---- outside: what is only for this machine


async def outside(installation: Installation) -> AsyncIterator[Finding]:
    """Check that the bot's path and the logs are closed at every public URL."""
    if installation.process is None:
        return
    for url in installation.settings.server.public_url:
        sender = Sender(url)
        # POST is not allowed there: the daemon answers 405, anything before it something else.
        logs = await sender.post(SignedRequest(LOGS_PATH, {}, b""))
        if logs.error is not None:
            continue  # the check of nginx says so
        yield _of_logs(url + LOGS_PATH, logs)
        for channel in installation.channels_for((url,)).values():
            if not channel.provider.from_outside and installation.key is not None:
                reply = await sender.post(_stranger(channel, url, installation.key))
                yield _of_local(url + channel.path, channel, reply)


def _stranger(channel: Channel, url: str, key: InstallationKey) -> SignedRequest:
    """Return a probe without the bearer token, which must not leave this machine."""
    request = sign_probe(channel, url, key)
    headers = {name: text for name, text in request.headers.items() if name != "Authorization"}
    return SignedRequest(request.path, headers, request.body)


def _of_local(shown: str, channel: Channel, reply: Reply) -> Finding:
    provider = channel.provider.name
    close = _NO_ENTRY.format(path=channel.path)
    if reply.seen is not None and not reply.seen.forwarded:
        return wrong(
            OUTSIDE,
            f"{shown}: requests from outside are taken for those of {provider}",
            close,
            RELOAD,
            why="the proxy hides where requests come from, so strangers can command the agents",
        )
    if reply.seen is not None:
        return note(OUTSIDE, f"{shown}: is open to the outside; {reply.seen.client} may call it")
    if reply.of_daemon:
        return note(
            OUTSIDE,
            f"{shown}: is open to the outside; the daemon refuses all but the allowed addresses",
            close,
            why=f"needed only if {provider} runs on another machine",
        )
    return ok(OUTSIDE, f"{shown}: is closed to the outside")


def _of_logs(shown: str, reply: Reply) -> Finding:
    if reply.of_daemon:
        return note(
            OUTSIDE,
            f"{shown}: is open to the outside; the daemon asks for the password",
            _NO_ENTRY.format(path=LOGS_PATH),
            why="the logs say what happened to whom",
        )
    return ok(OUTSIDE, f"{shown}: is closed to the outside")
