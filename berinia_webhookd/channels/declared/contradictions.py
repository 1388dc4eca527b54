"""Checks the settings of a declared channel for missing keys, contradictions, and proofs that cover
less than they seem to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from berinia_webhookd.channels.declared.proof import Proof
    from berinia_webhookd.channels.declared.settings import DeclaredSettings

SCHEMES: Final = (
    *("hmac-sha1", "hmac-sha256", "hmac-sha512", "standard-webhooks", "ed25519", "ecdsa-p256"),
    *("jwt", "basic", "token", "address"),
)
_TEMPLATED: Final = frozenset(SCHEMES[:3]) | {"ed25519", "ecdsa-p256"}
_UNDATED: Final = frozenset({"basic", "token", "address"})


def contradictions(channel: DeclaredSettings) -> Iterator[tuple[str, str, str]]:
    """Yield for each finding the setting, the problem, and the fix."""
    if channel.verify is None:
        yield "verify", "is not set", f"give one of {', '.join(SCHEMES)}, or a preset"
        return
    if not channel.event:
        yield "event", "is not set", f"[[channels.{channel.name}.event]] says what an event is"
    if channel.verify in _TEMPLATED:
        yield from _of_templates(channel)
    if channel.verify == "token" and channel.token is None:
        yield "token", "is not set", 'token = "header:X-Token" or "query:k"'
    if channel.verify == "address" and not channel.allowed_ips:
        yield "allowed_ips", "is not set, and nothing else proves who calls", "list the addresses"
    yield from _of_tokens(channel)
    if channel.body == "query" and "POST" in channel.methods:
        yield "methods", 'has POST, and body = "query" reads no body', 'methods = ["GET"]'
    yield from _of_questions(channel)


def _of_tokens(channel: DeclaredSettings) -> Iterator[tuple[str, str, str]]:
    if channel.verify == "jwt" and not channel.covers and not channel.body_unsigned:
        claim, what = ("url", "URL") if channel.body == "query" else ("body", "body")
        yield (
            f"jwt_{claim}_claim",
            f"is not set, so the token vouches for any {what}",
            f"name the claim with the {what}'s SHA-256, or body_unsigned = true",
        )
    if channel.verify == "standard-webhooks" and not channel.covers:
        yield "body", "is the query, which this scheme does not cover", 'body = "json" or "form"'
    if channel.tolerance_seconds is not None and channel.verify in _UNDATED:
        yield (
            "tolerance_seconds",
            f"is set, and {channel.verify} proves no time",
            "remove tolerance_seconds",
        )


def _of_questions(channel: DeclaredSettings) -> Iterator[tuple[str, str, str]]:
    if channel.signs_questions and (channel.body != "json" or not channel.covers):
        yield (
            "handshake",
            "answers anybody with a MAC that could be the signature of a delivery",
            "give handshake_secrets that are not the secrets",
        )
    if channel.handshake and channel.handshake.check and not channel.handshake_secrets:
        yield "handshake_secrets", "is not set, and handshake.check needs it", "set it to the token"


def _of_templates(channel: DeclaredSettings) -> Iterator[tuple[str, str, str]]:
    signature, signed = channel.signature, channel.signed
    if signature is None:
        yield "signature", "is not set", 'signature = "X-Signature: sha256={hex}"'
    if signed is None:
        yield "signed", "is not set", 'signed = "{body}"'
    if signature is None or signed is None:
        return
    if not channel.covers and not channel.body_unsigned:
        query = channel.body == "query" or channel.body_hash_query is not None
        yield (
            "signed",
            "does not cover what is read, so whoever sees one signature can send any text",
            f"use {{{'url' if query else 'body'}}} in it, or write body_unsigned = true",
        )
    has_time = channel.time is not None or signature.has_time
    if "time" in signed.names and not has_time:
        yield "time", "is not set, and {time} stands in signed", 'time = "X-Timestamp"'
    source = (channel.time or "").removeprefix("header:")
    named = {source, f"header:{source}"} & set(signed.names)
    if source.startswith("json:"):
        named |= {"body", "body.sha256"} & set(signed.names)
    if channel.tolerance_seconds is not None and "time" not in signed.names and not named:
        yield (
            "tolerance_seconds",
            "is set, and the signature covers no time, so anybody can change it",
            "use {time} in signed, or remove tolerance_seconds",
        )


def of_asking(channel: DeclaredSettings, proof: Proof) -> Iterator[tuple[str, str, str]]:
    """Yield what is wrong with how the provider is asked, as `contradictions` does."""
    asked, secret = channel.reconcile, channel.reconcile_secret
    if asked is None:
        for field in ("reconcile_secret", "reconcile_values"):
            if getattr(channel, field):
                fix = f"say there how the provider is asked, or leave {field} out"
                yield "reconcile", f"is not set, and {field} is", fix
        return
    for number, block in enumerate(channel.event, 1):
        if not block.is_recognised(proof):
            yield (
                "event",
                f"block {number} has no id that is proven, so what is asked for could double",
                "give it an id that is in the list as well, or leave reconcile out",
            )
    if secret is not None and asked.auth is None:
        key = f"channels.{channel.name}.reconcile.auth"
        fix = f'{key} = "basic" for user:password, or "Authorization: Bearer {{secret}}" for a key'
        yield "reconcile_secret", "is set, and reconcile.auth is not", fix
    if (
        secret is not None
        and asked.auth is not None
        and (what := asked.auth.amiss(secret.reveal()))
    ):
        yield "reconcile_secret", what, f"it is for auth = {str(asked.auth)!r}"
    for name in sorted(channel.reconcile_values.keys() - asked.url.names):
        yield "reconcile_values", f"has {name}, which is not in reconcile.url", f"remove {name}"
    for name in asked.nested if channel.body != "json" else ():
        yield "reconcile", f"body has {name}, and a form has no parts of parts", "give plain names"
