"""What a probe met on its way when no daemon of ours answered: no such name, a closed port, a bad
certificate, nginx without the location or without anybody behind it, somebody else's page.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.findings import Finding, wrong
from berinia_webhookd.tools.doctor.probe import Failure, Reply

_SAY: Final = "nginx"
RELOAD: Final = "nginx -t && systemctl reload nginx"
_NONE_GETS_IN: Final = "no callback gets in from outside"


def unreachable(public_url: str, channels: Iterable[Channel], reply: Reply) -> Finding:
    """There was no answer at all."""
    retries = (one.provider.retries for one in channels if one.provider.from_outside)
    mend = _remedies(public_url, reply.failure)
    lost = "; ".join((_NONE_GETS_IN, *dict.fromkeys(retries)))
    return wrong(_SAY, f"{public_url} cannot be reached: {reply.detail}", *mend, why=lost)


def _remedies(public_url: str, failure: Failure | None) -> tuple[str, ...]:
    match failure:
        case Failure.NAME:
            return ("correct server.public_url, or the name's DNS entry",)
        case Failure.CERTIFICATE:
            return (
                "renew the certificate and reload nginx: certbot renew && systemctl reload nginx",
                f"see what is wrong with it: curl -v {public_url}/",
            )
        case Failure.CONNECTION:
            return (
                "systemctl status nginx",
                "see who listens: ss -ltnp 'sport = :443 or sport = :80'; then the firewall",
            )
        case _:
            elsewhere = "if this works elsewhere, this machine cannot reach its own public address"
            return (f"curl -v {public_url}/", f"{elsewhere}: name it in /etc/hosts")


def intercepted(shown: str, address: str, channel: Channel, reply: Reply) -> Finding:
    """Something before the daemon answered."""
    status, path = reply.status, channel.path
    lost = f"{_NONE_GETS_IN}; {channel.provider.retries}"
    include = "in the server block: include /etc/nginx/berinia-webhook.conf; (contrib/nginx)"
    if status in range(300, 400):
        return wrong(
            _SAY,
            f"{shown}: is redirected to {reply.location or 'elsewhere'} ({status})",
            "enter the URL that is not redirected in the provider's console and as "
            "server.public_url; or take the redirection off this location",
            why=channel.provider.if_redirected,
        )
    if status in (404, 405):
        return wrong(
            _SAY, f"{shown}: nginx has no location for {path} ({status})", include, RELOAD, why=lost
        )
    if status in (502, 504):
        return wrong(
            _SAY,
            f"{shown}: nginx does not reach the daemon ({status})",
            f"in nginx: `proxy_pass http://{address};`",
            RELOAD,
            why=lost,
        )
    if status == 413:  # noqa: PLR2004 - HTTP
        return wrong(
            _SAY,
            f"{shown}: is too large for nginx (413)",
            f"in nginx, in `location = {path}`: "
            f"`client_max_body_size {channel.max_body_bytes // 1024**2}m;`",
            RELOAD,
            why="larger messages are lost before the daemon sees them",
        )
    if status in (401, 403):
        return wrong(
            _SAY,
            f"{shown}: is refused before it reaches the daemon ({status})",
            "take allow, deny, auth_basic, and firewall rules for web applications off this "
            "location: the daemon proves who is calling",
            RELOAD,
            why=lost,
        )
    who = f", it says that it is {reply.server}" if reply.server else ""
    return wrong(
        _SAY,
        f"{shown}: something else than this daemon answers ({status}{who})",
        f"in nginx: `location = {path} {{ proxy_pass http://{address}; … }}`",
        include,
        why=lost,
    )
