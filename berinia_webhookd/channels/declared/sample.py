"""Makes a signed sample delivery from the blocks that read it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode

from berinia_webhookd import json_text
from berinia_webhookd.channels.contract import SignedRequest, sample_mail, sample_phone
from berinia_webhookd.channels.declared.events import Block
from berinia_webhookd.channels.declared.fields import Field
from berinia_webhookd.channels.declared.proof import Proof
from berinia_webhookd.channels.declared.request import Request
from berinia_webhookd.channels.declared.settings import DeclaredSettings
from berinia_webhookd.model import Caller, EventKind, RawDelivery

_NOBODY: Final = Caller(None, None, "https", "", forwarded=False, peer_trusted=False)
NAMED = ("sender", "recipient", "thread", "text", "subject", "status", "message")


def sample_of(settings: DeclaredSettings, fields: Mapping[str, str], now: datetime) -> Any:
    """Return a body that the first message block reads; `fields` are names of that block, or paths
    in its item.
    """
    block = _block(settings)
    document = _nested(_filled(block, fields, now), block.items)
    for name in settings.signed.names if settings.signed else ():
        if name.startswith("json:"):
            value = str(int(now.timestamp())) if name == settings.time else secrets.token_hex(25)
            document = with_value(document, name.removeprefix("json:"), value)
    return document


def signed_sample(
    settings: DeclaredSettings,
    proof: Proof,
    fields: Mapping[str, str],
    *,
    secret: bytes,
    base_url: str,
    now: datetime,
) -> SignedRequest:
    """Return a sample as the provider would send it, signed with a secret."""
    document = sample_of(settings, fields, now)
    parameter = settings.secret_parameter
    query = {} if parameter is None else {parameter: secret.decode("utf-8", "replace")}
    headers, body = {}, b""
    if settings.body == "query":
        query |= document
    else:
        headers["Content-Type"] = settings.media_type
        form = settings.body == "form"
        body = urlencode(document).encode() if form else json_text.encode(document)
    for name in settings.signed.names if settings.signed else ():
        if name.startswith("header:"):  # such as a nonce
            headers[name.removeprefix("header:")] = secrets.token_hex(16)
    if settings.body_hash_query is not None:
        query[settings.body_hash_query] = hashlib.sha256(body).hexdigest()
    target = f"{settings.path}?{urlencode(query)}" if query else settings.path
    kind, method = headers.get("Content-Type", ""), settings.methods[0]
    made = RawDelivery(settings.name, _NOBODY, target, headers, kind, kind, body, now, method)
    presented = proof.sign(Request(made, (base_url,)), secret, now)
    source, _, path = (settings.signature.source if settings.signature else "").partition(":")
    if source == "json":
        body = json_text.encode(with_value(document, path, presented.pop(path)))
    return SignedRequest(target, {**headers, **presented}, body)


def names_of(settings: DeclaredSettings) -> frozenset[str]:
    """Return the names that can be set on a sample besides its fields."""
    if not settings.event:
        return frozenset()  # an invalid configuration
    block = _block(settings)
    return frozenset(name for name in NAMED if getattr(block, name) is not None)


def _block(settings: DeclaredSettings) -> Block:
    blocks = settings.event
    return next((one for one in blocks if one.kind is EventKind.MESSAGE), blocks[0])


def _filled(block: Block, fields: Mapping[str, str], now: datetime) -> list[Any]:
    """Return an item and its parents, with all values that the block reads."""
    values = _values(block, now) | {name: fields[name] for name in NAMED if name in fields}
    levels: list[Any] = [{} for _ in range(len(block.items) + 1)]
    for condition in block.where:
        if condition.values:
            _put(levels, condition.field, condition.values[0])
    for number, field in enumerate(block.id):
        _put(levels, field, f"sample-{number}-{secrets.token_hex(8)}", keep=True)
    for field in block.required:
        _put(levels, field, "sample", keep=True)
    for name, value in values.items():
        field = getattr(block, name)
        if field is not None:
            _put(levels, field, value, keep=name not in fields)
    for condition in block.where:
        _put(levels, condition.field, "sample", keep=True)
    for path in fields.keys() - set(NAMED):
        _put(levels, Field((path,)), fields[path])
    return levels


def with_value(document: Any, path: str, value: str) -> Any:
    """Set a value of a body."""
    _put([document], Field((path,)), value)
    return document


def _values(block: Block, now: datetime) -> dict[str, Any]:
    by_mail = block.address == "email"
    sender = sample_mail() if by_mail else sample_phone()
    recipient = "contact@example.com" if by_mail else "+33639980000"
    instant: dict[str, Any] = {
        "s": int(now.timestamp()),
        "ms": int(now.timestamp() * 1000),
        "iso": now.isoformat(),
    }
    return {
        "sender": sender,
        "recipient": recipient,
        "thread": "sample-thread",
        "text": "Bonjour, je suis intéressé.",
        "subject": "Votre proposition",
        "time": str(instant[block.time_unit]),
        "status": (block.rank or ("delivered",))[0],
        "message": f"sample-{secrets.token_hex(8)}",
    }


def _put(levels: list[Any], field: Field, value: Any, *, keep: bool = False) -> None:
    """Set the first path of a field that is in the body."""
    source = next((one for one in field.sources if ":" not in one and one[:1] != "="), None)
    if source is None:
        return
    path = source.lstrip("^")
    node = levels[-1 - (len(source) - len(path))]
    steps = path.split(".")
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if following is None:
            _set(node, step, value, keep=keep)
            return
        node = _inside(node, step, [] if following.isdecimal() else {})


def _inside(node: Any, step: str, empty: Any) -> Any:
    _set(node, step, empty, keep=True)
    return node[int(step)] if isinstance(node, list) else node[step]


def _set(node: Any, step: str, value: Any, *, keep: bool) -> None:
    if isinstance(node, list):
        while len(node) <= int(step):
            node.append(None)
        if not keep or node[int(step)] is None:
            node[int(step)] = value
    elif isinstance(node, dict) and not (keep and step in node):
        node[step] = value


def _nested(levels: list[Any], steps: Sequence[str]) -> Any:
    for number in range(len(steps), 0, -1):
        inner, step = levels[number], steps[number - 1]
        if not step:
            levels[number - 1] = [inner]
            continue
        _put(levels[:number], Field((step,)), [inner])
    return levels[0]
