"""Every error that this program raises on purpose. It imports only findings, so that every stage
can use it.

Two families: errors for the operator (`WebhookdError` with a hint, ending in an exit code) and
errors for a stranger (`DeliveryRejected`, ending in a problem document). The table from the second
family to status codes is in `accept/problems.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from berinia_webhookd.findings import Finding

LONGEST_SHOWN_VALUE: Final = 200


class WebhookdError(Exception):
    """The base of all our errors; `hint` says how to fix it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class NotFound(WebhookdError):
    """What was asked for does not exist."""


class CannotSign(WebhookdError):
    """A sample cannot be signed: only its provider has the key."""


class CannotStart(WebhookdError):
    """The daemon cannot start, and will not by itself: configuration, credentials, newer schema."""

    exit_code = 3


class NotPermitted(CannotStart):
    """This user may not read what it needs, so what is missing or wrong there is not known."""

    def __init__(self, path: object, *, hint: str | None = None) -> None:
        super().__init__(
            f"this user may not read {path}, so nothing was looked at",
            hint=hint or "give the command with sudo, or as the user of the service",
        )


class CannotStartNow(WebhookdError):
    """The daemon cannot start now, but may later: port taken, journal held by another process."""

    exit_code = 4


class ConfigurationError(CannotStart):
    """Carries every finding, so that one run shows all of them."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        first = findings[0]
        more = f" (and {len(findings) - 1} more: see `check-config`)" if findings[1:] else ""
        super().__init__(f"{first.subject}: {first.what}{more}", hint="; ".join(first.fix) or None)
        self.findings = findings


class JournalUnavailable(WebhookdError):
    """The journal cannot be reached, is full, or did not commit in time."""


class JournalWriterEnded(WebhookdError):
    """A bug ended the journal's writer: the process ends, to be restarted."""


class SchemaTooNew(CannotStart):
    """The journal was upgraded by a newer program that excludes this one."""


class DeliveryRejected(WebhookdError):
    """A request that is refused; the message is shown to the caller."""


class MalformedDelivery(DeliveryRejected):
    """The body cannot be read, or fields are missing or ill-formed.

    The text has names only; `values` is what ill-formed fields held, for the operator alone.
    """

    def __init__(
        self,
        message: str,
        *,
        missing: tuple[str, ...] = (),
        invalid: tuple[str, ...] = (),
        values: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.missing = missing
        self.invalid = invalid
        found = values or {}
        self.values = {
            name: str(found[name])[:LONGEST_SHOWN_VALUE] for name in invalid if name in found
        }

    @property
    def in_full(self) -> str:
        """The message with the names, in one line."""
        kinds = {"missing": self.missing, "invalid": self.invalid}
        named = [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
        return f"{self} ({'; '.join(named)})" if named else str(self)


class FieldsMoved(MalformedDelivery):
    """A verified form whose fields were joined or split: signed, but not sent like that."""


class SignatureInvalid(DeliveryRejected):
    """The signature is bad, missing, stale or replayed."""


class AccountRefused(DeliveryRejected):
    """A verified request of an account that is not one of `account_sids`."""


class AddressRefused(DeliveryRejected):
    """The client address is not allowed on this channel or endpoint."""


class LoopbackLocked(AddressRefused):
    """Loopback addresses prove nothing while the proxy does not pass on who calls."""

    def __init__(self) -> None:
        super().__init__(
            "A loopback address proves nothing while nginx does not say who calls. In nginx: "
            "`proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;`, reload it, then "
            "`berinia-webhookd doctor`; or set a secret on this channel."
        )


class Unauthorized(DeliveryRejected):
    """No or wrong password."""


class UnknownPath(DeliveryRejected):
    """There is nothing at this path."""


class MethodNotAllowed(DeliveryRejected):
    """The path exists, but not for this method."""

    def __init__(self, message: str, *, allowed: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allowed = allowed


class MediaTypeUnsupported(DeliveryRejected):
    """The content type is not one this channel reads."""


class BodyTooLarge(DeliveryRejected):
    """The body is over the channel's `max_body_bytes`."""


class BodyTooSlow(DeliveryRejected):
    """The body made no progress for `server.body_timeout_seconds`."""


class RateLimited(DeliveryRejected):
    """The caller's bucket is empty."""

    def __init__(
        self,
        message: str,
        *,
        retry_after_seconds: int,
        policy: str = "",
        quota: int = 0,
        window_seconds: int = 0,
    ) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.policy = policy
        self.quota = quota
        self.window_seconds = window_seconds


class ChannelNotConfigured(DeliveryRejected):
    """The channel or endpoint has no secret yet, so that nothing can be verified."""


class Overloaded(DeliveryRejected):
    """Too many connections or body bytes in flight, or the journal is slow, full or unreachable."""
